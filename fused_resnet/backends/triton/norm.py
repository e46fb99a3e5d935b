"""Batch normalisation, activation and residual add."""

from __future__ import annotations

import torch
from torch import Tensor

from ..tuning import tuned
from . import configs
from .geometry import scratch
from .kernels import norm as kernels
from .launch import index_type, launch
from .merge import merge_moments, merge_sums


def _rows(t: Tensor) -> int:
    return t.shape[0] * t.shape[2] * t.shape[3]


def _per_channel(kernel, channels: int, *arguments) -> None:
    """Launch a kernel over ``[C]`` vectors."""
    config = configs.VECTOR
    launch(kernel, (configs.cdiv(channels, config.BLOCK_C),), config, *arguments)


def bn_stats(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel."""
    rows, channels = _rows(y), y.shape[1]

    def run(config):
        split = config.split(rows, channels)
        mean, m2 = scratch(y, 2, split.parts, channels)
        arguments = y, mean, m2, rows, channels, split.per_program
        launch(kernels.bn_stats, split.grid, config, *arguments, INDEX=index_type(y))
        return merge_moments(mean, m2, split.per_program * config.BLOCK_M, rows)

    return tuned(("bn_stats", rows, channels, y.dtype), configs.reduction(channels), run)


def bn_finalize(mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """The coefficients of BN."""
    norm = scratch(mean, 4, *mean.shape)
    _per_channel(kernels.bn_finalize, len(mean), mean, var, weight, bias, norm, len(mean), float(eps))
    return norm


def bn_update_running(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, momentum: float, correction: float
) -> None:
    """Move the running statistics towards the batch's, in place."""
    arguments = running_mean, running_var, mean, var, len(mean), float(momentum), float(correction)
    _per_channel(kernels.bn_update_running, len(mean), *arguments)


def bn_act(y: Tensor, norm: Tensor, act: str) -> Tensor:
    """``act(scale*y + shift)``."""
    return bn_add_act(y, norm, None, None, act)


def bn_add_act(
    y: Tensor, norm: Tensor, residual: Tensor | None, residual_norm: Tensor | None, act: str
) -> Tensor:
    """``act(scale*y + shift + r)``; r is the residual, or with residual_norm its BN."""
    rows, channels = _rows(y), y.shape[1]

    def run(config):
        out = torch.empty_like(y)
        launch(
            kernels.bn_act,
            config.grid(rows, channels),
            config,
            *(y, norm, residual, residual_norm, out, rows, channels),
            RELU=act == "relu",
            INDEX=index_type(y),
        )
        return out

    given = residual is not None, residual_norm is not None
    return tuned(("bn_act", rows, channels, y.dtype, *given), configs.elementwise(channels), run)


def bn_act_bwd_reduce(
    dout: Tensor,
    y: Tensor | None,
    norm: Tensor | None,
    out: Tensor | None,
    dual_y: Tensor | None,
    dual_norm: Tensor | None,
    act: str,
) -> tuple[Tensor, Tensor]:
    """Gradient g of BN's output and its sums, in one pass."""
    rows, channels = _rows(dout), dout.shape[1]
    sums = 1 + (y is not None) + (dual_y is not None)

    def run(config):
        split = config.split(rows, channels)
        g, parts = torch.empty_like(dout), scratch(dout, split.parts, sums, channels)
        launch(
            kernels.bn_act_bwd_reduce,
            split.grid,
            config,
            *(dout, y, norm, out, dual_y, dual_norm, g, parts, rows, channels, split.per_program),
            RELU=act == "relu",
            INDEX=index_type(dout),
        )
        return g, merge_sums(parts)

    given = tuple(t is not None for t in (y, out, dual_y))
    return tuned(("bn_act_bwd_reduce", rows, channels, dout.dtype, *given), configs.reduction(channels), run)


def bn_bwd_finalize(sums: Tensor, norm: Tensor, count: float) -> Tensor:
    """Coefficients of BN's backward."""
    channels = norm.shape[1]
    dnorm = scratch(norm, 3, channels)
    _per_channel(kernels.bn_bwd_finalize, channels, sums, norm, dnorm, channels, float(count))
    return dnorm


def bn_act_bwd_apply(g: Tensor, y: Tensor | None, dnorm: Tensor) -> Tensor:
    """``a*g + b*y + c``, without y ``a*g``."""
    rows, channels = _rows(g), g.shape[1]

    def run(config):
        dy = torch.empty_like(g)
        arguments = g, y, dnorm, dy, rows, channels
        launch(kernels.bn_act_bwd_apply, config.grid(rows, channels), config, *arguments, INDEX=index_type(g))
        return dy

    key = "bn_act_bwd_apply", rows, channels, g.dtype, y is not None
    return tuned(key, configs.elementwise(channels), run)
