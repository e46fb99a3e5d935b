"""Tests of a trained network on the validation images, as papers report them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

import fused_resnet
from fused_resnet.analysis.progress import Ticker

from .data import loading, share
from .job import Job
from .model import Model, autocast, placed
from .options import Options
from .results import hits, line, rates, write_rows
from .transforms import centre, scales, ten_crops

ENDS_WITH = {"avgpool": nn.AdaptiveAvgPool2d, "fc": nn.Linear}


class Way(NamedTuple):
    """A way to test.

    Attributes:
        transform: one image to its views.
        images: so many at a time, None where views have no common size: then one, without a dimension for it.
        scores: of what `transform` made of them and a loader stacked, ``[images, classes]``.
    """

    transform: Callable[[Any], Any]
    images: int | None
    scores: Callable[[Any], Tensor]


def check(options: Options, net: nn.Module) -> None:
    """Refuse a test that the network is not made for.

    Raises:
        ValueError: --test multi-scale, and the network has no `avgpool` and `fc`.
    """
    wrong = [name for name, kind in ENDS_WITH.items() if not isinstance(getattr(net, name, None), kind)]
    if wrong and "multi-scale" in options.tests:
        kinds = " and ".join(f"{name} (nn.{kind.__name__})" for name, kind in ENDS_WITH.items())
        raise ValueError(
            f"--test multi-scale: the network must end in {kinds}; {options.arch} has no such {wrong[0]}"
        )


def run(model: Model, options: Options, job: Job, console: Console) -> None:
    """Run every test that was asked for: a line of text and a row of OUTPUT/tests.csv each."""
    rows: list[dict[str, float | str]] = []
    for test in options.tests:
        sums = count(test, model.net, options, job, console)
        row: dict[str, float | str] = {"test": test, "images": int(sums[-1]), **rates(sums, "")}
        if model.ema:
            row |= rates(count(test, model.ema.module, options, job, console), "ema_")
        rows.append(row)
        console.print(line(row, "test"), highlight=False, soft_wrap=True)
        if job.first:
            write_rows(options.output / "tests.csv", rows)


@torch.no_grad()
def count(test: str, net: nn.Module, options: Options, job: Job, console: Console) -> Tensor:
    """`hits` over all validation images and processes. Each process tests a share of the images.

    They have the same network: the last validation, or the checkpoint, gave all the first one's buffers.
    """
    net.eval()
    way = WAYS[test](net, options, job)
    images = ImageFolder(str(options.data / "val"), way.transform)
    loader = DataLoader(share(images, job), way.images, **loading(options, job))
    sums = torch.zeros(3, dtype=torch.float64, device=job.device)
    with Ticker(console, test, len(loader)) as ticker:
        for views, labels in loader:
            sums += hits(way.scores(views), torch.as_tensor(labels, device=job.device).view(-1))
            ticker.advance()
    net.train()
    return job.total(sums)


# ---- the ways ------------------------------------------------------------------------------------


def by_centre(net: nn.Module, options: Options, job: Job) -> Way:
    """As the validation of every epoch."""

    def scores(images: Tensor) -> Tensor:
        return logits(net, images, options, job)

    return Way(centre(options.size), options.batch, scores)


def by_ten_crops(net: nn.Module, options: Options, job: Job) -> Way:
    """The mean of the softmax over ten crops (Krizhevsky et al. 2012, section 4.1)."""

    def scores(crops: Tensor) -> Tensor:
        found = logits(net, crops.flatten(0, 1), options, job).softmax(1)
        return found.unflatten(0, crops.shape[:2]).mean(1)

    # As many crops at a time as validation has images, as far as ten go into it.
    return Way(ten_crops(options.size), max(1, options.batch // 10), scores)


def by_scales(net: nn.Module, options: Options, job: Job) -> Way:
    """The mean of the softmax over scales and mirror images of a fully convolutional network.

    Simonyan & Zisserman 2015, section 3.2, with the scales of He et al. 2015, section 3.4.
    """
    whole = FullyConvolutional(net, options, job)

    def scores(views: list[Tensor]) -> Tensor:
        # Of many sizes, each seen a few times: measuring engines would take longer than running any.
        with fused_resnet.tuning.policy("off"):
            pairs = (torch.stack((view, view.flip(-1))) for view in views)
            found = [logits(whole, pair, options, job).softmax(1).mean(0) for pair in pairs]
        return torch.stack(found).mean(0, keepdim=True)

    return Way(scales(options.size), None, scores)


WAYS = {"centre": by_centre, "ten-crop": by_ten_crops, "multi-scale": by_scales}


def logits(net: Callable[[Tensor], Tensor], images: Tensor, options: Options, job: Job) -> Tensor:
    """What `net` says of images ``[N, 3, H, W]``, as validation runs it, then as fp64."""
    with autocast(options, job.device):
        return net(placed(images, options, job)).double()


class FullyConvolutional:
    """`net` on images of any size from ``[N, 3, size, size]`` on: ``[N, classes]``.

    Its last feature map at `size`, 7x7 at 224, is a window that slides over larger ones in steps of one. The
    mean of each window goes through the linear layer, which on the channels of every place is a 1x1
    convolution, and the class scores are averaged over the places.

    The features are taken from the call of `avgpool`, by a hook that is there for that one call. So the
    network runs its own forward, stock or fused, and nothing in it is replaced or copied
    (`torch.func.functional_call` replaces parameters, and this needs another pooling). What it makes of the
    features itself is a global mean and one product, and is thrown away.
    """

    def __init__(self, net: nn.Module, options: Options, job: Job) -> None:
        self.net = net
        image = placed(torch.zeros(1, 3, options.size, options.size), options, job)
        with autocast(options, job.device):
            self.window = tuple(self.features(image).shape[-2:])

    def __call__(self, images: Tensor) -> Tensor:
        means = F.avg_pool2d(self.features(images), self.window, stride=1)
        return self.net.fc(means.movedim(1, -1)).double().mean((1, 2))

    def features(self, images: Tensor) -> Tensor:
        """What `avgpool` gets, ``[N, channels, h, w]``."""
        found: list[Tensor] = []
        hook = self.net.avgpool.register_forward_pre_hook(lambda _, inputs: found.extend(inputs))
        try:
            self.net(images)
        finally:
            hook.remove()
        return found[0]
