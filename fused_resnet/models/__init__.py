"""Networks of "Deep Residual Learning for Image Recognition" (He et al. 2015) and relatives.

Every factory takes keyword arguments, among them ``fused`` (default true: convert with
``fused_resnet.fuse``), ``num_classes`` and ``memory``. ``create`` builds one by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from fused_resnet.models.blocks import BasicBlock, Bottleneck, PlainBasicBlock, PreActBasicBlock
from fused_resnet.models.cifar import (
    CifarResNet,
    cifar_plain20,
    cifar_plain32,
    cifar_plain44,
    cifar_plain56,
    cifar_plain110,
    cifar_plain1202,
    cifar_resnet20,
    cifar_resnet32,
    cifar_resnet44,
    cifar_resnet56,
    cifar_resnet110,
    cifar_resnet1202,
)
from fused_resnet.models.counting import multiply_adds, parameter_count
from fused_resnet.models.imagenet import (
    ResNet,
    plain18,
    plain34,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    wide_resnet50_2,
)
from fused_resnet.models.wide_resnet import WideResNet, wide_resnet_cifar, wrn_28_10

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "CifarResNet",
    "PlainBasicBlock",
    "PreActBasicBlock",
    "ResNet",
    "WideResNet",
    "cifar_plain20",
    "cifar_plain32",
    "cifar_plain44",
    "cifar_plain56",
    "cifar_plain110",
    "cifar_plain1202",
    "cifar_resnet20",
    "cifar_resnet32",
    "cifar_resnet44",
    "cifar_resnet56",
    "cifar_resnet110",
    "cifar_resnet1202",
    "create",
    "multiply_adds",
    "names",
    "parameter_count",
    "plain18",
    "plain34",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "wide_resnet_cifar",
    "wrn_28_10",
]

_FACTORIES: dict[str, Callable[..., nn.Module]] = {
    factory.__name__: factory
    for factory in (
        resnet18,
        resnet34,
        resnet50,
        resnet101,
        resnet152,
        plain18,
        plain34,
        wide_resnet50_2,
        resnext50_32x4d,
        cifar_resnet20,
        cifar_resnet32,
        cifar_resnet44,
        cifar_resnet56,
        cifar_resnet110,
        cifar_resnet1202,
        cifar_plain20,
        cifar_plain32,
        cifar_plain44,
        cifar_plain56,
        cifar_plain110,
        cifar_plain1202,
        wrn_28_10,
    )
}


def names() -> tuple[str, ...]:
    """Names that ``create`` knows: every network that is complete without further arguments."""
    return tuple(_FACTORIES)


def create(name: str, **kwargs: Any) -> nn.Module:
    """Build a network by name.

    Args:
        name: one of ``names()``.
        kwargs: passed to the factory of that name.

    Raises:
        ValueError: ``name`` is unknown, or the factory refuses an argument's value.
        TypeError: the factory has no such argument.
    """
    if name not in _FACTORIES:
        raise ValueError(f"name must be one of {', '.join(_FACTORIES)}; got {name!r}")
    return _FACTORIES[name](**kwargs)
