"""Triton kernels: fp32, bf16 and fp16 activations, dense in channels_last, on NVIDIA GPUs from sm_80.

Triton is imported when the first kernel runs: the package works without it. Whatever device Triton's active
driver launches on will do, so that a driver that executes kernels on the CPU can stand in for a GPU.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Sequence

import torch

from .. import gpu
from ..gpu import laid_out as laid_out

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


def _host(module: str, op: str) -> Callable:
    @functools.cache
    def function():
        return getattr(importlib.import_module(f"{__name__}.{module}"), op)

    return gpu.noticed(op, gpu.on_device(lambda *args: function()(*args)))


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


def version() -> str:
    """What makes the kernels: where times are kept, they are kept by it."""
    return f"triton {importlib.import_module('triton').__version__}"


def unavailable() -> str | None:
    """Why this backend cannot run in this process, or None."""
    if why := _not_installed():
        return why
    try:
        device = _device()
    except Exception as error:
        return f"Triton finds no GPU to launch on ({error})"
    return unsuited(device, torch.float32)


def unsuited(device: torch.device, dtype: torch.dtype, kernel: Sequence[int] = (1, 1)) -> str | None:
    """Why this backend has no convolution of activations of this device and dtype, or None; kernel: any."""
    return _not_installed() or gpu.unsuited(device, dtype, launches_on, "Triton")


def refuses(op: str, args: tuple) -> str | None:
    """Why this backend cannot run `op` on `args`, or None. It runs before every op, so it looks at little."""
    first = gpu.stored_in(op, args)
    return unsuited(first.device, first.dtype) or gpu.refuses(op, args)
