"""ImageNet networks: ResNet, its plain twins, wide ResNet and ResNeXt.

Bottleneck networks have the stride on the 3x3 convolution, as torchvision; their multiply-adds at
224x224 (4.09, 7.80, 11.51 G for 50, 101, 152 layers) are therefore above table 1 of the paper (3.8,
7.6, 11.3 G), which has it on the first 1x1.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    "ResNet",
    "plain18",
    "plain34",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "wide_resnet50_2",
]

Block = type[BasicBlock] | type[Bottleneck] | type[PlainBasicBlock]


class ResNet(nn.Module):
    """Residual network for large images (He et al. 2015, table 1).

    Stem (7x7 convolution of stride 2, batch norm, ReLU, 3x3 max pooling of stride 2), four stages of
    64, 128, 256 and 512 channels times the block's expansion, global average pooling, linear layer.
    With ``shortcut="B"`` the ``state_dict`` has torchvision's keys and shapes.

    Args:
        block: ``BasicBlock``, ``Bottleneck``, or ``PlainBasicBlock`` for a network without shortcuts.
        layers: number of blocks in each of the four stages.
        shortcut: ``"A"`` zero padding where the shape changes, ``"B"`` projection where the shape
            changes (torchvision), ``"C"`` projection in every block; unused by ``PlainBasicBlock``.
        num_classes: size of the output.
        groups: groups of the bottleneck's 3x3 convolution.
        width_per_group: channels per group of that convolution in the first stage.

    Shape:
        Input ``(N, 3, H, W)``, 224x224 in the paper; output ``(N, num_classes)`` logits.

    Raises:
        ValueError: ``layers`` is not four positive integers, ``shortcut`` is unknown, ``num_classes``,
            ``groups`` or ``width_per_group`` is below 1, or ``groups`` or ``width_per_group`` is
            changed for a block that has no bottleneck.
    """

    def __init__(
        self,
        block: Block,
        layers: Sequence[int],
        *,
        shortcut: Shortcut = "B",
        num_classes: int = 1000,
        groups: int = 1,
        width_per_group: int = 64,
    ) -> None:
        super().__init__()
        if len(layers) != 4 or any(not isinstance(n, int) or n < 1 for n in layers):
            raise ValueError(f"layers must be four positive integers, got {layers!r}")
        check_shortcut(shortcut)
        check_positive("num_classes", num_classes)
        check_positive("groups", groups)
        check_positive("width_per_group", width_per_group)
        if not issubclass(block, Bottleneck):
            if groups != 1:
                raise ValueError(f"groups must be 1 for {block.__name__}, got {groups}")
            if width_per_group != 64:
                raise ValueError(f"width_per_group must be 64 for {block.__name__}, got {width_per_group}")
        self.groups = groups
        self.base_width = width_per_group
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self._stage(block, 64, 64, layers[0], 1, shortcut)
        self.layer2 = self._stage(block, 64 * block.expansion, 128, layers[1], 2, shortcut)
        self.layer3 = self._stage(block, 128 * block.expansion, 256, layers[2], 2, shortcut)
        self.layer4 = self._stage(block, 256 * block.expansion, 512, layers[3], 2, shortcut)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(512 * block.expansion, num_classes)
        he_initialise(self)

    def _stage(
        self, block: Block, in_channels: int, channels: int, blocks: int, stride: int, shortcut: Shortcut
    ) -> nn.Sequential:
        out_channels = channels * block.expansion
        stage: list[nn.Module] = []
        for index in range(blocks):
            source = in_channels if index == 0 else out_channels
            step = stride if index == 0 else 1
            if issubclass(block, PlainBasicBlock):
                stage.append(block(source, channels, step))
            else:
                # Built before the block, as torchvision does: one seed gives both the same weights.
                downsample = make_shortcut(shortcut, source, out_channels, step)
                stage.append(block(source, channels, step, downsample, self.groups, self.base_width))
        return nn.Sequential(*stage)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of images ``(N, 3, H, W)``."""
        x = self.conv1(x)
        x = self.bn1(x)
        x = self.relu(x)
        x = self.maxpool(x)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)
        x = self.avgpool(x)
        x = torch.flatten(x, 1)
        x = self.fc(x)
        return x


def resnet18(
    *, fused: bool = True, num_classes: int = 1000, memory: str = "balanced", shortcut: Shortcut = "B"
) -> ResNet:
    """ResNet-18 (He et al. 2015, table 1).

    11,689,512 parameters with ``shortcut="B"``, 1.814G multiply-adds at 224x224.

    Args:
        fused: convert with ``fused_resnet.fuse``; otherwise the stock modules.
        num_classes: size of the output.
        memory: memory policy passed to ``fuse``.
        shortcut: the paper's option ``"A"``, ``"B"`` or ``"C"``; see ``ResNet``.

    Raises:
        ValueError: ``num_classes`` is below 1 or ``shortcut`` is unknown.
    """
    model = ResNet(BasicBlock, (2, 2, 2, 2), shortcut=shortcut, num_classes=num_classes)
    return fuse_if(model, fused, memory)


def resnet34(
    *, fused: bool = True, num_classes: int = 1000, memory: str = "balanced", shortcut: Shortcut = "B"
) -> ResNet:
    """ResNet-34 (He et al. 2015, table 1).

    21,797,672 parameters with ``shortcut="B"``, 3.664G multiply-adds at 224x224.

    Args:
        fused: convert with ``fused_resnet.fuse``; otherwise the stock modules.
        num_classes: size of the output.
        memory: memory policy passed to ``fuse``.
        shortcut: the paper's option ``"A"``, ``"B"`` or ``"C"``; see ``ResNet``.

    Raises:
        ValueError: ``num_classes`` is below 1 or ``shortcut`` is unknown.
    """
    model = ResNet(BasicBlock, (3, 4, 6, 3), shortcut=shortcut, num_classes=num_classes)
    return fuse_if(model, fused, memory)


def resnet50(
    *, fused: bool = True, num_classes: int = 1000, memory: str = "balanced", shortcut: Shortcut = "B"
) -> ResNet:
    """ResNet-50, stride on the 3x3 (He et al. 2015, table 1).

    25,557,032 parameters with ``shortcut="B"``, 4.089G multiply-adds at 224x224.

    Args:
        fused: convert with ``fused_resnet.fuse``; otherwise the stock modules.
        num_classes: size of the output.
        memory: memory policy passed to ``fuse``.
        shortcut: the paper's option ``"A"``, ``"B"`` or ``"C"``; see ``ResNet``.

    Raises:
        ValueError: ``num_classes`` is below 1 or ``shortcut`` is unknown.
    """
    model = ResNet(Bottleneck, (3, 4, 6, 3), shortcut=shortcut, num_classes=num_classes)
    return fuse_if(model, fused, memory)


def resnet101(
    *, fused: bool = True, num_classes: int = 1000, memory: str = "balanced", shortcut: Shortcut = "B"
) -> ResNet:
    """ResNet-101, stride on the 3x3 (He et al. 2015, table 1).

    44,549,160 parameters with ``shortcut="B"``, 7.801G multiply-adds at 224x224.

    Args:
        fused: convert with ``fused_resnet.fuse``; otherwise the stock modules.
        num_classes: size of the output.
        memory: memory policy passed to ``fuse``.
        shortcut: the paper's option ``"A"``, ``"B"`` or ``"C"``; see ``ResNet``.

    Raises:
        ValueError: ``num_classes`` is below 1 or ``shortcut`` is unknown.
    """
    model = ResNet(Bottleneck, (3, 4, 23, 3), shortcut=shortcut, num_classes=num_classes)
    return fuse_if(model, fused, memory)


def resnet152(
    *, fused: bool = True, num_classes: int = 1000, memory: str = "balanced", shortcut: Shortcut = "B"
) -> ResNet:
    """ResNet-152, stride on the 3x3 (He et al. 2015, table 1).

    60,192,808 parameters with ``shortcut="B"``, 11.514G multiply-adds at 224x224.

    Args:
        fused: convert with ``fused_resnet.fuse``; otherwise the stock modules.
        num_classes: size of the output.
        memory: memory policy passed to ``fuse``.
        shortcut: the paper's option ``"A"``, ``"B"`` or ``"C"``; see ``ResNet``.

    Raises:
        ValueError: ``num_classes`` is below 1 or ``shortcut`` is unknown.
    """
    model = ResNet(Bottleneck, (3, 8, 36, 3), shortcut=shortcut, num_classes=num_classes)
    return fuse_if(model, fused, memory)


def wide_resnet50_2(
    *, fused: bool = True, num_classes: int = 1000, memory: str = "balanced", shortcut: Shortcut = "B"
) -> ResNet:
    """Wide ResNet-50-2: twice the 3x3 channels (Zagoruyko & Komodakis, "Wide Residual Networks", 2016).

    68,883,240 parameters with ``shortcut="B"``, 11.398G multiply-adds at 224x224.

    Args:
        fused: convert with ``fused_resnet.fuse``; otherwise the stock modules.
        num_classes: size of the output.
        memory: memory policy passed to ``fuse``.
        shortcut: the paper's option ``"A"``, ``"B"`` or ``"C"``; see ``ResNet``.

    Raises:
        ValueError: ``num_classes`` is below 1 or ``shortcut`` is unknown.
    """
    model = ResNet(Bottleneck, (3, 4, 6, 3), shortcut=shortcut, num_classes=num_classes, width_per_group=128)
    return fuse_if(model, fused, memory)


def resnext50_32x4d(
    *, fused: bool = True, num_classes: int = 1000, memory: str = "balanced", shortcut: Shortcut = "B"
) -> ResNet:
    """ResNeXt-50 32x4d (Xie et al., "Aggregated Residual Transformations", 2016).

    25,028,904 parameters with ``shortcut="B"``, 4.230G multiply-adds at 224x224.

    Args:
        fused: convert with ``fused_resnet.fuse``; otherwise the stock modules.
        num_classes: size of the output.
        memory: memory policy passed to ``fuse``.
        shortcut: the paper's option ``"A"``, ``"B"`` or ``"C"``; see ``ResNet``.

    Raises:
        ValueError: ``num_classes`` is below 1 or ``shortcut`` is unknown.
    """
    layers = (3, 4, 6, 3)
    model = ResNet(
        Bottleneck, layers, shortcut=shortcut, num_classes=num_classes, groups=32, width_per_group=4
    )
    return fuse_if(model, fused, memory)


def plain18(*, fused: bool = True, num_classes: int = 1000, memory: str = "balanced") -> ResNet:
    """The 18-layer net without shortcuts (He et al. 2015, section 3.3).

    11,515,688 parameters, 1.795G multiply-adds at 224x224.

    Args:
        fused: convert with ``fused_resnet.fuse``; otherwise the stock modules.
        num_classes: size of the output.
        memory: memory policy passed to ``fuse``.

    Raises:
        ValueError: ``num_classes`` is below 1.
    """
    return fuse_if(ResNet(PlainBasicBlock, (2, 2, 2, 2), num_classes=num_classes), fused, memory)


def plain34(*, fused: bool = True, num_classes: int = 1000, memory: str = "balanced") -> ResNet:
    """The 34-layer net without shortcuts (He et al. 2015, figure 3 middle).

    21,623,848 parameters, 3.644G multiply-adds at 224x224.

    Args:
        fused: convert with ``fused_resnet.fuse``; otherwise the stock modules.
        num_classes: size of the output.
        memory: memory policy passed to ``fuse``.

    Raises:
        ValueError: ``num_classes`` is below 1.
    """
    return fuse_if(ResNet(PlainBasicBlock, (3, 4, 6, 3), num_classes=num_classes), fused, memory)
