"""What becomes of an image on its way to the network. Random numbers are drawn from torch's own generator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from fused_resnet.study.recipes import IMAGENET

from .options import Options

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's red, green and blue
TENSOR = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])  # [3, H, W], from 0 to 1
NORMALISE = v2.Normalize(MEAN, DEVIATION)

# Of the covariance of ImageNet's red, green and blue between 0 and 1, as published with the reimplementations
# of Krizhevsky 2012; a column of VECTORS belongs to a value. DEVIATION_OF_COLOURS is the paper's.
VALUES = (0.2175, 0.0188, 0.0045)
VECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
DEVIATION_OF_COLOURS = 0.1


def scaled(pixels: int, size: int) -> int:
    """A side that the paper has for crops of 224 pixels, for crops of `size`."""
    return pixels * size // IMAGENET.crop


class ShorterSide(nn.Module):
    """Resizes an image so that its shorter side is drawn from low to high, both included."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, image: Any) -> Any:
        side = int(torch.randint(self.low, self.high + 1, ()))
        return v2.functional.resize(image, [side])


class PrincipalColours(nn.Module):
    """Adds one colour to all pixels ``[3, H, W]`` between 0 and 1 (Krizhevsky et al. 2012, section 4.1).

    The colour is the sum of the principal components, each times its eigenvalue and a normal number.
    """

    def forward(self, image: Tensor) -> Tensor:
        drawn = torch.randn(3) * DEVIATION_OF_COLOURS
        colour = torch.tensor(VECTORS) @ (drawn * torch.tensor(VALUES))
        return image + colour[:, None, None]


def augmentation(options: Options) -> v2.Compose:
    """Of training images: what the recipe varies, ``[3, size, size]`` in the end."""
    size, flip = options.size, v2.RandomHorizontalFlip()
    if options.recipe == "paper":
        low, high = (scaled(side, size) for side in IMAGENET.shorter_side)
        crop = (ShorterSide(low, high), v2.RandomCrop(size))
        return v2.Compose([*crop, flip, TENSOR, PrincipalColours(), NORMALISE])
    return v2.Compose([v2.RandomResizedCrop(size), flip, TENSOR, NORMALISE])


def centre(size: int) -> v2.Compose:
    """The middle of an image, ``[3, size, size]``."""
    resize = v2.Resize(scaled(IMAGENET.test_shorter_side, size))
    return v2.Compose([resize, v2.CenterCrop(size), TENSOR, NORMALISE])


def ten_crops(size: int) -> v2.Compose:
    """The four corners, the middle, and the mirror images of these, ``[10, 3, size, size]``."""
    resize = v2.Resize(scaled(IMAGENET.test_shorter_side, size))
    return v2.Compose([resize, TENSOR, NORMALISE, v2.TenCrop(size), torch.stack])


class Scales(nn.Module):
    """The whole image with each of the `sides` as its shorter one: a list of ``[3, H, W]``."""

    def __init__(self, sides: tuple[int, ...]) -> None:
        super().__init__()
        self.sides = sides

    def forward(self, image: Any) -> list[Tensor]:
        return [NORMALISE(TENSOR(v2.functional.resize(image, [side]))) for side in self.sides]


def scales(size: int) -> Scales:
    """Those of multi-scale testing."""
    return Scales(tuple(scaled(side, size) for side in IMAGENET.test_scales))
