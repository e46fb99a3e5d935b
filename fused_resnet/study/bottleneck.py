"""Figure 5 of the paper: a basic block beside a bottleneck of about the same cost, alone and as networks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas import DataFrame
from rich.table import Table
from torch import Tensor, nn

from fused_resnet.analysis.printing import Printer
from fused_resnet.models import BasicBlock, Bottleneck, create, multiply_adds, parameter_count

from . import measured
from .measured import INFERENCE, TRAINING, Subject

__all__ = ["COLUMNS", "bottleneck", "counts", "draw"]

PAPER_SIZE = 224
SHRINK = 4  # of the images' height and width, where the blocks of figure 5 are
# name -> makes it, channels of its input
BLOCKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "basic block": (lambda: BasicBlock(64, 64), 64),
    "bottleneck block": (lambda: Bottleneck(256, 64), 256),
}
NETWORKS = {"ResNet-34": "resnet34", "ResNet-50": "resnet50"}
COLUMNS = ("network", "variant", "parameters", "multiply_adds", *measured.COLUMNS)


def counts() -> dict[str, dict[str, Any]]:
    """``parameters`` and ``multiply_adds`` of the two blocks and the two networks, by name.

    Multiply-adds are of one image of 224x224: blocks are at 56x56.
    """
    found = {}
    with torch.device("meta"):
        for name, (make, channels) in BLOCKS.items():
            found[name] = _counts(make(), channels, PAPER_SIZE // SHRINK)
        for name, factory in NETWORKS.items():
            found[name] = _counts(create(factory, fused=False), 3, PAPER_SIZE)
    return found


def _counts(model: nn.Module, channels: int, size: int) -> dict[str, Any]:
    return {
        "parameters": parameter_count(model),
        "multiply_adds": multiply_adds(model, (1, channels, size, size)),
    }


def _block(name: str, *, batch: int, size: int, device: torch.device) -> Subject:
    """A block that gets a gradient for its output and gives one for its input, as inside a network."""
    torch.manual_seed(measured.SEED)
    make, channels = BLOCKS[name]
    stock = nn.Sequential(make())
    input, gradient = (measured.placed(torch.randn(batch, channels, size, size), device) for _ in range(2))

    def backward(output: Tensor) -> None:
        output.backward(gradient)

    return Subject(measured.placed(stock, device), input.requires_grad_(), backward)


def bottleneck(
    printer: Printer, *, batch: int, size: int, rounds: int, device: torch.device, memory: str = "balanced"
) -> DataFrame:
    """Counts and measures both pairs, and prints tables of both.

    Args:
        batch, size: the networks get ``[batch, 3, size, size]`` fp32, the blocks a quarter of the height and
            width. Counts are for one image of 224x224 throughout.
        rounds: timed runs of everything.
        memory: of the fused variant, as `fused_resnet.fuse` takes it.

    Returns:
        `COLUMNS`, one row per block or network and variant; see `measured.measure`.

    Raises:
        ValueError: a number too small or an unknown mode; before anything runs.
    """
    measured.check(batch=batch, size=size, rounds=rounds, memory=memory)
    counted = counts()
    printer.console.print(_counts_table(counted))
    subjects: dict[str, Callable[[], Subject]] = {
        name: partial(_block, name, batch=batch, size=size // SHRINK, device=device) for name in BLOCKS
    }
    for name, factory in NETWORKS.items():
        subjects[name] = partial(measured.network, factory, batch=batch, size=size, device=device)
    rows = measured.measure(printer, subjects, rounds=rounds, device=device, memory=memory)
    title = f'Batch {batch} at {size}×{size}, fused with memory="{memory}": median (quartiles) of {rounds}'
    printer.console.print(measured.table(rows, title))
    return DataFrame([counted[row["network"]] | row for row in rows], columns=list(COLUMNS))


def _counts_table(counted: dict[str, dict[str, Any]]) -> Table:
    table = Table("", title="Basic and bottleneck: of one image of 224×224, blocks at 56×56")
    for heading in ("parameters", "multiply-adds (10⁹)"):
        table.add_column(heading, justify="right")
    for name, found in counted.items():
        table.add_row(name, f"{found['parameters']:,}", f"{found['multiply_adds'] / 1e9:.3f}")
    return table


# ---- the figure ----------------------------------------------------------------------------------


def draw(frame: DataFrame) -> Figure:
    """Bars of time per image, with quartiles, and of peak memory, from a frame of `bottleneck`."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    for line, names in zip(figure.subplots(2, 3), (list(BLOCKS), list(NETWORKS)), strict=True):
        pair = frame[frame["network"].isin(names)]
        training, inference, peak = line
        _bars(training, pair, partial(measured.per_image, work=TRAINING))
        _bars(inference, pair, partial(measured.per_image, work=INFERENCE))
        _bars(peak, pair, lambda part: (part["peak_bytes"] / 2**20, None))
        training.set(title="training step", ylabel="ms per image: median, quartiles")
        inference.set(title="inference", ylabel="ms per image: median, quartiles")
        peak.set(title="training step: peak memory", ylabel="MiB of activations at once")
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
    )
    networks = frame[frame["network"].isin(list(NETWORKS))]
    batch, size = networks["batch"].iloc[0], networks["size"].iloc[0]
    figure.suptitle(f"Basic beside bottleneck, batch {batch} at {size}×{size}, blocks at a quarter of it")
    return figure


def _bars(axes: Axes, pair: DataFrame, heights: Callable[[DataFrame], tuple[Any, Any]]) -> None:
    """Stock and fused side by side, for each of the pair."""
    width = 0.38
    for offset, (variant, part) in zip(
        (-width / 2, width / 2), pair.groupby("variant", sort=False), strict=True
    ):
        values, quartiles = heights(part)
        places = [place + offset for place in range(len(part))]
        axes.bar(
            places, values, width, yerr=quartiles, color=measured.COLORS[variant], label=variant, capsize=2
        )
    axes.set_xticks(range(pair["network"].nunique()), list(pair["network"].unique()))
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
