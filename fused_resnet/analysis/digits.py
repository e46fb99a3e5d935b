"""Real images that need no download: scikit-learn's handwritten digits (UCI, Alpaydin and Kaynak 1998)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Digits", "load"]


class Digits(NamedTuple):
    """Images ``[N, 3, size, size]`` fp32, channels_last, of zero mean and unit variance; labels 0 to 9.

    The three channels are equal: one channel alone would be dense in both layouts, and layers would guess.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load(size: int = 32) -> Digits:
    """The 1,797 digits of 8x8 pixels, enlarged bilinearly, split 80/20 with every class in proportion.

    The split is the same at every call: 1,437 and 360 images.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None]
    images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    labels = torch.from_numpy(digits.target).long()
    train, test = train_test_split(range(len(labels)), test_size=0.2, random_state=0, stratify=labels)
    deviation, mean = torch.std_mean(images[train])
    images = ((images - mean) / deviation).expand(-1, 3, -1, -1)
    images = images.contiguous(memory_format=torch.channels_last)
    return Digits(images[train], labels[train], images[test], labels[test])
