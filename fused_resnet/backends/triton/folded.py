"""Folded 1x1 convolutions: their input gradients, and a block's tail together with its projection."""

from __future__ import annotations

from ..tuning import tuned
from . import configs
from .dgrad import lattice_tiles
from .geometry import Sizes, activation, precision, scratch, sizes
from .kernels import folded as kernels
from .launch import index_type, launch
from .merge import merge_sums


def _pointwise(x, channels, stride) -> Sizes:
    """Of a 1x1 convolution from x to `channels`."""
    return sizes(x.shape, (channels, x.shape[1], 1, 1), stride, (0, 0), (1, 1), 1)


def _launch_dgrad(config, s: Sizes, g, weight_g, x, x_norm, x_act, weight_x, bias, residual, out, sums):
    launch(
        kernels.folded_dgrad,
        (lattice_tiles(s, config.BLOCK_M) * configs.cdiv(s.c, config.BLOCK_N), 1, s.stride[0] * s.stride[1]),
        config,
        *(g, weight_g.contiguous(), x, x_norm, weight_x.contiguous(), bias, residual, out, sums),
        **dict(N=s.n, H=s.h, W=s.w, P=s.p, Q=s.q, C=s.c, K=s.k, STRIDE_H=s.stride[0], STRIDE_W=s.stride[1]),
        X_RELU=x_act == "relu",
        PRECISION=precision(g),
        INDEX=index_type(g, out),
    )


def _candidates(s: Sizes, g):
    return configs.gemm(s.rows, s.c, s.align == 16, g.dtype, precision(g))


def folded_dgrad(g, weight_g, x, x_norm, x_act, weight_x, bias, stride, residual):
    """``g @ weight_g + z @ weight_x + bias + residual`` in one kernel."""
    s = _pointwise(x, g.shape[1], stride)

    def run(config):
        dx = activation(g, s.n, s.c, s.h, s.w)
        _launch_dgrad(config, s, g, weight_g, x, x_norm, x_act, weight_x, bias, residual, dx, None)
        return dx

    given = tuple(t is not None for t in (x_norm, residual))
    return tuned(("folded_dgrad", s, g.dtype, *given), _candidates(s, g), run)


def folded_dgrad_reduce(g, weight_g, x, x_norm, x_act, weight_x, bias):
    """`folded_dgrad` at stride 1, masked by the activation of the unit that made x; its BN sums."""
    s = _pointwise(x, g.shape[1], (1, 1))

    def run(config):
        dx = activation(g, s.n, s.c, s.h, s.w)
        sums = scratch(g, lattice_tiles(s, config.BLOCK_M), 2, s.c)
        _launch_dgrad(config, s, g, weight_g, x, x_norm, x_act, weight_x, bias, None, dx, sums)
        return dx, merge_sums(sums)

    return tuned(("folded_dgrad_reduce", s, g.dtype), _candidates(s, g), run)


def conv_fprop_dual(
    x, weight, x_norm, x_act, norm, shortcut_x, shortcut_weight, shortcut_stride, shortcut_norm, act
):
    """Two 1x1 convolutions with known BNs, added and activated in one kernel."""
    k, c = weight.shape[:2]
    s = _pointwise(shortcut_x, k, shortcut_stride)

    def run(config):
        out = activation(x, s.n, k, s.p, s.q)
        launch(
            kernels.conv_fprop_dual,
            (configs.cdiv(s.rows, config.BLOCK_M) * configs.cdiv(k, config.BLOCK_N),),
            config,
            *(
                x,
                weight.contiguous(),
                x_norm,
                norm,
                shortcut_x,
                shortcut_weight.contiguous(),
                shortcut_norm,
                out,
            ),
            **dict(N=s.n, H=s.h, W=s.w, P=s.p, Q=s.q, C=c, D=s.c, K=k),
            STRIDE_H=s.stride[0],
            STRIDE_W=s.stride[1],
            X_RELU=x_act == "relu",
            RELU=act == "relu",
            PRECISION=precision(x),
            INDEX=index_type(shortcut_x, out),
        )
        return out

    candidates = configs.dual(s.rows, k, s.align == 16 and c % 16 == 0, x.dtype, precision(x))
    return tuned(("conv_fprop_dual", s, c, x.dtype, x_norm is not None), candidates, run)
