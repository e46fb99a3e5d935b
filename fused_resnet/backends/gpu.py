"""What the backends of our own GPU kernels have in common: what they take, and how results are laid out."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import torch

from .signatures import ACTIVATIONS as ACTIVATIONS
from .signatures import VECTORS as VECTORS
from .signatures import WRITTEN as WRITTEN

LEAST_CAPABILITY = (8, 0)
DTYPES = frozenset((torch.float32, torch.bfloat16, torch.float16))
_CHANNELS_LAST = torch.channels_last

# Which result is a weight's gradient, dense in the default layout.
_WEIGHT_GRADIENTS = {"conv_wgrad": 0, "conv_wgrad_masked": 2}


def current(t: torch.Tensor) -> contextlib.AbstractContextManager:
    """Makes the device of t the current one: what is measured is measured there."""
    # fake tensors may be on a GPU that is not there
    return (
        torch.cuda.device(t.device) if t.is_cuda and torch.cuda.is_available() else contextlib.nullcontext()
    )


def on_device(run: Callable[..., Any]) -> Callable[..., Any]:
    """`run` with the device of its first argument current."""

    def function(*args: Any) -> Any:
        with current(args[0]):
            return run(*args)

    return function


def noticed(op: str, run: Callable[..., Any]) -> Callable[..., Any]:
    """`run` so that autograd notices what it writes to, which sees no kernel write."""
    written = WRITTEN.get(op)
    if written is None:
        return run

    def function(*args: Any) -> Any:
        result = run(*args)
        for position in written:
            torch.autograd.graph.increment_version(args[position])
        return result

    return function


@functools.cache
def too_old(index: int | None) -> str | None:
    """Why this GPU is too old for our kernels, or None, as of one that is not there (a fake tensor's)."""
    if (index or 0) >= torch.cuda.device_count():
        return None
    capability = torch.cuda.get_device_capability(index)
    if capability >= LEAST_CAPABILITY:
        return None
    have, least = (".".join(map(str, c)) for c in (capability, LEAST_CAPABILITY))
    return f"a GPU of compute capability {have}, below {least}"


def unsuited(
    device: torch.device, dtype: torch.dtype, launches_on: Callable[[str], bool], name: str
) -> str | None:
    """Why kernels take no activations of this device and dtype, or None.

    Args: launches_on: whether they can be launched on devices of this type; name: of who launches.
    """
    if device.type == "cuda" and torch.version.hip:
        return "the kernels are for NVIDIA GPUs"
    # fake tensors may be on a GPU that is not there
    if (device.type != "cuda" or torch.cuda.is_available()) and not launches_on(device.type):
        return f"device {device}: {name} does not launch there"
    if device.type == "cuda" and (why := too_old(device.index)):
        return why
    return None if dtype in DTYPES else f"dtype {dtype}"


def stored_in(op: str, args: tuple) -> torch.Tensor:
    """The argument whose device and dtype count."""
    return args[2] if op == "bn_update_running" else args[0]  # its buffers may be of any narrower dtype


def refuses(op: str, args: tuple) -> str | None:
    """Why no kernel runs `op` on `args`, whose device and dtype suit, or None. It runs before every op."""
    for position in VECTORS.get(op, ()):
        t = args[position]
        if t is not None and (t.dtype not in DTYPES or not t.is_contiguous()):
            return f"argument {position} is no contiguous fp32 (or narrower)"
    positions = ACTIVATIONS.get(op)
    if positions is None:
        dtype = stored_in(op, args).dtype
        return None if dtype == torch.float32 else f"dtype {dtype}"
    if args[0].numel() == 0:
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
    """The reference's result, on fake tensors, as our kernels lay it out: activations in channels_last.

    ATen's convolutions follow the library that takes them, which is not always one for channels_last.
    """
    if isinstance(result, tuple):
        return tuple(_laid_out(t, op, i) for i, t in enumerate(result))
    return _laid_out(result, op, 0)


def _laid_out(result: torch.Tensor | None, op: str, position: int) -> torch.Tensor | None:
    if result is None or result.dim() != 4 or _WEIGHT_GRADIENTS.get(op) == position:
        return result
    return result.contiguous(memory_format=_CHANNELS_LAST)
