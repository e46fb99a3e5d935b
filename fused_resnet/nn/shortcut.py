"""The parameter-free shortcut of the residual networks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ZeroPadShortcut"]


class ZeroPadShortcut(nn.Module):
    """Identity shortcut that subsamples in space and appends zero channels.

    Option A of He et al., "Deep Residual Learning for Image Recognition" (2015), section 4.1. It has
    no parameters and no buffers, so it adds nothing to a ``state_dict``.

    Args:
        in_channels: channels of the input, at least 1.
        out_channels: channels of the output, at least ``in_channels``.
        stride: keep every ``stride``-th row and column, at least 1.

    Shape:
        Input ``(N, in_channels, H, W)``; output
        ``(N, out_channels, ceil(H / stride), ceil(W / stride))``. The first ``in_channels`` output
        channels are ``x[:, :, ::stride, ::stride]``, the others are zero.

    Raises:
        ValueError: ``in_channels`` or ``stride`` is below 1, or ``out_channels`` is below
            ``in_channels``.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        if in_channels < 1:
            raise ValueError(f"in_channels must be at least 1, got {in_channels}")
        if out_channels < in_channels:
            raise ValueError(f"out_channels must be at least in_channels ({in_channels}), got {out_channels}")
        if stride < 1:
            raise ValueError(f"stride must be at least 1, got {stride}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, ceil(H/stride), ceil(W/stride))``."""
        extra = self.out_channels - self.in_channels
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, extra))

    def extra_repr(self) -> str:
        """The three constructor arguments, for ``repr``."""
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}"
