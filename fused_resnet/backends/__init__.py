"""Who runs an op: one place that maps (op, device, dtype, layout) to a backend.

A backend has ``OPS`` (name -> function) and ``refuses(op, args)``, which gives the reason why it cannot take
these arguments, or None. Per device the backends are asked in order of preference: kernels of our own, the
library's convolutions, and the reference, which takes what nobody else wants. On CUDA devices those come
first that were measured to be faster: for the ops of a convolution what the planner found (`engines`), for
the others the faster one of our own (`faster`). On the CPU the library's come first where the planner found
so. `explain` shows who took what.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch

from . import cpu, cuda, engines, faster, reference, triton
from .library import Library


class Backend(Protocol):
    """What a backend gives.

    One that may be absent also has ``unavailable() -> str | None``; one with convolutions of its own also has
    ``unsuited(device, dtype, kernel) -> str | None``, which says why it has none of such activations with a
    kernel of this size.
    """

    OPS: dict[str, Callable]

    def refuses(self, op: str, args: tuple) -> str | None: ...


PREFERENCE: dict[str, tuple[str, ...]] = {"cpu": ("cpu",), "cuda": engines.OWN}
FALLBACK = ("library", "reference")

# Process-wide, not per thread: autograd runs backward in threads of its own.
_forced: list[str] = []
_observers: list[Callable[[str, str], None]] = []


def select(op: str, args: tuple) -> tuple[str, Callable]:
    """The name of the backend that takes `op` on `args`, and its function. It runs before every op."""
    for name in _in_order(op, args):
        backend = BACKENDS[name]
        function = backend.OPS.get(op)
        if function is not None and backend.refuses(op, args) is None:
            for observer in _observers:
                observer(op, name)
            return name, function
    raise RuntimeError(f"no backend takes {op}")  # unreachable: the reference takes everything


def goes_to(name: str, op: str, args: tuple) -> bool:
    """Whether backend `name` is the one that `op` on these CPU tensors goes to."""
    return _candidates("cpu")[0] == name and _takes(name, op, args)


def _takes(name: str, op: str, args: tuple) -> bool:
    backend = BACKENDS[name]
    return op in backend.OPS and backend.refuses(op, args) is None


def _in_order(op: str, args: tuple) -> tuple[str, ...]:
    """Backends for `op`, best first."""
    first = args[0]
    if _forced or not first.is_cuda:
        if not _forced and first.is_cpu and engines.contested(first.dtype):
            return _contested(op, args)
        return _candidates("cpu" if first.is_cpu else first.device.type)
    best = engines.engine_of_call(op, args) or faster.backend(op, args, _own_takers, _run)
    if best == engines.LIBRARY or best is None:
        return FALLBACK
    return (best, *(name for name in engines.OWN if name != best), *FALLBACK)


def _contested(op: str, args: tuple) -> tuple[str, ...]:
    engine = engines.engine_of_call(op, args, PREFERENCE[engines.CPU])
    return FALLBACK if engine == engines.LIBRARY else _candidates(engines.CPU)


def _own_takers(op: str, args: tuple) -> tuple[str, ...]:
    return tuple(name for name in engines.OWN if _takes(name, op, args))


def _run(name: str, op: str, args: Sequence[Any]) -> Any:
    return BACKENDS[name].OPS[op](*args)


def _candidates(device_type: str) -> tuple[str, ...]:
    return _ordered(_forced[-1] if _forced else None, device_type)


@functools.cache
def _ordered(forced: str | None, device_type: str) -> tuple[str, ...]:
    if forced is None:
        return (*PREFERENCE.get(device_type, ()), *FALLBACK)
    return (forced,) if forced == "reference" else (forced, *FALLBACK)


BACKENDS: dict[str, Backend] = {
    "cpu": cpu,
    "triton": triton,
    "cuda": cuda,
    "library": Library(select),
    "reference": reference,
}


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every op inside the block on one backend; what it lacks goes to the library and the reference.

    The choice holds for the whole process (autograd's backward threads included) until the block ends.

    Args:
        name: ``"reference"`` (pure ATen, any device, nothing else), ``"cpu"`` (the C++ extension),
            ``"triton"`` or ``"cuda"`` (GPU kernels, convolutions included; the latter in C++, part of the
            extension) or ``"library"`` (no kernels of our own).

    Raises:
        ValueError: unknown name.
        RuntimeError: the backend cannot run here; the message says why.
    """
    if name not in BACKENDS:
        raise ValueError(f"name: expected one of {sorted(BACKENDS)}, got {name!r}")
    if why := unavailable(name):
        raise RuntimeError(f"backend {name!r} is unavailable: {why}")
    _forced.append(name)
    try:
        yield
    finally:
        _forced.pop()


def unavailable(name: str) -> str | None:
    """Why backend `name` cannot run in this process, or None."""
    return getattr(BACKENDS[name], "unavailable", lambda: None)()


def laid_out(name: str, op: str, result: Any) -> Any:
    """The reference's result with the strides that backend `name` gives, where these are not the same."""
    own = getattr(BACKENDS[name], "laid_out", None)
    return result if own is None else own(op, result)


@contextlib.contextmanager
def observe(callback: Callable[[str, str], None]) -> Iterator[None]:
    """Call ``callback(op, backend)`` for every op that runs inside the block."""
    _observers.append(callback)
    try:
        yield
    finally:
        _observers.remove(callback)


def settled(dtype: torch.dtype) -> bool:
    """Does an op on CPU tensors of `dtype` go where it went before, and does nobody ask where?"""
    return not (_forced or _observers or engines.contested(dtype))


def forced() -> bool:
    """Whether `use_backend` leaves no choice right now."""
    return bool(_forced)


def convolution_engines(
    device: torch.device, dtype: torch.dtype, nhwc: bool, kernel: Sequence[int]
) -> tuple[str, ...]:
    """The backends whose own convolutions take such activations, best first by preference.

    Args: nhwc: are they dense in channels_last, and in that layout only? kernel: its height and width.
    """
    if not nhwc:
        return ()
    return tuple([name for name in _candidates(device.type) if _convolves(name, device, dtype, kernel)])


def _convolves(name: str, *activations: Any) -> bool:
    unsuited = getattr(BACKENDS[name], "unsuited", None)
    return unsuited is not None and unsuited(*activations) is None
