"""Arguments for every op of the op table, on a tensor of a given size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fused_resnet import ops

ONE, TWO, THREE = (1, 1), (2, 2), (3, 3)
CONV = (ONE, ONE, ONE, 1)  # stride, padding, dilation and groups of a 3x3 convolution


@dataclass(frozen=True)
class Sizes:
    """An activation ``[batch, channels, size, size]`` of a ResNet at 224x224."""

    channels: int
    size: int
    batch: int = 8
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    @property
    def name(self) -> str:
        return f"{self.channels}x{self.size}x{self.size}"

    def shape(self, widen: int = 1) -> tuple[int, int, int, int]:
        return self.batch, widen * self.channels, self.size, self.size

    def activation(self, widen: int = 1) -> Tensor:
        t = torch.randn(self.shape(widen), device=self.device, dtype=self.dtype)
        return t.contiguous(memory_format=torch.channels_last)

    def weight(self, *shape: int) -> Tensor:
        t = torch.randn(shape, device=self.device, dtype=self.dtype) / shape[1]
        return t.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else t

    def vectors(self, *rows: int) -> Tensor:
        """Per channel, in the accumulation dtype; positive, as variances have to be."""
        return torch.rand(*rows, self.channels, device=self.device) + 0.5


def _pool_backward(s: Sizes) -> tuple:
    y, norm = s.activation(), s.vectors(4)
    out, argmax = ops.bn_act_maxpool(y, norm, "relu", THREE, TWO, ONE)
    return torch.randn_like(out), argmax, y, norm, "relu", THREE, TWO, ONE


def _folded(s: Sizes) -> tuple:
    """A convolution from c to 4c channels, the last of a bottleneck."""
    c = s.channels
    weight_g, weight_x, bias = s.weight(4 * c, c), s.weight(c, c), s.vectors()
    return s.activation(widen=4), weight_g, s.activation(), s.vectors(4), "relu", weight_x, bias


def _folded_vectors(s: Sizes) -> dict[str, tuple]:
    """Arguments of the ops on vectors and small matrices of the same convolution."""
    c, out = s.channels, replace(s, channels=4 * s.channels)
    weight, p, count = s.weight(4 * c, c, 1, 1), s.weight(4 * c, c, 1, 1).float(), float(s.batch * s.size**2)
    mean, gram = s.vectors(), s.vectors(c)
    return {
        "folded_stats": (weight, mean, gram, count),
        "folded_sums": (p, out.vectors(1), weight, out.vectors(4), mean),
        "folded_wgrad": (p, out.vectors(2), out.vectors(3), weight, mean, gram),
        "folded_matrices": (weight, out.vectors(2), out.vectors(3), mean, count),
    }


def _weight(s: Sizes) -> Tensor:
    return s.weight(s.channels, s.channels, 3, 3)


ARGUMENTS: dict[str, Callable[[Sizes], tuple]] = {
    "bn_stats": lambda s: (s.activation(),),
    "bn_finalize": lambda s: (s.vectors(), s.vectors(), s.vectors(), s.vectors(), 1e-5),
    "bn_update_running": lambda s: (s.vectors(), s.vectors(), s.vectors(), s.vectors(), 0.1, 1.0),
    "bn_act": lambda s: (s.activation(), s.vectors(4), "relu"),
    "bn_add_act": lambda s: (s.activation(), s.vectors(4), s.activation(), None, "relu"),
    "bn_act_bwd_reduce": lambda s: (
        s.activation(), s.activation(), s.vectors(4), s.activation(), None, None, "relu",
    ),
    "bn_bwd_finalize": lambda s: (s.vectors(2), s.vectors(4), float(s.batch * s.size**2)),
    "bn_act_bwd_apply": lambda s: (s.activation(), s.activation(), s.vectors(3)),
    "bn_act_maxpool": lambda s: (s.activation(), s.vectors(4), "relu", THREE, TWO, ONE),
    "bn_act_maxpool_bwd_reduce": _pool_backward,
    "conv_fprop": lambda s: (
        s.activation(), _weight(s), None, s.vectors(4), "relu", *CONV, s.vectors(4), s.activation(), "relu",
    ),
    "conv_fprop_stats": lambda s: (s.activation(), _weight(s), s.vectors(4), "relu", *CONV),
    "conv_dgrad": lambda s: (
        s.activation(), _weight(s), s.shape(), *CONV, s.activation(), s.vectors(3),
        s.activation(),
    ),
    "conv_dgrad_reduce": lambda s: (
        s.activation(), _weight(s), *CONV, s.activation(), s.vectors(3), s.activation(), s.vectors(4), "relu",
    ),
    "conv_wgrad": lambda s: (
        s.activation(), s.activation(), s.vectors(4), "relu", (s.channels, s.channels, 3, 3), *CONV,
        s.activation(), s.vectors(3),
    ),
    "gram": lambda s: (s.activation(), s.vectors(4), "relu", ONE),
    "folded_dgrad": lambda s: (*_folded(s), ONE, s.activation()),
    "folded_dgrad_reduce": _folded,
    "folded_stats": lambda s: _folded_vectors(s)["folded_stats"],
    "folded_sums": lambda s: _folded_vectors(s)["folded_sums"],
    "folded_wgrad": lambda s: _folded_vectors(s)["folded_wgrad"],
    "folded_matrices": lambda s: _folded_vectors(s)["folded_matrices"],
}  # fmt: skip
