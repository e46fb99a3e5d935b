"""One way to launch every kernel."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import triton.language as tl
from torch import Tensor

INT32_ELEMENTS = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Config:
    """How a kernel is cut up; subclasses add the kernel's block sizes, named as its constexprs.

    Attributes:
        num_warps: warps of 32 threads per program.
        num_stages: of the software pipeline over a loop's loads.
    """

    num_warps: int = 4
    num_stages: int = 1

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the launch. Without contraction rounding is defined (`kernels/common.py`)."""
        return {**dataclasses.asdict(self), "enable_fp_fusion": False}


@functools.cache
def _options(config: Config) -> dict[str, Any]:
    """`Config.options`, made once: a launch has no time to copy a dataclass."""
    return config.options


def launch(kernel: Any, grid: tuple[int, ...], config: Config, /, *tensors: Any, **arguments: Any) -> None:
    """Start `kernel` on the current stream of the current device, which every op sets; it does not wait.

    Args: grid: numbers of programs; tensors, arguments: the kernel's, in order and by name.
    """
    kernel[grid](*tensors, **arguments, **_options(config))


def index_type(*tensors: Tensor | None) -> tl.dtype:
    """Type of offsets that reaches every element of these tensors."""
    wide = any(t is not None and t.numel() > INT32_ELEMENTS for t in tensors)
    return tl.int64 if wide else tl.int32
