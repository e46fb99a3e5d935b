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
from fused_resnet.models.blocks import BasicBlock, Bottleneck, PlainBasicBlock

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

    3x3 stem of 16 channels with batch norm and ReLU, three stages of ``n`` blocks with 16, 32 and 64
    channels times the block's expansion (the second and third start with stride 2), global average
    pooling, linear layer.

    Args:
        depth: weighted layers, for ``n >= 1`` blocks per stage ``6n + 2`` of ``BasicBlock`` or ``9n + 2`` of
            ``Bottleneck``.
        block: ``BasicBlock``, or ``Bottleneck`` as in He et al., "Identity Mappings in Deep Residual
            Networks" (2016), appendix.
        residual: with shortcuts; otherwise the plain twin, of equal parameters and multiply-adds as
            the network with ``shortcut="A"``.
        shortcut: ``"A"`` zero padding where the shape changes (the paper's choice for CIFAR), ``"B"``
            projection where the shape changes, ``"C"`` projection in every block; unused where
            ``residual`` is false.
        num_classes: size of the output.
        in_channels: channels of the input.
        groups: groups of the bottleneck's 3x3 convolution (ResNeXt, Xie et al. 2016).
        width_per_group: channels per group of that convolution in the first stage.

    Shape:
        Input ``(N, in_channels, H, W)``, 32x32 in the paper; output ``(N, num_classes)`` logits.

    Raises:
        ValueError: ``depth`` does not fit the block, ``shortcut`` is unknown, ``num_classes``,
            ``in_channels``, ``groups`` or ``width_per_group`` is below 1, one of the last two is changed for
            a block that has no bottleneck, or a bottleneck is to have no shortcut.
    """

    def __init__(
        self,
        depth: int,
        *,
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
        residual: bool = True,
        shortcut: Shortcut = "A",
        num_classes: int = 10,
        in_channels: int = 3,
        groups: int = 1,
        width_per_group: int = 16,
    ) -> None:
        super().__init__()
        bottleneck = issubclass(block, Bottleneck)
        per_block = 9 if bottleneck else 6  # layers of a block in each of the three stages
        if not isinstance(depth, int) or depth < per_block + 2 or (depth - 2) % per_block != 0:
            raise ValueError(f"depth must be {per_block}n + 2 with n >= 1, got {depth!r}")
        check_shortcut(shortcut)
        check_positive("num_classes", num_classes)
        check_positive("in_channels", in_channels)
        check_positive("groups", groups)
        check_positive("width_per_group", width_per_group)
        if bottleneck and not residual:
            raise ValueError("residual must be true for Bottleneck, got False")
        if not bottleneck and groups != 1:
            raise ValueError(f"groups must be 1 for {block.__name__}, got {groups}")
        if not bottleneck and width_per_group != 16:
            raise ValueError(f"width_per_group must be 16 for {block.__name__}, got {width_per_group}")
        blocks = (depth - 2) // per_block
        # Blocks count the width of a group where a stage has 64 channels; the first one here has 16.
        self.groups, self.base_width = groups, 4 * width_per_group
        kind = shortcut if residual else None
        self.conv1 = nn.Conv2d(in_channels, 16, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._stage(block, 16, 16, blocks, 1, kind)
        self.layer2 = self._stage(block, 16 * block.expansion, 32, blocks, 2, kind)
        self.layer3 = self._stage(block, 32 * block.expansion, 64, blocks, 2, kind)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(64 * block.expansion, num_classes)
        he_initialise(self)

    def _stage(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        in_channels: int,
        channels: int,
        blocks: int,
        stride: int,
        kind: Shortcut | None,
    ) -> nn.Sequential:
        out_channels = channels * block.expansion
        stage: list[nn.Module] = []
        for index in range(blocks):
            source = in_channels if index == 0 else out_channels
            step = stride if index == 0 else 1
            if kind is None:
                stage.append(PlainBasicBlock(source, channels, step))
            else:
                downsample = make_shortcut(kind, source, out_channels, step)
                stage.append(block(source, channels, step, downsample, self.groups, self.base_width))
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
