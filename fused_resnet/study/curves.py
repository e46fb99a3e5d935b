"""Errors over epochs, as the paper's figures 1, 4 and 6: training thin and dashed, testing bold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["draw", "palette"]

COLORS = ("#30638e", "#d1495b", "#edae49", "#4f772d", "#6a4c93")


def palette(networks: Sequence[str]) -> dict[str, str]:
    return dict(zip(networks, COLORS, strict=False))


def draw(frame: pandas.DataFrame, panels: Mapping[str, Sequence[str]], title: str) -> Figure:
    """A panel per group of networks; lines are medians over seeds, the bands reach from the least to the
    greatest. Below one per cent the scale is linear.

    Args: frame: of `tables.epochs`.
    """
    figure = Figure(figsize=(5.2 * len(panels), 4.4), layout="constrained")
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (name, networks) in zip(all_axes, panels.items(), strict=True):
        for network, color in palette(networks).items():
            _curves(axes, frame[frame["network"] == network], network, color)
        axes.set_title(name, loc="left", fontweight="bold")
        axes.set_xlabel("epoch")
        axes.set_yscale("symlog", linthresh=1.0)
        axes.set_ylim(0, 100)
        axes.set_yticks([0, 0.5, 1, 2, 5, 10, 20, 50, 100])
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    all_axes[0].set_ylabel("error, %")
    seeds = frame["seed"].nunique()
    figure.suptitle(
        f"{title}: bold test error, dashed training error; median and range of {seeds} seeds", fontsize=10
    )
    return figure


def _curves(axes: Axes, frame: pandas.DataFrame, label: str, color: str) -> None:
    for error, style in (
        ("train_error", {"linewidth": 0.9, "linestyle": "--"}),
        ("test_error", {"linewidth": 2.0, "label": label}),
    ):
        of_epoch = 100 * frame.groupby("epoch")[error].agg(["median", "min", "max"])
        axes.plot(of_epoch.index, of_epoch["median"], color=color, **style)  # type: ignore[arg-type]
        axes.fill_between(
            of_epoch.index, of_epoch["min"], of_epoch["max"], color=color, alpha=0.12, linewidth=0
        )
