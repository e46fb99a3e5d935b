"""Wide residual networks for 32x32 images (Zagoruyko & Komodakis, "Wide Residual Networks", 2016)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fused_resnet.models._common import check_positive, fuse_if, he_initialise
from fused_resnet.models.blocks import PreActBasicBlock

__all__ = ["WideResNet", "wide_resnet_cifar", "wrn_28_10"]


class WideResNet(nn.Module):
    """WRN-``depth``-``width``: 3x3 stem, three stages of pre-activation blocks, BN, ReLU, pool, linear.

    Args:
        depth: ``6n + 4`` for ``n >= 1`` blocks per stage (the authors' count: the three 1x1
            shortcuts are counted as layers).
        width: widening factor; the stages have ``16, 32, 64`` times ``width`` channels.
        dropout: probability inside each block, in ``[0, 1)``.
        num_classes: size of the output.
        in_channels: channels of the input.

    Shape:
        Input ``(N, in_channels, H, W)``, 32x32 in the paper; output ``(N, num_classes)`` logits.

    Raises:
        ValueError: an argument is out of the range above.
    """

    def __init__(
        self, depth: int, width: int, *, dropout: float = 0.0, num_classes: int = 10, in_channels: int = 3
    ) -> None:
        super().__init__()
        if not isinstance(depth, int) or depth < 10 or (depth - 4) % 6 != 0:
            raise ValueError(f"depth must be 6n + 4 with n >= 1, got {depth!r}")
        check_positive("width", width)
        check_positive("num_classes", num_classes)
        check_positive("in_channels", in_channels)
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.layer1 = self._stage(16, 16 * width, blocks, 1, dropout)
        self.layer2 = self._stage(16 * width, 32 * width, blocks, 2, dropout)
        self.layer3 = self._stage(32 * width, 64 * width, blocks, 2, dropout)
        self.bn = nn.BatchNorm2d(64 * width)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(64 * width, num_classes)
        he_initialise(self)

    @staticmethod
    def _stage(in_channels: int, channels: int, blocks: int, stride: int, dropout: float) -> nn.Sequential:
        first = PreActBasicBlock(in_channels, channels, stride, dropout)
        rest = [PreActBasicBlock(channels, channels, 1, dropout) for _ in range(blocks - 1)]
        return nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes)`` of images ``(N, in_channels, H, W)``."""
        x = self.conv1(x)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.bn(x)
        x = self.relu(x)
        x = self.avgpool(x)
        x = torch.flatten(x, 1)
        x = self.fc(x)
        return x


def wide_resnet_cifar(
    depth: int,
    width: int,
    dropout: float = 0.0,
    num_classes: int = 10,
    *,
    in_channels: int = 3,
    fused: bool = True,
    memory: str = "balanced",
) -> WideResNet:
    """WRN-``depth``-``width`` for 32x32 images (Zagoruyko & Komodakis 2016).

    Args:
        depth: ``6n + 4`` for ``n >= 1``.
        width: widening factor, at least 1.
        dropout: probability inside each block, in ``[0, 1)``.
        num_classes: size of the output.
        in_channels: channels of the input.
        fused: convert with ``fused_resnet.fuse``; otherwise the stock modules.
        memory: memory policy passed to ``fuse``.

    Raises:
        ValueError: an argument is out of the range above.
    """
    model = WideResNet(depth, width, dropout=dropout, num_classes=num_classes, in_channels=in_channels)
    return fuse_if(model, fused, memory)


def wrn_28_10(
    *,
    dropout: float = 0.3,
    num_classes: int = 10,
    in_channels: int = 3,
    fused: bool = True,
    memory: str = "balanced",
) -> WideResNet:
    """WRN-28-10: 36.5M parameters, 5.2G multiply-adds at 32x32 (Zagoruyko & Komodakis 2016, table 4).

    Dropout 0.3 is the paper's value for CIFAR. Arguments and errors as ``wide_resnet_cifar``.
    """
    return wide_resnet_cifar(
        28, 10, dropout, num_classes, in_channels=in_channels, fused=fused, memory=memory
    )
