"""Residual blocks in stock form: ordinary convolution, batch norm, ReLU and add modules."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

__all__ = ["BasicBlock", "Bottleneck", "PlainBasicBlock", "PreActBasicBlock"]


def _conv3x3(in_channels: int, out_channels: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, groups=groups, bias=False)


def _conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2015, figure 5 left).

    Attribute names, order of operations and ``state_dict`` keys are torchvision's.

    Args:
        in_channels: channels of the input.
        channels: channels of both convolutions and of the output.
        stride: spatial stride, on the first convolution.
        downsample: module on the shortcut; ``None`` for the identity.
        groups: must be 1; present so that all blocks are built alike.
        base_width: must be 64; likewise.

    Shape:
        Input ``(N, in_channels, H, W)``; output ``(N, channels, ceil(H / stride), ceil(W / stride))``.

    Raises:
        ValueError: ``groups`` is not 1 or ``base_width`` is not 64.
    """

    expansion: ClassVar[int] = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
    ) -> None:
        super().__init__()
        if groups != 1:
            raise ValueError(f"groups must be 1 for BasicBlock, got {groups}")
        if base_width != 64:
            raise ValueError(f"base_width must be 64 for BasicBlock, got {base_width}")
        self.conv1 = _conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block; see the class for shapes."""
        identity = x
        out: Tensor = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        out = self.relu(out)
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a shortcut (He et al. 2015, figure 5 right).

    As torchvision, the stride is on the 3x3 convolution ("ResNet v1.5"); the paper has it on the
    first 1x1. ``groups`` and ``base_width`` give ResNeXt (Xie et al. 2016) and wide ResNets
    (Zagoruyko & Komodakis 2016): the 3x3 has ``int(channels * base_width / 64) * groups`` channels.

    Args:
        in_channels: channels of the input.
        channels: a quarter of the output's channels.
        stride: spatial stride, on the 3x3 convolution.
        downsample: module on the shortcut; ``None`` for the identity.
        groups: groups of the 3x3 convolution.
        base_width: channels per group of the 3x3 where ``channels`` is 64.

    Shape:
        Input ``(N, in_channels, H, W)``;
        output ``(N, 4 * channels, ceil(H / stride), ceil(W / stride))``.
    """

    expansion: ClassVar[int] = 4

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        groups: int = 1,
        base_width: int = 64,
    ) -> None:
        super().__init__()
        width = int(channels * (base_width / 64.0)) * groups
        self.conv1 = _conv1x1(in_channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride, groups)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv1x1(width, channels * self.expansion)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block; see the class for shapes."""
        identity = x
        out: Tensor = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        out = self.relu(out)
        out = self.conv3(out)
        out = self.bn3(out)
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        out = self.relu(out)
        return out


class PlainBasicBlock(nn.Module):
    """The twin of ``BasicBlock`` without the shortcut (the "plain" nets of He et al. 2015, section 3.3).

    Args:
        in_channels: channels of the input.
        channels: channels of both convolutions and of the output.
        stride: spatial stride, on the first convolution.

    Shape:
        Input ``(N, in_channels, H, W)``; output ``(N, channels, ceil(H / stride), ceil(W / stride))``.
    """

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = _conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block; see the class for shapes."""
        out: Tensor = self.conv1(x)
        out = self.bn1(out)
        out = self.relu(out)
        out = self.conv2(out)
        out = self.bn2(out)
        out = self.relu(out)
        return out


class PreActBasicBlock(nn.Module):
    """BN-ReLU-conv3x3-BN-ReLU-dropout-conv3x3 and a shortcut, as in wide residual networks.

    Source: Zagoruyko & Komodakis, "Wide Residual Networks" (2016), on the pre-activation block of
    He et al., "Identity Mappings in Deep Residual Networks" (2016). Where the shape changes the
    shortcut is a 1x1 convolution (no batch norm) of the pre-activated input, elsewhere the raw input.

    Args:
        in_channels: channels of the input.
        channels: channels of both convolutions and of the output.
        stride: spatial stride, on the first convolution.
        dropout: probability of zeroing a value before the second convolution, in ``[0, 1)``.

    Shape:
        Input ``(N, in_channels, H, W)``; output ``(N, channels, ceil(H / stride), ceil(W / stride))``.

    Raises:
        ValueError: ``dropout`` is outside ``[0, 1)``.
    """

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {dropout}")
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv1 = _conv3x3(in_channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.dropout: nn.Module = nn.Dropout(dropout) if dropout > 0.0 else nn.Identity()
        self.conv2 = _conv3x3(channels, channels)
        changes = stride != 1 or in_channels != channels
        self.downsample = _conv1x1(in_channels, channels, stride) if changes else None
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block; see the class for shapes."""
        identity = x
        out: Tensor = self.bn1(x)
        out = self.relu(out)
        if self.downsample is not None:
            identity = self.downsample(out)
        out = self.conv1(out)
        out = self.bn2(out)
        out = self.relu(out)
        out = self.dropout(out)
        out = self.conv2(out)
        out += identity
        return out
