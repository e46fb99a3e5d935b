"""Table 1 of the paper: what residual networks of 18 to 152 layers cost, counted and measured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from pandas import DataFrame
from rich.table import Table
from torch import nn

from fused_resnet.analysis.printing import Printer
from fused_resnet.models import Bottleneck, create, multiply_adds, parameter_count

from . import measured

__all__ = ["COLUMNS", "DEPTHS", "cost", "counts", "draw", "with_paper_stride"]

PAPER_MULTIPLY_ADDS = {18: 1.8e9, 34: 3.6e9, 50: 3.8e9, 101: 7.6e9, 152: 11.3e9}  # table 1's last row
DEPTHS = tuple(PAPER_MULTIPLY_ADDS)
PAPER_SIZE = 224
COLUMNS = (
    "network",
    "variant",
    "parameters",
    "multiply_adds",
    "multiply_adds_paper_stride",
    "paper_multiply_adds",
    *measured.COLUMNS,
)


def with_paper_stride(model: nn.Module) -> nn.Module:
    """`model` with every bottleneck's stride moved, in place, from the 3x3 to the first 1x1 convolution."""
    for block in model.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = (block.stride, block.stride), (1, 1)
    return model


def counts(depth: int) -> dict[str, Any]:
    """Parameters and multiply-adds of one image of 224x224, without running anything.

    Returns:
        ``network``, ``parameters``, ``multiply_adds`` as this package's networks have them,
        ``multiply_adds_paper_stride`` (the same for 18 and 34 layers, which have no bottlenecks) and
        ``paper_multiply_adds``, as table 1 prints them.

    Raises:
        ValueError: `depth` is not in table 1.
    """
    if depth not in PAPER_MULTIPLY_ADDS:
        raise ValueError(f"depth: expected one of {DEPTHS}, got {depth!r}")
    with torch.device("meta"):
        model = create(f"resnet{depth}", fused=False)
    image = (1, 3, PAPER_SIZE, PAPER_SIZE)
    return {
        "network": f"ResNet-{depth}",
        "parameters": parameter_count(model),
        "multiply_adds": multiply_adds(model, image),
        "multiply_adds_paper_stride": multiply_adds(with_paper_stride(model), image),
        "paper_multiply_adds": PAPER_MULTIPLY_ADDS[depth],
    }


def cost(
    printer: Printer,
    *,
    batch: int,
    size: int,
    rounds: int,
    device: torch.device,
    memory: str = "balanced",
    depths: Sequence[int] = DEPTHS,
) -> DataFrame:
    """Counts and measures the networks, and prints tables of both.

    Args:
        batch, size: images that are measured with, ``[batch, 3, size, size]`` fp32. Counts are for one of
            224x224 throughout.
        rounds: timed runs of everything.
        memory: of the fused variant, as `fused_resnet.fuse` takes it.

    Returns:
        `COLUMNS`, one row per network and variant; see `measured.measure`.

    Raises:
        ValueError: a depth that is not in table 1, or a number too small; before anything runs.
    """
    measured.check(batch=batch, size=size, rounds=rounds, memory=memory)
    if not depths or any(depth not in DEPTHS for depth in depths):
        raise ValueError(f"depths: expected some of {DEPTHS}, got {tuple(depths)}")
    counted = {found["network"]: found for found in map(counts, depths)}
    printer.console.print(_counts_table(list(counted.values())))
    subjects = {
        f"ResNet-{depth}": partial(measured.network, f"resnet{depth}", batch=batch, size=size, device=device)
        for depth in depths
    }
    rows = measured.measure(printer, subjects, rounds=rounds, device=device, memory=memory)
    title = f'Batch {batch} at {size}×{size}, fused with memory="{memory}": median (quartiles) of {rounds}'
    printer.console.print(measured.table(rows, title))
    return DataFrame([counted[row["network"]] | row for row in rows], columns=list(COLUMNS))


def _counts_table(counted: Sequence[dict[str, Any]]) -> Table:
    table = Table("", title="Table 1: multiply-adds (10⁹) of one image of 224×224")
    for heading in ("parameters", "stride on the 3×3", "stride on the first 1×1", "paper"):
        table.add_column(heading, justify="right")
    for found in counted:
        ours = [f"{found[name] / 1e9:.3f}" for name in ("multiply_adds", "multiply_adds_paper_stride")]
        paper = f"{found['paper_multiply_adds'] / 1e9:.1f}"
        table.add_row(found["network"], f"{found['parameters']:,}", *ours, paper)
    return table


def draw(frame: DataFrame) -> Figure:
    """Time per image, with quartiles, and peak memory over multiply-adds, from a frame of `cost`."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for variant, part in frame.groupby("variant", sort=False):
        color, x = measured.COLORS[variant], part["multiply_adds"] / 1e9
        for work, line, marker in ((measured.TRAINING, "-", "o"), (measured.INFERENCE, "--", "s")):
            y, quartiles = measured.per_image(part, work)
            style = {"color": color, "linestyle": line, "marker": marker, "markersize": 4, "capsize": 2}
            left.errorbar(x, y, yerr=quartiles, label=f"{work}, {variant}", **style)
        right.plot(x, part["peak_bytes"] / 2**20, color=color, marker="o", markersize=4, label=variant)
    batch, size = frame["batch"].iloc[0], frame["size"].iloc[0]
    left.set(title="Training step and inference", ylabel="ms per image: median, quartiles")
    right.set(title="Training step: peak memory", ylabel="MiB of activations at once")
    for axes in (left, right):
        axes.set(xlabel="multiply-adds at 224×224 (10⁹)", xlim=0, ylim=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    depths = ", ".join(name.removeprefix("ResNet-") for name in frame["network"].unique())
    figure.suptitle(f"ResNet {depths}, batch {batch} at {size}×{size}")
    return figure
