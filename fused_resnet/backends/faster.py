"""Which of our own backends runs an op that no library's convolution is part of: BN, pooling, Gram matrices.

Where two of them take the arguments, the first real call measures both. Known winners serve while a CUDA
graph is captured or torch.compile traces, too; where none is known the order of preference decides.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch

from . import gpu, tuning

# (policy, device, problem) -> the faster backend
measured: dict[Hashable, str] = {}


def backend(
    op: str,
    args: tuple,
    takers: Callable[[str, tuple], Sequence[str]],
    run: Callable[[str, str, Sequence[Any]], Any],
) -> str | None:
    """Who runs `op` on `args`; None where nobody takes it.

    Args: takers: the backends that take (op, args), best first by preference; run: what the first of
    (backend, op, args) does with the others.
    """
    problem = _problem(op, args)
    key = tuning.current_policy(), args[0].device, problem
    try:
        if found := measured.get(key):
            return found
    except TypeError:  # sizes that a graph leaves open have no hash
        return next(iter(takers(op, args)), None)
    candidates = tuple(takers(op, args))
    if len(candidates) < 2:
        return next(iter(candidates), None)
    winner = _winner(op, problem, args, candidates, run)
    if winner is None:
        return candidates[0]
    measured[key] = winner
    return winner


def _winner(op, problem, args, candidates, run) -> str | None:
    @functools.cache
    def operands() -> list[Any]:
        """Copies of what the op writes to, which it must not do more than once."""
        written = gpu.WRITTEN.get(op, ())
        return [a.clone() if i in written else a for i, a in enumerate(args)]

    tensors = [a for a in args if isinstance(a, torch.Tensor)]
    try:
        with gpu.current(args[0]):
            return tuning.winner(
                ("backend", *problem), candidates, lambda name: run(name, op, operands()), tensors
            )
    except torch.OutOfMemoryError:  # no room to measure beside what is there; another time, perhaps
        return None


def _problem(op: str, args: tuple) -> tuple:
    """What times depend on: sizes, dtype, which optional arguments are given, windows and strides."""
    found: list[Hashable] = [op, args[0].dtype]
    for a in args:
        if isinstance(a, torch.Tensor):
            found.append(a.shape)
        elif a is None:
            found.append(a)
        elif isinstance(a, list | tuple):
            found.append(tuple(a))
    return tuple(found)
