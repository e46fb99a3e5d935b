"""The sizes of one convolution, as plans are made from them."""

from typing import NamedTuple

import torch

from ..backends.engines import Convolution


class ConvShape(NamedTuple):
    """Input ``[images, in_channels, *in_size]``, output ``[images, out_channels, *out_size]``; all pairs are
    (height, width)."""

    images: int
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @property
    def rows(self) -> int:
        """Outputs per channel."""
        return self.images * self.out_size[0] * self.out_size[1]

    @property
    def in_rows(self) -> int:
        """Inputs per channel."""
        return self.images * self.in_size[0] * self.in_size[1]

    @property
    def weight_size(self) -> tuple[int, ...]:
        return self.out_channels, self.in_channels // self.groups, *self.kernel

    def convolution(self, dtype: torch.dtype) -> Convolution:
        """What the ops of this convolution in `dtype` know it by."""
        return Convolution(self.weight_size, self.stride, self.padding, self.dilation, self.groups, dtype)
