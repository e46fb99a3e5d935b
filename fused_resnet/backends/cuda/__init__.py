"""CUDA C++ kernels: fp32, bf16 and fp16 activations, dense in channels_last, on NVIDIA GPUs from sm_80.

They are part of the C++ extension where that is built with nvcc; the package works without them. Factors of
fp32 products are cut to tf32 by the tensor cores, which needs torch's leave.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch

from ... import _extension
from .. import engines, gpu
from ..gpu import laid_out as laid_out

LARGEST_KERNEL = 16  # positions of a convolution's window in each direction
LARGEST_SPAN = 16383  # height and width of images with their padding, and of what a window covers
MOST_PIXELS = 2**31 - 1  # in all images
MOST_GROUPS = 65535

# Ops that multiply on tensor cores, with a tile of results to choose (products.py); others have no choice.
PRODUCTS = (
    *("conv_fprop", "conv_fprop_stats", "conv_fprop_dual", "conv_dgrad", "conv_dgrad_reduce"),
    *("conv_wgrad", "conv_wgrad_masked", "gram", "folded_dgrad", "folded_dgrad_reduce"),
)
_PASSES = tuple(sorted({*gpu.ACTIVATIONS, *gpu.VECTORS} - set(PRODUCTS)))


def extension() -> ModuleType | None:
    """The C++ functions, or None where there are none: the one place that gives them."""
    return getattr(_extension.load(), "cuda", None)


def launches_on(device_type: str) -> bool:
    """Whether kernels can be launched on tensors of this device."""
    return device_type == "cuda" and extension() is not None and torch.cuda.is_available()


def version() -> str:
    """What makes the kernels: where times are kept, they are kept by it."""
    return f"nvcc {_extension.build_info()['cuda']}"


def _product(op: str) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        return getattr(importlib.import_module(f"{__name__}.products"), op)(*args)

    return gpu.on_device(run)


def _pass(op: str) -> Callable[..., Any]:
    return gpu.noticed(op, lambda *args: getattr(extension(), op)(*args))


OPS = {op: _product(op) for op in PRODUCTS} | {op: _pass(op) for op in _PASSES}


def _missing() -> str | None:
    """Why there are no C++ functions, and what to do, or None."""
    if extension() is not None:
        return None
    why = _extension.why_missing() or "the C++ extension was built without CUDA"
    return f"{why}; with nvcc on the PATH: FUSED_RESNET_CUDA=1 {_extension.BUILD_COMMAND}"


@functools.cache
def _no_code(index: int | None) -> str | None:
    """Why the extension has nothing that this GPU runs, or None, as for one that is not there."""
    if (index or 0) >= torch.cuda.device_count():
        return None
    with torch.cuda.device(index):
        module: Any = _extension.load()
        if module.has_cuda_code():
            return None
    have = ", ".join(f"{a / 10:.1f}" for a in module.build_info()["cuda_architectures"])
    capability = "{}.{}".format(*torch.cuda.get_device_capability(index))
    return (
        f"a GPU of compute capability {capability}; the extension was built for {have} (TORCH_CUDA_ARCH_LIST)"
    )


def _unsuited(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this backend takes no activations of this device and dtype, or None."""
    if why := _missing() or gpu.unsuited(device, dtype, launches_on, "the extension"):
        return why
    return _no_code(device.index) if device.type == "cuda" else None


def _not_allowed(dtype: torch.dtype) -> str | None:
    if dtype == torch.float32 and not torch.backends.cudnn.allow_tf32:
        return "fp32 products are in tf32, and torch.backends.cudnn.allow_tf32 is False"
    return None


def _too_large(kernel: Sequence[int]) -> str | None:
    return f"a kernel larger than {LARGEST_KERNEL}: {tuple(kernel)}" if max(kernel) > LARGEST_KERNEL else None


def _out_of_range(op: str, args: tuple) -> str | None:
    """Why the kernels cannot count what this product is made of, or None: csrc/cuda/convolution.h."""
    padding = 0
    for conv in engines.convolutions(op, args):
        (r, s), (dilation_h, dilation_w) = conv.weight_size[2:], conv.dilation
        if r > LARGEST_KERNEL or s > LARGEST_KERNEL:
            return _too_large((r, s))
        if r * dilation_h > LARGEST_SPAN or s * dilation_w > LARGEST_SPAN:
            return f"a window over more than {LARGEST_SPAN} pixels"
        if conv.groups > MOST_GROUPS:
            return f"more than {MOST_GROUPS} groups"
        padding = 2 * max(conv.padding)
    for position in gpu.ACTIVATIONS[op]:
        t = args[position]
        if t is None:
            continue
        n, _, h, w = t.shape
        if h + padding > LARGEST_SPAN or w + padding > LARGEST_SPAN:
            return f"argument {position} has sides of more than {LARGEST_SPAN} pixels: {(h, w)}"
        if n * h * w > MOST_PIXELS:
            return f"argument {position} has more than {MOST_PIXELS} pixels"
    return None


def unavailable() -> str | None:
    """Why this backend cannot run in this process, or None."""
    if why := _missing():
        return why
    device_type = next((name for name in ("cuda", "cpu") if launches_on(name)), None)
    if device_type is None:
        return "there is no GPU to launch on (torch.cuda.is_available() is False)"
    return _unsuited(torch.device(device_type), torch.bfloat16)


def unsuited(device: torch.device, dtype: torch.dtype, kernel: Sequence[int] = (1, 1)) -> str | None:
    """Why this backend has no convolution of this device, dtype and kernel (height and width), or None."""
    return _unsuited(device, dtype) or _not_allowed(dtype) or _too_large(kernel)


def refuses(op: str, args: tuple) -> str | None:
    """Why this backend cannot run `op` on `args`, or None. It runs before every op, so it looks at little."""
    first = gpu.stored_in(op, args)
    if why := _unsuited(first.device, first.dtype) or gpu.refuses(op, args):
        return why
    if op not in PRODUCTS:
        return None
    return _not_allowed(first.dtype) or _out_of_range(op, args)
