"""Weight gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tuning import tuned
from . import configs
from .geometry import Sizes, precision, scratch, sizes
from .kernels.conv_wgrad import conv_wgrad as kernel
from .kernels.conv_wgrad import merge_wgrad
from .launch import index_type, launch
from .merge import merge_sums


def _columns(s: Sizes) -> tuple[int, int]:
    """How many columns a tile is cut from, and how many times (once a tap)."""
    taps, channels = s.r * s.s, s.c // s.groups
    return (taps * channels, 1) if s.flat else (channels, taps)


def _sum(parts: Tensor, s: Sizes) -> Tensor:
    """``parts [splits, K, R*S, C/groups]`` summed, as ``[K, C/groups, R, S]``."""
    splits, _, taps, channels = parts.shape
    dw = scratch(parts, s.k, channels, s.r, s.s)
    blocks = configs.merge_wgrad(splits, taps)
    launch(
        merge_wgrad,
        (configs.cdiv(s.k * channels, blocks.BLOCK),),
        blocks,
        *(parts, dw, splits, s.k * channels, channels),
        TAPS=taps,
        INDEX=index_type(parts),
    )
    return dw


def _wgrad(g, x, x_norm, x_act, s: Sizes, y, dnorm, out):
    """The weight's gradient; with out also g masked by it and the masked g's sums ``[1, K]``."""
    columns, times = _columns(s)

    def run(config):
        filters = configs.cdiv(s.k // s.groups, config.BLOCK_K)
        tiles = filters * configs.cdiv(columns, config.BLOCK_C) * times
        splits, steps = configs.split(s.rows, config.BLOCK_M, tiles * s.groups)
        parts = scratch(g, splits, s.k, s.r * s.s, s.c // s.groups)
        masked_g, sums = (None, None) if out is None else (torch.empty_like(g), scratch(g, splits, 1, s.k))
        launch(
            kernel,
            (tiles, splits, s.groups),
            config,
            *(g, x, y if dnorm is not None else None, dnorm, x_norm, parts, out, masked_g, sums),
            **s.arguments(),
            SPLIT_STEPS=steps,
            X_RELU=x_act == "relu",
            FLAT=s.flat,
            ALIGN=s.align,
            PRECISION=precision(x),
            INDEX=index_type(g, x, parts),
        )
        dw = _sum(parts, s)
        return dw if sums is None else (masked_g, merge_sums(sums), dw)

    given = tuple(t is not None for t in (x_norm, y, dnorm, out))
    candidates = configs.wgrad(s.k // s.groups, columns, s.wide, x.dtype, precision(x))
    return tuned(("conv_wgrad", s, x.dtype, *given), candidates, run)


def conv_wgrad(g, x, x_norm, x_act, weight_size, stride, padding, dilation, groups, y, dnorm):
    """``conv2d_weight(z, weight_size, dy)``: both operands are made while they are loaded."""
    s = sizes(x.shape, weight_size, stride, padding, dilation, groups)
    return _wgrad(g, x, x_norm, x_act, s, y, dnorm, None)


def conv_wgrad_masked(dout, out, x, x_norm, x_act, weight_size, stride):
    """g = dout where out > 0, Σg, and the weight's gradient from g, in one pass over dout and out."""
    s = sizes(x.shape, weight_size, stride, (0, 0), (1, 1), 1)
    return _wgrad(dout, x, x_norm, x_act, s, None, None, out)
