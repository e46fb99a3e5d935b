"""CIFAR networks of He et al. 2015, section 4.2: residual networks of depth 6n + 2 and their plain twins."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fused_resnet.models._common import (
    Shortcut,
    check_positive,
    check_shortcut,
    fuse_if,
    he_initialise,
    make_shortcut,
)
from fused_resnet.models.blocks import BasicBlock, PlainBasicBlock

__all__ = [
    "CifarResNet",
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
]


class CifarResNet(nn.Module):
    """Residual network for 32x32 images (He et al. 2015, section 4.2).

    3x3 stem of 16 channels with batch norm and ReLU, three stages of ``n`` basic blocks with 16, 32
    and 64 channels (the second and third start with stride 2), global average pooling, linear layer.

    Args:
        depth: weighted layers, ``6n + 2`` for ``n >= 1`` blocks per stage.
        residual: with shortcuts; otherwise the plain twin, of equal parameters and multiply-adds as
            the network with ``shortcut="A"``.
        shortcut: ``"A"`` zero padding where the shape changes (the paper's choice for CIFAR), ``"B"``
            projection where the shape changes, ``"C"`` projection in every block; unused where
            ``residual`` is false.
        num_classes: size of the output.
        in_channels: channels of the input.

    Shape:
        Input ``(N, in_channels, H, W)``, 32x32 in the paper; output ``(N, num_classes)`` logits.

    Raises:
        ValueError: ``depth`` is not ``6n + 2``, ``shortcut`` is unknown, or ``num_classes`` or
            ``in_channels`` is below 1.
    """

    def __init__(
        self,
        depth: int,
        *,
        residual: bool = True,
        shortcut: Shortcut = "A",
        num_classes: int = 10,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if not isinstance(depth, int) or depth < 8 or (depth - 2) % 6 != 0:
            raise ValueError(f"depth must be 6n + 2 with n >= 1, got {depth!r}")
        check_shortcut(shortcut)
        check_positive("num_classes", num_classes)
        check_positive("in_channels", in_channels)
        blocks = (depth - 2) // 6
        kind = shortcut if residual else None
        self.conv1 = nn.Conv2d(in_channels, 16, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._stage(16, 16, blocks, 1, kind)
        self.layer2 = self._stage(16, 32, blocks, 2, kind)
        self.layer3 = self._stage(32, 64, blocks, 2, kind)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(64, num_classes)
        he_initialise(self)

    @staticmethod
    def _stage(
        in_channels: int, channels: int, blocks: int, stride: int, kind: Shortcut | None
    ) -> nn.Sequential:
        stage: list[nn.Module] = []
        for index in range(blocks):
            source = in_channels if index == 0 else channels
            step = stride if index == 0 else 1
            if kind is None:
                stage.append(PlainBasicBlock(source, channels, step))
            else:
                stage.append(BasicBlock(source, channels, step, make_shortcut(kind, source, channels, step)))
        return nn.Sequential(*stage)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of images ``(N, in_channels, H, W)``."""
        x = self.conv1(x)
        x = self.bn1(x)
        x = self.relu(x)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.avgpool(x)
        x = torch.flatten(x, 1)
        x = self.fc(x)
        return x


def _residual(
    depth: int, fused: bool, num_classes: int, memory: str, shortcut: Shortcut, in_channels: int
) -> CifarResNet:
    model = CifarResNet(depth, shortcut=shortcut, num_classes=num_classes, in_channels=in_channels)
    return fuse_if(model, fused, memory)


def _plain(depth: int, fused: bool, num_classes: int, memory: str, in_channels: int) -> CifarResNet:
    model = CifarResNet(depth, residual=False, num_classes=num_classes, in_channels=in_channels)
    return fuse_if(model, fused, memory)


def cifar_resnet20(
    *,
    fused: bool = True,
    num_classes: int = 10,
    memory: str = "balanced",
    shortcut: Shortcut = "A",
    in_channels: int = 3,
) -> CifarResNet:
    """ResNet-20 for CIFAR, 0.27M parameters (He et al. 2015, table 6).

    Args:
        fused: convert with ``fused_resnet.fuse``; otherwise the stock modules.
        num_classes: size of the output.
        memory: memory policy passed to ``fuse``.
        shortcut: the paper's option ``"A"``, ``"B"`` or ``"C"``; see ``CifarResNet``.
        in_channels: channels of the input.

    Raises:
        ValueError: ``num_classes`` or ``in_channels`` is below 1, or ``shortcut`` is unknown.
    """
    return _residual(20, fused, num_classes, memory, shortcut, in_channels)


def cifar_resnet32(
    *,
    fused: bool = True,
    num_classes: int = 10,
    memory: str = "balanced",
    shortcut: Shortcut = "A",
    in_channels: int = 3,
) -> CifarResNet:
    """ResNet-32 for CIFAR, 0.46M parameters (He et al. 2015, table 6).

    Arguments, shapes and errors as ``cifar_resnet20``.
    """
    return _residual(32, fused, num_classes, memory, shortcut, in_channels)


def cifar_resnet44(
    *,
    fused: bool = True,
    num_classes: int = 10,
    memory: str = "balanced",
    shortcut: Shortcut = "A",
    in_channels: int = 3,
) -> CifarResNet:
    """ResNet-44 for CIFAR, 0.66M parameters (He et al. 2015, table 6).

    Arguments, shapes and errors as ``cifar_resnet20``.
    """
    return _residual(44, fused, num_classes, memory, shortcut, in_channels)


def cifar_resnet56(
    *,
    fused: bool = True,
    num_classes: int = 10,
    memory: str = "balanced",
    shortcut: Shortcut = "A",
    in_channels: int = 3,
) -> CifarResNet:
    """ResNet-56 for CIFAR, 0.85M parameters (He et al. 2015, table 6).

    Arguments, shapes and errors as ``cifar_resnet20``.
    """
    return _residual(56, fused, num_classes, memory, shortcut, in_channels)


def cifar_resnet110(
    *,
    fused: bool = True,
    num_classes: int = 10,
    memory: str = "balanced",
    shortcut: Shortcut = "A",
    in_channels: int = 3,
) -> CifarResNet:
    """ResNet-110 for CIFAR, 1.7M parameters (He et al. 2015, table 6).

    Arguments, shapes and errors as ``cifar_resnet20``.
    """
    return _residual(110, fused, num_classes, memory, shortcut, in_channels)


def cifar_resnet1202(
    *,
    fused: bool = True,
    num_classes: int = 10,
    memory: str = "balanced",
    shortcut: Shortcut = "A",
    in_channels: int = 3,
) -> CifarResNet:
    """ResNet-1202 for CIFAR, 19.4M parameters (He et al. 2015, table 6).

    Arguments, shapes and errors as ``cifar_resnet20``.
    """
    return _residual(1202, fused, num_classes, memory, shortcut, in_channels)


def cifar_plain20(
    *, fused: bool = True, num_classes: int = 10, memory: str = "balanced", in_channels: int = 3
) -> CifarResNet:
    """The plain twin of ``cifar_resnet20``: the same layers without shortcuts.

    From He et al. 2015, figure 6 left. Arguments, shapes and errors as ``cifar_resnet20``, less
    ``shortcut``.
    """
    return _plain(20, fused, num_classes, memory, in_channels)


def cifar_plain32(
    *, fused: bool = True, num_classes: int = 10, memory: str = "balanced", in_channels: int = 3
) -> CifarResNet:
    """The plain twin of ``cifar_resnet32``: the same layers without shortcuts.

    From He et al. 2015, figure 6 left. Arguments, shapes and errors as ``cifar_resnet20``, less
    ``shortcut``.
    """
    return _plain(32, fused, num_classes, memory, in_channels)


def cifar_plain44(
    *, fused: bool = True, num_classes: int = 10, memory: str = "balanced", in_channels: int = 3
) -> CifarResNet:
    """The plain twin of ``cifar_resnet44``: the same layers without shortcuts.

    From He et al. 2015, figure 6 left. Arguments, shapes and errors as ``cifar_resnet20``, less
    ``shortcut``.
    """
    return _plain(44, fused, num_classes, memory, in_channels)


def cifar_plain56(
    *, fused: bool = True, num_classes: int = 10, memory: str = "balanced", in_channels: int = 3
) -> CifarResNet:
    """The plain twin of ``cifar_resnet56``: the same layers without shortcuts.

    From He et al. 2015, figure 6 left. Arguments, shapes and errors as ``cifar_resnet20``, less
    ``shortcut``.
    """
    return _plain(56, fused, num_classes, memory, in_channels)


def cifar_plain110(
    *, fused: bool = True, num_classes: int = 10, memory: str = "balanced", in_channels: int = 3
) -> CifarResNet:
    """The plain twin of ``cifar_resnet110``: the same layers without shortcuts.

    The paper reports that it does not train (error above 60%; figure 6 leaves it out).
    Arguments, shapes and errors as ``cifar_resnet20``, less ``shortcut``.
    """
    return _plain(110, fused, num_classes, memory, in_channels)


def cifar_plain1202(
    *, fused: bool = True, num_classes: int = 10, memory: str = "balanced", in_channels: int = 3
) -> CifarResNet:
    """The plain twin of ``cifar_resnet1202``: the same layers without shortcuts.

    Not in the paper, which stops at 110 plain layers; here so that each network has its twin.
    Arguments, shapes and errors as ``cifar_resnet20``, less ``shortcut``.
    """
    return _plain(1202, fused, num_classes, memory, in_channels)
