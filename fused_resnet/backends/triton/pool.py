"""The stem's max-pool, which normalises while it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..tuning import tuned
from . import configs
from .geometry import activation, output_size, scratch
from .kernels import pool as kernels
from .launch import index_type, launch
from .merge import merge_sums


def _window(act: str, kernel_size, stride, padding) -> dict[str, Any]:
    """The kernels' names for the activation and the window."""
    return {
        **dict(RELU=act == "relu", KERNEL_H=kernel_size[0], KERNEL_W=kernel_size[1]),
        **dict(STRIDE_H=stride[0], STRIDE_W=stride[1], PAD_H=padding[0], PAD_W=padding[1]),
    }


def bn_act_maxpool(
    y: Tensor,
    norm: Tensor,
    act: str,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Max-pool of ``act(scale*y + shift)``, and where in its window each maximum is."""
    n, channels, h, w = y.shape
    p, q = output_size((h, w), kernel_size, stride, padding)

    def run(config):
        out = activation(y, n, channels, p, q)
        argmax = torch.empty_like(out, dtype=torch.uint8)
        launch(
            kernels.bn_act_maxpool,
            config.grid(n * p * q, channels),
            config,
            *(y, norm, out, argmax, n * p * q, h, w, p, q, channels),
            **_window(act, kernel_size, stride, padding),
            INDEX=index_type(y, out),
        )
        return out, argmax

    key = "bn_act_maxpool", tuple(y.shape), y.dtype, *kernel_size, *stride
    return tuned(key, configs.windows(channels), run)


def bn_act_maxpool_bwd_reduce(
    dout: Tensor,
    argmax: Tensor,
    y: Tensor,
    norm: Tensor,
    act: str,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Gradient g of BN's output behind a max-pool, and its sums."""
    n, channels, h, w = y.shape
    p, q = dout.shape[2:]

    def run(config):
        split = config.split(n * h * w, channels)
        g, parts = torch.empty_like(y), scratch(y, split.parts, 2, channels)
        launch(
            kernels.bn_act_maxpool_bwd_reduce,
            split.grid,
            config,
            *(dout, argmax, y, norm, g, parts, n * h * w, h, w, p, q, channels, split.per_program),
            **_window(act, kernel_size, stride, padding),
            INDEX=index_type(y, dout),
        )
        return g, merge_sums(parts)

    key = "bn_act_maxpool_bwd_reduce", tuple(y.shape), y.dtype, *kernel_size, *stride
    return tuned(key, configs.windows(channels), run)
