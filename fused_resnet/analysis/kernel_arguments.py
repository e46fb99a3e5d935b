"""Random arguments for every op of the Triton backend, from sizes and a variant."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .kernel_truth import expected

__all__ = ["BUILDERS", "Conv", "Make", "Window"]

NHWC = torch.channels_last


class Make:
    """Random tensors of one storage dtype, the same for the same seed."""

    def __init__(self, dtype: torch.dtype, seed: int = 0) -> None:
        self.dtype, self.generator = dtype, torch.Generator().manual_seed(seed)

    def fp32(self, *size: int, scale: float = 1.0) -> Tensor:
        return torch.randn(size, generator=self.generator) * scale

    def activation(self, *size: int) -> Tensor:
        """``[N, C, H, W]``; every seventh pixel is exactly 0 in all channels."""
        t = self.fp32(*size).to(self.dtype).contiguous(memory_format=NHWC)
        t.permute(0, 2, 3, 1).reshape(-1, size[1])[3::7] = 0
        return t

    def weight(self, *size: int) -> Tensor:
        """Scaled so that what it is multiplied into stays of order 1."""
        return self.fp32(*size, scale=math.prod(size[1:]) ** -0.5).to(self.dtype)

    def norm(self, channels: int) -> Tensor:
        """Every fifth shift is exactly 0, so that scale*y + shift is at ReLU's kink where y is 0."""
        mean, scale, shift = self.fp32(3, channels)
        shift[::5] = 0
        invstd = torch.rand(channels, generator=self.generator) + 0.5
        return torch.stack((mean, invstd, scale + scale.sign() * 0.3, shift))

    def dnorm(self, channels: int) -> Tensor:
        return self.fp32(3, channels, scale=0.5)


class Conv(NamedTuple):
    """Sizes of a convolution."""

    n: int
    h: int
    w: int
    c: int
    k: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def x_size(self) -> tuple[int, ...]:
        return self.n, self.c, self.h, self.w

    @property
    def weight_size(self) -> tuple[int, ...]:
        return self.k, self.c // self.groups, *self.kernel

    @property
    def y_size(self) -> tuple[int, ...]:
        sizes = zip((self.h, self.w), self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return self.n, self.k, *((x + 2 * p - d * (r - 1) - 1) // s + 1 for x, r, s, p, d in sizes)

    @property
    def geometry(self) -> tuple[list[int], list[int], list[int], int]:
        return list(self.stride), list(self.padding), list(self.dilation), self.groups


# ---- variants of the ops


def conv_fprop(
    make: Make, s: Conv, prologue: str | None = None, epilogue: str = "", act: str = "relu"
) -> tuple:
    """epilogue: any of bias, norm, residual."""
    x, weight = make.activation(*s.x_size), make.weight(*s.weight_size)
    bias = make.weight(s.k) if "bias" in epilogue else None
    norm = make.norm(s.k) if "norm" in epilogue else None
    residual = make.activation(*s.y_size) if "residual" in epilogue else None
    return x, weight, bias, *_prologue(make, s.c, prologue), *s.geometry, norm, residual, act


def _prologue(make: Make, channels: int, prologue: str | None) -> tuple[Tensor | None, str]:
    return (None, "identity") if prologue is None else (make.norm(channels), prologue)


def _gradient(make: Make, s: Conv, gradient: str) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """g, y, dnorm; gradient: "g", "a*g" or "a*g+b*y+c"."""
    y = make.activation(*s.y_size) if "y" in gradient else None
    return make.activation(*s.y_size), y, make.dnorm(s.k) if "a" in gradient else None


def conv_fprop_stats(make: Make, s: Conv, prologue: str | None = None) -> tuple:
    x, weight = make.activation(*s.x_size), make.weight(*s.weight_size)
    return x, weight, *_prologue(make, s.c, prologue), *s.geometry


def conv_dgrad(make: Make, s: Conv, gradient: str = "a*g+b*y+c", residual: bool = False) -> tuple:
    g, y, dnorm = _gradient(make, s, gradient)
    added = make.activation(*s.x_size) if residual else None
    return g, make.weight(*s.weight_size), list(s.x_size), *s.geometry, y, dnorm, added


def conv_dgrad_reduce(make: Make, s: Conv, gradient: str = "a*g+b*y+c", act: str = "relu") -> tuple:
    g, y, dnorm = _gradient(make, s, gradient)
    x, norm = make.activation(*s.x_size), make.norm(s.c)
    return g, make.weight(*s.weight_size), *s.geometry, y, dnorm, x, norm, act


def conv_wgrad(make: Make, s: Conv, prologue: str | None = "relu", gradient: str = "a*g+b*y+c") -> tuple:
    g, y, dnorm = _gradient(make, s, gradient)
    x = make.activation(*s.x_size)
    return g, x, *_prologue(make, s.c, prologue), list(s.weight_size), *s.geometry, y, dnorm


def conv_wgrad_masked(make: Make, s: Conv, prologue: str | None = "relu") -> tuple:
    dout, out, x = make.activation(*s.y_size), make.activation(*s.y_size).relu(), make.activation(*s.x_size)
    return dout, out, x, *_prologue(make, s.c, prologue), list(s.weight_size), list(s.stride)


def gram(make: Make, s: Conv, prologue: str | None = "relu") -> tuple:
    return make.activation(*s.x_size), *_prologue(make, s.c, prologue), list(s.stride)


def folded_dgrad(make: Make, s: Conv, prologue: str | None = "relu", residual: bool = False) -> tuple:
    g, weight_g, x = make.activation(*s.y_size), make.weight(s.k, s.c), make.activation(*s.x_size)
    added = make.activation(*s.x_size) if residual else None
    more = make.weight(s.c, s.c), make.fp32(s.c), list(s.stride), added
    return g, weight_g, x, *_prologue(make, s.c, prologue), *more


def folded_dgrad_reduce(make: Make, s: Conv, act: str = "relu") -> tuple:
    return folded_dgrad(make, s, act)[:-2]


def conv_fprop_dual(make: Make, s: Conv, prologue: str | None = "relu", act: str = "relu") -> tuple:
    """The shortcut reads s.x_size at the stride; the main path reads half as many channels."""
    narrow = max(s.c // 2, 1)
    x, weight = make.activation(s.n, narrow, *s.y_size[2:]), make.weight(s.k, narrow, 1, 1)
    shortcut = make.activation(*s.x_size), make.weight(s.k, s.c, 1, 1), list(s.stride), make.norm(s.k)
    return x, weight, *_prologue(make, narrow, prologue), make.norm(s.k), *shortcut, act


def bn_stats(make: Make, size: tuple[int, ...], offset: float = 0.0) -> tuple:
    return ((make.activation(*size) + offset).contiguous(memory_format=NHWC),)


def bn_finalize(make: Make, channels: int, affine: bool = True) -> tuple:
    mean, var = make.fp32(2, channels)
    weight, bias = (make.weight(channels), make.weight(channels)) if affine else (None, None)
    return mean, var.abs(), weight, bias, 1e-5


def bn_update_running(make: Make, channels: int, momentum: float) -> tuple:
    running, (mean, var) = (make.weight(channels), make.weight(channels).abs()), make.fp32(2, channels)
    return *running, mean, var.abs(), momentum, 1.25


def bn_act(make: Make, size: tuple[int, ...], act: str = "relu") -> tuple:
    return make.activation(*size), make.norm(size[1]), act


def bn_add_act(make: Make, size: tuple[int, ...], dual: bool = False, act: str = "relu") -> tuple:
    norm, residual_norm = make.norm(size[1]), make.norm(size[1]) if dual else None
    return make.activation(*size), norm, make.activation(*size), residual_norm, act


def bn_act_bwd_reduce(make: Make, size: tuple[int, ...], given: str, act: str = "relu") -> tuple:
    """given: any of y, out, dual."""

    def unit(name: str) -> tuple[Tensor | None, Tensor | None]:
        return (make.activation(*size), make.norm(size[1])) if name in given.split() else (None, None)

    out = make.activation(*size).relu() if "out" in given.split() else None
    return make.activation(*size), *unit("y"), out, *unit("dual"), act


def bn_bwd_finalize(make: Make, channels: int) -> tuple:
    return make.fp32(2, channels), make.norm(channels), 37.0


def bn_act_bwd_apply(make: Make, size: tuple[int, ...], with_y: bool = True) -> tuple:
    y = make.activation(*size) if with_y else None
    return make.activation(*size), y, make.dnorm(size[1])


class Window(NamedTuple):
    kernel_size: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (2, 2)
    padding: tuple[int, int] = (1, 1)


STEM_POOL = Window()


def bn_act_maxpool(make: Make, size: tuple[int, ...], act: str = "relu", window: Window = STEM_POOL) -> tuple:
    norm = make.norm(size[1])
    norm[3] -= 1.0  # often nothing in a window is positive: ties at 0
    return make.activation(*size), norm, act, *map(list, window)


def bn_act_maxpool_bwd_reduce(
    make: Make, size: tuple[int, ...], act: str = "relu", window: Window = STEM_POOL
) -> tuple:
    args = bn_act_maxpool(make, size, act, window)
    out, argmax = (e.value for e in expected("bn_act_maxpool", args, ()).values())
    dout = make.activation(*out.shape)
    return dout, argmax.to(torch.uint8).contiguous(memory_format=NHWC), *args


# Builder of each op's arguments: from a Make, sizes, and the variant.
BUILDERS: dict[str, Callable[..., tuple]] = {
    f.__name__: f
    for f in (
        bn_stats,
        bn_finalize,
        bn_update_running,
        bn_act,
        bn_add_act,
        bn_act_bwd_reduce,
        bn_bwd_finalize,
        bn_act_bwd_apply,
        bn_act_maxpool,
        bn_act_maxpool_bwd_reduce,
        conv_fprop,
        conv_fprop_stats,
        conv_fprop_dual,
        conv_dgrad,
        conv_dgrad_reduce,
        conv_wgrad,
        conv_wgrad_masked,
        gram,
        folded_dgrad,
        folded_dgrad_reduce,
    )
}
