"""How the paper trains and tests, as configurations (He et al. 2015, sections 3.4 and 4.2).

The networks of `fused_resnet.models` are initialised as the recipes want it ("Delving Deep into Rectifiers",
He et al. 2015): normal weights with variance 2 / fan-out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = [
    "CIFAR",
    "CIFAR_110",
    "DIGITS",
    "DIGITS_110",
    "IMAGENET",
    "ImageNetRecipe",
    "SmallImageRecipe",
    "WarmUp",
]


@dataclass(frozen=True)
class WarmUp:
    """A lower rate at first: up to the end of an epoch whose training error is below `until_error`.

    Attributes: until_error: a share of 1.
    """

    lr: float
    until_error: float


@dataclass(frozen=True)
class SmallImageRecipe:
    """SGD on small images for a number of steps.

    Attributes:
        batch: images per step. lr: the rate at the start, divided by ten after each of the `milestones`.
        momentum, weight_decay: of SGD; the decay is of all parameters.
        steps: in all. milestones: steps done when the rate falls.
        padding: pixels of zeros on every side, out of which an image's own size is cropped anywhere.
        flips: left and right are exchanged in half of the images.
        warm_up: None to start with `lr` at once.
    """

    name: str
    batch: int
    lr: float
    steps: int
    milestones: tuple[int, ...]
    padding: int
    flips: bool
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warm_up: WarmUp | None = None

    def shortened(self, steps: int) -> SmallImageRecipe:
        """The same recipe in another number of steps, with milestones at the same shares of it.

        Raises: ValueError: fewer than one step.
        """
        if steps < 1:
            raise ValueError(f"steps: expected at least 1, got {steps}")
        milestones = tuple(steps * milestone // self.steps for milestone in self.milestones)
        return replace(self, steps=steps, milestones=milestones)


# Section 4.2: 64k iterations, which is about 164 epochs of 50,000 images.
CIFAR = SmallImageRecipe(
    name="cifar", batch=128, lr=0.1, steps=64_000, milestones=(32_000, 48_000), padding=4, flips=True
)
# 0.1 is "slightly too large to start converging" at 110 layers: the paper has 0.01 until the training error
# is below 80 %, in about 400 iterations.
CIFAR_110 = replace(CIFAR, name="cifar-110", warm_up=WarmUp(lr=0.01, until_error=0.80))

# The same in proportion for 1,437 images of 16x16, which are 22 batches: an eighth of the side as padding, 60
# epochs, the rate's falls at half and at three quarters of them. A mirrored digit is none.
DIGITS = SmallImageRecipe(
    name="digits", batch=64, lr=0.1, steps=1_320, milestones=(660, 990), padding=2, flips=False
)
DIGITS_110 = replace(DIGITS, name="digits-110", warm_up=CIFAR_110.warm_up)


@dataclass(frozen=True)
class ImageNetRecipe:
    """SGD on ImageNet until the error stops falling, for a number of epochs at most.

    Attributes:
        batch: images per step, of all processes together. lr: the rate at the start; it is multiplied by
            `plateau_factor` where the validation error has not fallen for over `plateau_patience` epochs.
        momentum, weight_decay: of SGD; the decay is of all parameters. There is no dropout.
        shorter_side: the range, in pixels, in which the shorter side of a training image is drawn (VGG's
            scale augmentation); crops of `crop` pixels are taken out of it, and flipped in half of the cases.
        test_shorter_side: of the images that ten-crop testing crops from.
        test_scales: shorter sides of multi-scale, fully convolutional testing.
    """

    batch: int = 256
    lr: float = 0.1
    epochs: int = 90
    plateau_factor: float = 0.1
    plateau_patience: int = 5
    momentum: float = 0.9
    weight_decay: float = 1e-4
    shorter_side: tuple[int, int] = (256, 480)
    crop: int = 224
    test_shorter_side: int = 256
    test_scales: tuple[int, ...] = (224, 256, 384, 480, 640)


# Section 3.4. The paper does not say how long a plateau is.
IMAGENET = ImageNetRecipe()
