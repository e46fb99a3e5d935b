"""Input gradients of convolutions."""

from __future__ import annotations

import math

from ..tuning import tuned
from . import configs
from .geometry import Sizes, activation, krsc, precision, scratch, sizes
from .kernels.conv_dgrad import conv_dgrad as kernel
from .launch import index_type, launch
from .merge import merge_sums


def lattice_tiles(s: Sizes, block: int) -> int:
    """Tiles of rows of the largest of the lattices that the stride leaves (kernels/conv_dgrad.py)."""
    return configs.cdiv(s.n * configs.cdiv(s.h, s.stride[0]) * configs.cdiv(s.w, s.stride[1]), block)


def _candidates(s: Sizes, g, y):
    rows, columns, reads = s.n * s.h * s.w, s.c // s.groups, 1 if y is None else 2
    return configs.gemm(rows, columns, s.align == 16, g.dtype, precision(g), reads)


def _launch(config, s: Sizes, g, y, dnorm, weight, out, residual, x, x_norm, sums, x_act):
    tiles = lattice_tiles(s, config.BLOCK_M) * configs.cdiv(s.c // s.groups, config.BLOCK_N)
    launch(
        kernel,
        (tiles, s.groups, s.stride[0] * s.stride[1]),
        config,
        *(g, y, dnorm, krsc(weight), out, residual, x, x_norm, sums),
        **s.arguments(),
        STEP_R=s.stride[0] // math.gcd(s.stride[0], s.dilation[0]),
        STEP_S=s.stride[1] // math.gcd(s.stride[1], s.dilation[1]),
        X_RELU=x_act == "relu",
        ALIGN=s.align,
        PRECISION=precision(g),
        INDEX=index_type(g, out),
    )


def conv_dgrad(g, weight, input_size, stride, padding, dilation, groups, y, dnorm, residual):
    """Gradient of the input plus the residual's gradient, in one kernel."""
    s = sizes(input_size, weight.shape, stride, padding, dilation, groups)

    def run(config):
        dx = activation(g, s.n, s.c, s.h, s.w)
        _launch(config, s, g, y, dnorm, weight, dx, residual, None, None, None, "identity")
        return dx

    given = tuple(t is not None for t in (y, dnorm, residual))
    return tuned(("conv_dgrad", s, g.dtype, *given), _candidates(s, g, y), run)


def conv_dgrad_reduce(g, weight, stride, padding, dilation, groups, y, dnorm, x, x_norm, x_act):
    """`conv_dgrad`, masked by the activation of the unit that made x, and that unit's BN sums."""
    s = sizes(x.shape, weight.shape, stride, padding, dilation, groups)

    def run(config):
        dx = activation(g, s.n, s.c, s.h, s.w)
        sums = scratch(g, lattice_tiles(s, config.BLOCK_M) * s.stride[0] * s.stride[1], 2, s.c)
        _launch(config, s, g, y, dnorm, weight, dx, None, x, x_norm, sums, x_act)
        return dx, merge_sums(sums)

    given = tuple(t is not None for t in (y, dnorm))
    return tuned(("conv_dgrad_reduce", s, g.dtype, *given), _candidates(s, g, y), run)
