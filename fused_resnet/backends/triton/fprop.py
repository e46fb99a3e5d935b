"""Forward convolutions."""

from __future__ import annotations

from torch import Tensor

from ..tuning import tuned
from . import configs
from .geometry import Sizes, activation, krsc, precision, scratch, sizes
from .kernels.conv_fprop import conv_fprop as kernel
from .launch import index_type, launch
from .merge import merge_moments


def _candidates(s: Sizes, x: Tensor):
    return configs.gemm(s.rows, s.k // s.groups, s.wide, x.dtype, precision(x))


def _launch(config, s: Sizes, x, weight, out, x_norm, x_act, bias, norm, residual, act, mean, m2):
    grid = configs.cdiv(s.rows, config.BLOCK_M) * configs.cdiv(s.k // s.groups, config.BLOCK_N), s.groups
    launch(
        kernel,
        grid,
        config,
        *(x, krsc(weight), out, x_norm, bias, norm, residual, mean, m2),
        **s.arguments(),
        X_RELU=x_act == "relu",
        RELU=act == "relu",
        FLAT=s.flat,
        ALIGN=s.align,
        PRECISION=precision(x),
        INDEX=index_type(x, out),
    )


def conv_fprop(x, weight, bias, x_norm, x_act, stride, padding, dilation, groups, norm, residual, act):
    """``act(scale*(conv(z) + bias) + shift + residual)`` in one kernel."""
    s = sizes(x.shape, weight.shape, stride, padding, dilation, groups)

    def run(config):
        out = activation(x, s.n, s.k, s.p, s.q)
        _launch(config, s, x, weight, out, x_norm, x_act, bias, norm, residual, act, None, None)
        return out

    given = tuple(t is not None for t in (x_norm, bias, norm, residual))
    return tuned(("conv_fprop", s, x.dtype, *given), _candidates(s, x), run)


def conv_fprop_stats(x, weight, x_norm, x_act, stride, padding, dilation, groups):
    """The raw convolution and its batch statistics, taken while the output is still in registers."""
    s = sizes(x.shape, weight.shape, stride, padding, dilation, groups)

    def run(config):
        y = activation(x, s.n, s.k, s.p, s.q)
        mean, m2 = scratch(x, 2, configs.cdiv(s.rows, config.BLOCK_M), s.k)
        _launch(config, s, x, weight, y, x_norm, x_act, None, None, None, "identity", mean, m2)
        return y, *merge_moments(mean, m2, config.BLOCK_M, s.rows)

    return tuned(("conv_fprop_stats", s, x.dtype, x_norm is not None), _candidates(s, x), run)
