"""The C++ extension's kernels: fp32, fp64 and bf16 activations, dense in channels_last, on the CPU.

They are deterministic: the order of summation depends on the shape alone.
"""

from __future__ import annotations

from typing import Any

import torch

from ... import _extension
from ..signatures import ACTIVATIONS

_CHANNELS_LAST = torch.channels_last
_DTYPES = frozenset((torch.float32, torch.float64, torch.bfloat16))
_VECTOR_DTYPES = frozenset((torch.float32, torch.float64))

_PASSES = (
    *("bn_stats", "bn_act", "bn_add_act", "bn_act_bwd_reduce", "bn_act_bwd_apply"),
    *("bn_act_maxpool", "bn_act_maxpool_bwd_reduce"),
)
_ACTIVATIONS = {op: ACTIVATIONS[op] for op in _PASSES}
# Which of them gives a pooling op's result its layout.
_POOLED = {"bn_act_maxpool": 0, "bn_act_maxpool_bwd_reduce": 2}
_VECTOR_OPS = ("bn_finalize", "bn_update_running", "bn_bwd_finalize")


def _missing(*args: Any) -> Any:
    raise RuntimeError(_extension.why_missing())


_module = _extension.load()
OPS = {name: getattr(_module, name, _missing) for name in (*_ACTIVATIONS, *_VECTOR_OPS)}


def unavailable() -> str | None:
    """Why this backend cannot run in this process, or None."""
    return _extension.why_missing()


def refuses(op: str, args: tuple) -> str | None:
    """Why this backend cannot run `op` on `args`, or None. It runs before every op, so it looks at little."""
    if _module is None:
        _extension.warn_missing()
        return _extension.why_missing()
    first = args[0]
    if not first.is_cpu:
        return f"device {first.device}"
    positions = _ACTIVATIONS.get(op)
    if positions is None:
        return _refuses_vectors(op, args)
    if first.dtype not in _DTYPES:
        return f"dtype {first.dtype}"
    if first.numel() == 0:
        return "no elements"
    pooled = _POOLED.get(op)
    for position in positions:
        t = args[position]
        if t is None:
            continue
        if t.dtype != first.dtype and t.dtype != torch.uint8:
            return f"argument {position} has dtype {t.dtype} beside {first.dtype}"
        if not t.is_contiguous(memory_format=_CHANNELS_LAST):
            return f"argument {position} is not dense in channels_last"
        if t.is_contiguous() and (position == pooled if pooled is not None else not _default_strides(t)):
            return f"the layout of argument {position} is ambiguous"
    return None


def _default_strides(t: torch.Tensor) -> bool:
    """Whether a tensor that is dense in both layouts has the strides that ATen falls back to.

    With one channel or one pixel, how ATen lays out a result depends on the strides of dimensions of size 1.
    These kernels keep the argument's strides, which comes to the same only here.
    """
    _, c, h, w = t.shape
    return t.stride() == (c * h * w, h * w, w, 1)


def _refuses_vectors(op: str, args: tuple) -> str | None:
    dtype = args[0].dtype
    if dtype not in _VECTOR_DTYPES:
        return f"dtype {dtype}"
    if op == "bn_update_running":
        for t in args[:4]:
            if t.dtype != dtype or not t.is_contiguous():
                return "running statistics in a dtype of their own, or not contiguous"
    return None
