"""Sizes and number formats that the host side of several kernels needs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import geometry
from ..geometry import output_size as output_size

NHWC = torch.channels_last
FLAT_BELOW = 16  # channels of a group: fewer would leave most of a tile of one tap empty


class Sizes(geometry.Sizes):
    """A convolution, and what the kernels are specialised by."""

    __slots__ = ()

    @property
    def align(self) -> int:
        """What divides a group's channels on both sides, up to the 16 that Triton looks for in sizes."""
        return math.gcd(self.c // self.groups, self.k // self.groups, 16)

    @property
    def flat(self) -> bool:
        """Whether the kernels walk (tap, channel) as one index, for a few channels."""
        return self.r * self.s > 1 and self.c // self.groups < FLAT_BELOW

    @property
    def wide(self) -> bool:
        """Whether activations and weights are read in 16 bytes at a time."""
        return self.align == 16 and not self.flat

    def arguments(self) -> dict[str, Any]:
        """The kernels' names for all of it."""
        return {
            **dict(N=self.n, H=self.h, W=self.w, P=self.p, Q=self.q, C=self.c, K=self.k, GROUPS=self.groups),
            **dict(R=self.r, S=self.s, STRIDE_H=self.stride[0], STRIDE_W=self.stride[1]),
            **dict(PAD_H=self.padding[0], PAD_W=self.padding[1]),
            **dict(DILATION_H=self.dilation[0], DILATION_W=self.dilation[1]),
        }


def sizes(x_size, weight_size, stride, padding, dilation, groups) -> Sizes:
    """Of arguments that the op has checked."""
    return Sizes(*geometry.sizes(x_size, weight_size, stride, padding, dilation, groups))


def precision(t: Tensor) -> str:
    """How tensor cores multiply: tf32 where torch allows it for convolutions; else full fp32 without them.

    16-bit products are exact either way.
    """
    if t.dtype == torch.float32 and not torch.backends.cudnn.allow_tf32:
        return "ieee"
    return "tf32"


def krsc(weight: Tensor) -> Tensor:
    """The weight dense as ``[K, R, S, C/groups]`` in memory (a copy only where it is not)."""
    return weight.contiguous(memory_format=NHWC)


def activation(like: Tensor, n: int, c: int, h: int, w: int) -> Tensor:
    """An uninitialised NHWC activation of this size."""
    return torch.empty((n, c, h, w), dtype=like.dtype, device=like.device, memory_format=NHWC)


def scratch(like: Tensor, *size: int) -> Tensor:
    """Uninitialised fp32 values."""
    return torch.empty(size, dtype=torch.float32, device=like.device)
