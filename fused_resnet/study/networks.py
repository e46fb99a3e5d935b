"""The networks of the experiments on small images, by the names that tables and files have."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from fused_resnet.models import Bottleneck, CifarResNet, WideResNet

__all__ = ["NETWORKS", "build"]

DEPTHS = (8, 20, 32, 44, 56, 110)
# Cardinality x width of a group in the first stage, at equal cost: a quarter of Xie et al. 2016, table 2.
CARDINALITIES = ((2, 10), (4, 6))

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{f"plain-{depth}": partial(CifarResNet, depth, residual=False) for depth in DEPTHS},
    **{f"resnet-{depth}": partial(CifarResNet, depth, shortcut="A") for depth in DEPTHS},
    **{f"resnet-{depth}-B": partial(CifarResNet, depth, shortcut="B") for depth in DEPTHS},
    **{f"resnet-{depth}-C": partial(CifarResNet, depth, shortcut="C") for depth in DEPTHS},
    "bottleneck-29": partial(CifarResNet, 29, block=Bottleneck, shortcut="B"),
    **{
        f"resnext-29-{groups}x{width}d": partial(
            CifarResNet, 29, block=Bottleneck, shortcut="B", groups=groups, width_per_group=width
        )
        for groups, width in CARDINALITIES
    },
    "wrn-40-1": partial(WideResNet, 40, 1),
    "wrn-16-2": partial(WideResNet, 16, 2),
    "wrn-16-2-dropout": partial(WideResNet, 16, 2, dropout=0.3),
    "wrn-28-10": partial(WideResNet, 28, 10),
    "wrn-28-10-dropout": partial(WideResNet, 28, 10, dropout=0.3),
}


def build(name: str, seed: int) -> nn.Module:
    """One of `NETWORKS` in stock form, for 10 classes, with weights drawn from the seed."""
    torch.manual_seed(seed)
    return NETWORKS[name]()
