"""What the tests of the experiments share: few images, and a recipe of few steps."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F

from fused_resnet.study import data
from fused_resnet.study.recipes import DIGITS

SHORT = replace(DIGITS, batch=16, steps=9, milestones=(4, 6))  # of 64 images: four steps an epoch


def some_images(count: int = 64, size: int = 8) -> data.Images:
    """Digits, of which a network of 8 layers learns something in nine steps."""
    images = data.handwritten_digits()
    small = F.interpolate(images.train[: count + 32], size=(size, size)).contiguous(
        memory_format=torch.channels_last
    )
    labels = images.train_labels[: count + 32]
    return data.Images("some", small[:count], labels[:count], small[count:], labels[count:])
