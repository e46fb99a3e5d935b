"""Moments of what a 1x1 convolution reads."""

from __future__ import annotations

from ..tuning import tuned
from . import configs
from .geometry import precision, scratch, sizes
from .kernels.gram import gram as kernel
from .kernels.gram import merge_gram
from .launch import index_type, launch

SUM_ROWS = 16  # rows of a block that lie in different threads


def _merge(x, x_norm, x_act, products, sums, rows):
    splits, channels, _ = products.shape
    mean, moments = scratch(x, channels), scratch(x, channels, channels)
    config = configs.MERGE_GRAM
    tiles = configs.cdiv(channels, config.BLOCK)
    launch(
        merge_gram,
        (tiles, tiles),
        config,
        *(x, x_norm, products, sums, mean, moments, rows, splits, channels),
        X_RELU=x_act == "relu",
        INDEX=index_type(products),
    )
    return mean, moments


def gram(x, x_norm, x_act, stride):
    """``mean = z.mean(0); (z - mean).T @ (z - mean)`` of the rows z."""
    channels = x.shape[1]
    s = sizes(x.shape, (channels, channels, 1, 1), stride, (0, 0), (1, 1), 1)

    def run(config):
        side = configs.cdiv(channels, config.BLOCK_C)
        splits, steps = configs.split(s.rows, config.BLOCK_M, side * (side + 1) // 2)
        products, sums = scratch(x, splits, channels, channels), scratch(x, splits, 2, channels)
        launch(
            kernel,
            (side * side, splits),
            config,
            *(x, x_norm, products, sums, s.n, s.h, s.w, s.p, s.q, channels, steps),
            STRIDE_H=s.stride[0],
            STRIDE_W=s.stride[1],
            X_RELU=x_act == "relu",
            PRECISION=precision(x),
            SINGLE=side == 1,
            INDEX=index_type(x, products),
            SUM_ROWS=SUM_ROWS,
        )
        return _merge(x, x_norm, x_act, products, sums, s.rows)

    candidates = configs.gram(channels, x.dtype, precision(x))
    return tuned(("gram", s, x.dtype, x_norm is not None), candidates, run)
