"""Ops that multiply on tensor cores: their sizes, from which a tile is chosen for the C++ function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .. import cuda
from ..geometry import Sizes, sizes
from ..tuning import tuned
from . import tiles


def _run(op: str, args: tuple, key: tuple, candidates: tiles.Tiles) -> Any:
    """Args: key: what the best tile depends on, besides the dtype and which arguments are given."""
    function: Callable[..., Any] = getattr(cuda.extension(), op)
    given = tuple(a is not None for a in args if a is None or isinstance(a, Tensor))
    key = (f"cuda {op}", *key, args[0].dtype, *given)
    return tuned(key, candidates, lambda tile: function(*args, tile.index))


def _aligned(s: Sizes, like: Tensor) -> bool:
    return tiles.aligned(like.dtype, s.c // s.groups, s.k // s.groups)


def _pointwise(x: Tensor, channels: int, stride) -> Sizes:
    """Of a 1x1 convolution from x to `channels`."""
    return sizes(x.shape, (channels, x.shape[1], 1, 1), stride, (0, 0), (1, 1), 1)


def _forward(op: str, args: tuple, s: Sizes) -> Any:
    x = args[0]
    return _run(op, args, (s,), tiles.gemm(s.rows, s.k // s.groups, _aligned(s, x), x.dtype))


def conv_fprop(*args: Any) -> Tensor:
    x, weight, _, _, _, *geometry = args[:9]
    return _forward("conv_fprop", args, sizes(x.shape, weight.shape, *geometry))


def conv_fprop_stats(*args: Any) -> tuple[Tensor, ...]:
    x, weight, _, _, *geometry = args
    return _forward("conv_fprop_stats", args, sizes(x.shape, weight.shape, *geometry))


def conv_fprop_dual(*args: Any) -> Tensor:
    weight, shortcut_x, stride = args[1], args[5], args[7]
    k, c = weight.shape[:2]
    s = _pointwise(shortcut_x, k, stride)
    candidates = tiles.dual(s.rows, k, tiles.aligned(weight.dtype, k, c, s.c))
    return _run("conv_fprop_dual", args, (s, c), candidates)


def _backward(op: str, args: tuple, s: Sizes) -> Any:
    g = args[0]
    return _run(op, args, (s,), tiles.gemm(s.n * s.h * s.w, s.c // s.groups, _aligned(s, g), g.dtype))


def conv_dgrad(*args: Any) -> Tensor:
    _, weight, input_size, *geometry = args[:7]
    return _backward("conv_dgrad", args, sizes(input_size, weight.shape, *geometry))


def conv_dgrad_reduce(*args: Any) -> tuple[Tensor, ...]:
    _, weight, *geometry = args[:6]
    return _backward("conv_dgrad_reduce", args, sizes(args[8].shape, weight.shape, *geometry))


def folded_dgrad(*args: Any) -> Tensor:
    g, x, stride = args[0], args[2], args[7]
    return _backward("folded_dgrad", args, _pointwise(x, g.shape[1], stride))


def folded_dgrad_reduce(*args: Any) -> tuple[Tensor, ...]:
    g, x = args[0], args[2]
    return _backward("folded_dgrad_reduce", args, _pointwise(x, g.shape[1], (1, 1)))


def _weight(op: str, args: tuple, s: Sizes) -> Any:
    g = args[0]
    columns = s.r * s.s * s.c // s.groups
    return _run(op, args, (s,), tiles.wgrad(s.k // s.groups, columns, _aligned(s, g), g.dtype))


def conv_wgrad(*args: Any) -> Tensor:
    _, x, _, _, weight_size, *geometry = args[:9]
    return _weight("conv_wgrad", args, sizes(x.shape, weight_size, *geometry))


def conv_wgrad_masked(*args: Any) -> tuple[Tensor, ...]:
    x, weight_size, stride = args[2], args[5], args[6]
    s = sizes(x.shape, weight_size, stride, (0, 0), (1, 1), 1)
    return _weight("conv_wgrad_masked", args, s)


def gram(*args: Any) -> tuple[Tensor, ...]:
    x, _, _, stride = args
    channels = x.shape[1]
    candidates = tiles.gram(channels, tiles.aligned(x.dtype, channels), x.dtype)
    return _run("gram", args, (_pointwise(x, channels, stride),), candidates)
