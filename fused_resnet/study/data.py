"""Small images for the experiments: a whole data set in memory, and augmented batches cut out of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fused_resnet.analysis import digits

from .recipes import SmallImageRecipe

__all__ = ["DIGITS_SIZE", "Images", "batches", "cifar10", "handwritten_digits", "test_batches"]

DIGITS_SIZE = 16
TEST_BATCH = 500


@dataclass(frozen=True)
class Images:
    """Images ``[N, 3, S, S]`` fp32 in channels_last, labels ``[N]`` int64, all on one device."""

    name: str
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    @property
    def size(self) -> int:
        return self.train.shape[-1]

    def to(self, device: torch.device) -> Images:
        tensors = (self.train, self.train_labels, self.test, self.test_labels)
        return Images(self.name, *(tensor.to(device) for tensor in tensors))

    @cached_property
    def fingerprint(self) -> str:
        """Tells whether two data sets are the same. Every training asks for it."""
        digest = hashlib.sha256()
        for tensor in (self.train, self.train_labels, self.test, self.test_labels):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def handwritten_digits() -> Images:
    """scikit-learn's 1,797 digits, enlarged from 8x8 to 16x16: 1,437 to train with, 360 to test with."""
    return Images("digits", *digits.load(DIGITS_SIZE))


def cifar10(folder: Path) -> Images:
    """CIFAR-10 (Krizhevsky 2009) from a folder that has ``cifar-10-batches-py``; 50,000 and 10,000 images.

    As in the paper, the mean of every pixel over the training images is subtracted.

    Raises:
        FileNotFoundError: the folder does not have it, or its files are not the published ones.
        ImportError: torchvision, which reads and verifies it, is not installed.
    """
    import torchvision

    try:
        train, test = (torchvision.datasets.CIFAR10(str(folder), train=part) for part in (True, False))
    except RuntimeError:
        raise FileNotFoundError(
            f"data: expected a folder with CIFAR-10's cifar-10-batches-py in it, unchanged; got {folder}"
        ) from None
    images = [torch.from_numpy(part.data).permute(0, 3, 1, 2).float() / 255 for part in (train, test)]
    mean = images[0].mean(dim=0)
    centred = [(part - mean).contiguous(memory_format=torch.channels_last) for part in images]
    labels = [torch.tensor(part.targets) for part in (train, test)]
    return Images("cifar10", centred[0], labels[0], centred[1], labels[1])


def batches(
    images: Images, recipe: SmallImageRecipe, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of training batches in random order, augmented; what fills no batch at the end is left out.

    Args:
        generator: on the CPU; all randomness comes from it, so its state decides the epoch.

    Yields:
        Images ``[batch, 3, S, S]`` in channels_last and labels ``[batch]``.
    """
    device = images.train.device
    order = torch.randperm(len(images.train), generator=generator)
    for chosen in order.split(recipe.batch)[: len(order) // recipe.batch]:
        corners = torch.randint(2 * recipe.padding + 1, (len(chosen), 2), generator=generator)
        mirrored = torch.rand(len(chosen), generator=generator) < (0.5 if recipe.flips else 0.0)
        chosen = chosen.to(device)
        padded = F.pad(images.train[chosen], (recipe.padding,) * 4)
        yield crops(padded, corners.to(device), mirrored.to(device), images.size), images.train_labels[chosen]


def crops(images: Tensor, corners: Tensor, mirrored: Tensor, size: int) -> Tensor:
    """Squares of `size` pixels cut out of images, of each somewhere else.

    Equivalent to stacking ``image[:, y : y + size, x : x + size]``, flipped from left to right where
    ``mirrored``, over ``image, (y, x)`` in ``zip(images, corners)``.

    Args: images: ``[N, C, H, W]``. corners: ``[N, 2]`` int64, row and column. mirrored: ``[N]`` bool.

    Returns:
        ``[N, C, size, size]`` in channels_last.
    """
    steps = torch.arange(size, device=images.device)
    rows = corners[:, :1] + steps
    columns = corners[:, 1:] + torch.where(mirrored[:, None], size - 1 - steps, steps)
    which = torch.arange(len(images), device=images.device)
    # Indices on both sides of a slice: what they select comes first, the channels last.
    return images[which[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def test_batches(images: Images) -> Iterator[tuple[Tensor, Tensor]]:
    """All test images as they are, in order."""
    yield from zip(images.test.split(TEST_BATCH), images.test_labels.split(TEST_BATCH), strict=True)
