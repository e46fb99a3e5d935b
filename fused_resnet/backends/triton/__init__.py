"""Triton kernels: fp32, bf16 and fp16 activations, dense in channels_last, on NVIDIA GPUs from sm_80.

Triton is imported when the first kernel runs: the package works without it. Whatever device Triton's active
driver launches on will do, so that a driver that executes kernels on the CPU can stand in for a GPU.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch

LEAST_CAPABILITY = (8, 0)
_CHANNELS_LAST = torch.channels_last
_DTYPES = frozenset((torch.float32, torch.bfloat16, torch.float16))

# Module -> ops whose host functions it has.
_MODULES = {
    "norm": (
        *("bn_stats", "bn_finalize", "bn_update_running", "bn_act", "bn_add_act"),
        *("bn_act_bwd_reduce", "bn_bwd_finalize", "bn_act_bwd_apply"),
    ),
    "pool": ("bn_act_maxpool", "bn_act_maxpool_bwd_reduce"),
    "fprop": ("conv_fprop", "conv_fprop_stats"),
    "dgrad": ("conv_dgrad", "conv_dgrad_reduce"),
    "wgrad": ("conv_wgrad", "conv_wgrad_masked"),
    "gram": ("gram",),
    "folded": ("folded_dgrad", "folded_dgrad_reduce", "conv_fprop_dual"),
}
_WRITTEN = {"bn_update_running": (0, 1)}
# Which result is a weight's gradient, dense in the default layout.
_WEIGHT_GRADIENTS = {"conv_wgrad": 0, "conv_wgrad_masked": 2}
# Which arguments of an op are activations, and which vectors (or rows of vectors) of its channels.
_ACTIVATIONS = {
    "bn_stats": (0,),
    "bn_act": (0,),
    "bn_add_act": (0, 2),
    "bn_act_bwd_reduce": (0, 1, 3, 4),
    "bn_act_bwd_apply": (0, 1),
    "bn_act_maxpool": (0,),
    "bn_act_maxpool_bwd_reduce": (0, 1, 2),
    "conv_fprop": (0, 10),
    "conv_fprop_stats": (0,),
    "conv_fprop_dual": (0, 5),
    "conv_dgrad": (0, 7, 9),
    "conv_dgrad_reduce": (0, 6, 8),
    "conv_wgrad": (0, 1, 9),
    "conv_wgrad_masked": (0, 1, 2),
    "gram": (0,),
    "folded_dgrad": (0, 2, 8),
    "folded_dgrad_reduce": (0, 2),
}
_VECTORS = {
    "bn_finalize": (0, 1, 2, 3),
    "bn_update_running": (0, 1, 2, 3),
    "bn_bwd_finalize": (0, 1),
    "bn_act": (1,),
    "bn_add_act": (1, 3),
    "bn_act_bwd_reduce": (2, 5),
    "bn_act_bwd_apply": (2,),
    "bn_act_maxpool": (1,),
    "bn_act_maxpool_bwd_reduce": (3,),
    "conv_fprop": (2, 3, 9),
    "conv_fprop_stats": (2,),
    "conv_fprop_dual": (2, 4, 8),
    "conv_dgrad": (8,),
    "conv_dgrad_reduce": (7, 9),
    "conv_wgrad": (2, 10),
    "conv_wgrad_masked": (3,),
    "gram": (1,),
    "folded_dgrad": (3, 6),
    "folded_dgrad_reduce": (3, 6),
}


def _host(module: str, op: str) -> Callable:
    @functools.cache
    def function():
        return getattr(importlib.import_module(f"{__name__}.{module}"), op)

    def run(*args: Any) -> Any:
        first = args[0]
        # what is measured on the way is measured on the current device
        with torch.cuda.device(first.device) if first.is_cuda else contextlib.nullcontext():
            result = function()(*args)
        for position in _WRITTEN.get(op, ()):  # autograd must notice, which sees no kernel write
            torch.autograd.graph.increment_version(args[position])
        return result

    return run


OPS = {op: _host(module, op) for module, ops in _MODULES.items() for op in ops}


@functools.cache
def _not_installed() -> str | None:
    return None if importlib.util.find_spec("triton") else "Triton is not installed"


def _device() -> torch.device:
    """Where Triton's active driver launches; raises where there is none: no GPU, or no C compiler."""
    return importlib.import_module("triton.runtime").driver.active.get_active_torch_device()


def launches_on(device_type: str) -> bool:
    """Whether kernels can be launched on tensors of this device."""
    if _not_installed():
        return False
    try:
        return _device().type == device_type
    except Exception:
        return False


@functools.cache
def _too_old(index: int | None) -> str | None:
    if (index or 0) >= torch.cuda.device_count():
        return None  # a fake tensor's device
    capability = torch.cuda.get_device_capability(index)
    if capability >= LEAST_CAPABILITY:
        return None
    have, least = (".".join(map(str, c)) for c in (capability, LEAST_CAPABILITY))
    return f"a GPU of compute capability {have}, below {least}"


def unavailable() -> str | None:
    """Why this backend cannot run in this process, or None."""
    if why := _not_installed():
        return why
    try:
        device = _device()
    except Exception as error:
        return f"Triton finds no GPU to launch on ({error})"
    return unsuited(device, torch.float32)


def unsuited(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this backend takes no activations of this device and dtype, or None."""
    if why := _not_installed():
        return why
    if device.type == "cuda" and torch.version.hip:
        return "the kernels are for NVIDIA GPUs"
    # fake tensors may be on a GPU that is not there
    if (device.type != "cuda" or torch.cuda.is_available()) and not launches_on(device.type):
        return f"device {device}: Triton does not launch there"
    if device.type == "cuda" and (why := _too_old(device.index)):
        return why
    return None if dtype in _DTYPES else f"dtype {dtype}"


def refuses(op: str, args: tuple) -> str | None:
    """Why this backend cannot run `op` on `args`, or None. It runs before every op, so it looks at little."""
    first = args[0]
    if op == "bn_update_running":
        first = args[2]  # the buffers may be of any dtype that is no wider
    if why := unsuited(first.device, first.dtype):
        return why
    for position in _VECTORS.get(op, ()):
        t = args[position]
        if t is not None and (t.dtype not in _DTYPES or not t.is_contiguous()):
            return f"argument {position} is no contiguous fp32 (or narrower)"
    positions = _ACTIVATIONS.get(op)
    if positions is None:
        return None if first.dtype == torch.float32 else f"dtype {first.dtype}"
    if first.numel() == 0:
        return "no elements"
    for position in positions:
        t = args[position]
        if t is None:
            continue
        if not t.is_contiguous(memory_format=_CHANNELS_LAST):
            return f"argument {position} is not dense in channels_last"
        if t.is_contiguous():  # one channel or one pixel: ATen may give the result either layout
            return f"the layout of argument {position} is ambiguous"
    return None


def laid_out(op: str, result: Any) -> Any:
    """The reference's result, on fake tensors, as this backend lays it out: activations in channels_last.

    ATen's convolutions follow the library that takes them, which is not always one for channels_last.
    """
    if isinstance(result, tuple):
        return tuple(_laid_out(t, op, i) for i, t in enumerate(result))
    return _laid_out(result, op, 0)


def _laid_out(result: torch.Tensor | None, op: str, position: int) -> torch.Tensor | None:
    if result is None or result.dim() != 4 or _WEIGHT_GRADIENTS.get(op) == position:
        return result
    return result.contiguous(memory_format=_CHANNELS_LAST)
