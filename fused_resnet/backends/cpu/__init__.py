"""The C++ extension's kernels: fp32, fp64 and bf16 activations, dense in channels_last, on the CPU.

Convolutions are ungrouped and of fp32 or bf16 activations, with arithmetic in fp32; others are the library's.
Results are the same bit for bit from run to run at the same number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ... import _extension
from ..signatures import ACTIVATIONS, CPU_ACTIVATIONS, FOLDED

_CHANNELS_LAST = torch.channels_last
_DTYPES = frozenset((torch.float32, torch.float64, torch.bfloat16))
_VECTOR_DTYPES = frozenset((torch.float32, torch.float64))

_PASSES = (
    *("bn_stats", "bn_act", "bn_add_act", "bn_act_bwd_reduce", "bn_act_bwd_apply"),
    *("bn_act_maxpool", "bn_act_maxpool_bwd_reduce"),
)
_PRODUCT_DTYPES = frozenset((torch.float32, torch.bfloat16))
# Matrix products, and which of their arguments is the number of groups (of a block: of each convolution).
_PRODUCTS = {
    "conv_chain_fprop": 7,
    "conv_fprop": 8,
    "conv_fprop_stats": 7,
    "conv_fprop_dual": None,
    "conv_dgrad": 6,
    "conv_dgrad_reduce": 5,
    "conv_wgrad": 8,
    "conv_wgrad_masked": None,
    "gram": None,
    "folded_dgrad": None,
    "folded_dgrad_reduce": None,
}

_ACTIVATIONS = {op: (ACTIVATIONS | CPU_ACTIVATIONS)[op] for op in (*_PASSES, *_PRODUCTS)}
# Which of them gives a pooling op's result its layout.
_POOLED = {"bn_act_maxpool": 0, "bn_act_maxpool_bwd_reduce": 2}
_VECTOR_OPS = ("bn_finalize", "bn_update_running", "bn_bwd_finalize")


def _missing(*args: Any) -> Any:
    raise RuntimeError(_extension.why_missing())


_module: Any = _extension.load()
OPS = {name: getattr(_module, name, _missing) for name in (*_ACTIVATIONS, *_VECTOR_OPS, *FOLDED)}


def unavailable() -> str | None:
    """Why this backend cannot run in this process, or None."""
    return _extension.why_missing()


def unsuited(device: torch.device, dtype: torch.dtype, kernel: Sequence[int] = (1, 1)) -> str | None:
    """Why this backend has no convolution of this device, dtype and kernel (height and width), or None."""
    if why := unavailable():
        return why
    if device.type != "cpu":
        return f"device {device}"
    return _refuses_products(dtype)


def _refuses_products(dtype: torch.dtype) -> str | None:
    return None if dtype in _PRODUCT_DTYPES else f"products of dtype {dtype}"


def laid_out(op: str, result: Any) -> Any:
    """The reference's result, on fake tensors, as the products lay it out: always in channels_last."""
    if op not in _PRODUCTS:
        return result
    if isinstance(result, tuple):
        return tuple(_laid_out(t) for t in result)
    return _laid_out(result)


def _laid_out(t: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(t, memory_format=_CHANNELS_LAST) if t.dim() == 4 else t


def kept_cast(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`weight` in `dtype`, for inference: the same tensor as before while the weight stays as it is."""
    return _module.kept_cast(weight, dtype)


def empty_cache() -> None:
    """Give the memory that lies idle on the CPU back to the system.

    Memory of large activations goes from one tensor to the next without being given back in between: fresh
    memory costs page faults. At most 512 MiB lie idle, and never more than was in use at once. Where no more
    fused modules will run, this gives them back. Without the C++ extension there are none.
    """
    if _module is not None:
        _module.empty_pool()


def recording(inputs: tuple) -> Any:
    """A new recording of ops on these tensors: see csrc/cpu/replay.h."""
    return _module.Recording(inputs)


def snapshot(modules: tuple, names: tuple) -> Any:
    """What these modules look like: see csrc/cpu/snapshot.h."""
    return _module.Snapshot(modules, names)


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
    if op in _PRODUCTS:
        groups = _PRODUCTS[op]
        if why := _refuses_products(first.dtype):
            return why
        if groups is not None and _grouped(args[groups]):
            return f"groups={args[groups]}"
    elif first.dtype not in _DTYPES:
        return f"dtype {first.dtype}"
    if first.numel() == 0:
        return "no elements"
    return _module.refuses_activations(args, positions, _POOLED.get(op, -1), op not in _PRODUCTS)


def _grouped(groups: int | Sequence[int]) -> bool:
    return groups != 1 if isinstance(groups, int) else any([count != 1 for count in groups])


def _refuses_vectors(op: str, args: tuple) -> str | None:
    dtype = args[0].dtype
    if op in FOLDED:
        return _refuses_products(args[0].dtype)
    if dtype not in _VECTOR_DTYPES:
        return f"dtype {dtype}"
    if op == "bn_update_running":
        for t in args[:4]:
            if t.dtype != dtype or not t.is_contiguous():
                return "running statistics in a dtype of their own, or not contiguous"
    return None
