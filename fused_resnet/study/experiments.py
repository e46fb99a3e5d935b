"""Which networks each experiment compares, how they are trained, and what is known of them beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from fused_resnet.analysis.progress import Ticker
from fused_resnet.models import multiply_adds, parameter_count

from .data import Images
from .networks import NETWORKS
from .recipes import CIFAR, CIFAR_110, DIGITS, DIGITS_110, SmallImageRecipe
from .training import Row, Run, Training

__all__ = ["EXPERIMENTS", "Experiment", "counts", "recipe_of", "train_all"]


MEGA = 10**6


@dataclass(frozen=True)
class Experiment:
    """panels: what a drawing shows side by side, title -> networks; full: the same with --full.

    counts_large: does it tell what larger relatives cost?
    """

    name: str
    help: str
    panels: dict[str, tuple[str, ...]]
    full: dict[str, tuple[str, ...]]
    counts_large: bool = False


def _depths(*depths: int) -> dict[str, tuple[str, ...]]:
    return {
        "plain": tuple(f"plain-{depth}" for depth in depths),
        "residual": tuple(f"resnet-{depth}" for depth in depths),
    }


def _options(*depths: int) -> dict[str, tuple[str, ...]]:
    return {
        f"{depth} layers": (f"resnet-{depth}", f"resnet-{depth}-B", f"resnet-{depth}-C") for depth in depths
    }


CARDINALITY = {"cardinality (ResNeXt)": ("bottleneck-29", "resnext-29-2x10d", "resnext-29-4x6d")}
WIDTH = ("wrn-40-1", "wrn-16-2", "wrn-16-2-dropout")

EXPERIMENTS = (
    Experiment(
        "degradation",
        "Plain against residual networks of 20 and 56 layers (figures 1, 4 and 6).",
        _depths(20, 56),
        _depths(8, 20, 56, 110),
    ),
    Experiment(
        "shortcuts",
        "Zero padding (A), projections where the shape changes (B), projections everywhere (C) (table 3).",
        _options(20, 56),
        _options(20, 56, 110),
    ),
    Experiment(
        "family",
        "Relatives at equal cost: ResNeXt beside bottlenecks; wide networks with and without dropout.",
        {**CARDINALITY, "width (WRN)": WIDTH},
        {**CARDINALITY, "width (WRN)": (*WIDTH, "wrn-28-10", "wrn-28-10-dropout")},
        counts_large=True,
    ),
)


def recipe_of(network: str, images: Images) -> SmallImageRecipe:
    """The paper's recipe for CIFAR-10, or the same in proportion; from 110 layers on with a warm-up."""
    deep = network.split("-")[1] == "110"
    if images.name == "cifar10":
        return CIFAR_110 if deep else CIFAR
    return DIGITS_110 if deep else DIGITS


def counts(network: str, size: int) -> dict[str, int]:
    """Parameters, and multiply-adds of one image of size x size pixels: exact."""
    with torch.device("meta"):
        model = NETWORKS[network]()
    return {"parameters": parameter_count(model), "multiply_adds": multiply_adds(model, (1, 3, size, size))}


def train_all(
    runs: Sequence[Run], images: Images, folder: Path, memory: str, console: Console, title: str
) -> dict[Run, list[Row]]:
    """Every run to its end, those that are there already read from their checkpoints.

    The bar counts multiply-adds of the forward passes, so that deep and shallow networks count as what they
    cost.

    Raises:
        ValueError: a checkpoint in the folder is of another training; before any is trained.
    """
    left = {run: Training(run, images, folder, memory).remaining_steps for run in runs}
    cost = {run: counts(run.network, images.size)["multiply_adds"] * run.recipe.batch // MEGA for run in runs}
    found: dict[Run, list[Row]] = {}
    total = sum(steps * cost[run] for run, steps in left.items())
    with Ticker(console, f"{title}, million multiply-adds", total=total) as ticker:
        for run in runs:
            training = Training(run, images, folder, memory)
            before = training.step
            for row in training.epochs():
                ticker.advance(_note(run, row), (training.step - before) * cost[run])
                before = training.step
            found[run] = training.history
    return found


def _note(run: Run, row: Row) -> str:
    return (
        f"{run.stem}, epoch {row['epoch']}: error {row['train_error']:.1%} in training, "
        f"{row['test_error']:.1%} in testing"
    )
