"""Draws a result file: speed-ups, memory, the roofline. From the file alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .results import Conditions, Row

# Ours in warm colours, others in cool ones and grey: the same contestant has the same colour in every figure.
COLORS = {
    "ours, balanced": "#d1495b",
    "ours, speed": "#e58b51",
    "ours, min": "#8c2f39",
    "ours, cpu": "#d1495b",
    "ours, triton": "#e58b51",
    "ours, cuda": "#8c2f39",
    "ours, library": "#edae49",
    "eager": "#5f6b76",
    "eager NCHW": "#a3adb5",
    "torch.compile": "#30638e",
    "torch.compile max-autotune": "#00798c",
    "OpenVINO": "#6a4c93",
    "ONNX Runtime": "#b08bbb",
    "InPlace-ABN": "#4f772d",
    "Apex groupbn": "#90a955",
}
MARKERS = {"op": "o", "block": "s", "network": "D"}
SHOWN_CONDITIONS = ("GPU", "CPU", "clock", "threads", "torch", "commit", "date")


def draw(rows: Sequence[Row], conditions: Conditions, folder: Path, stem: str, suffix: str) -> list[Path]:
    """Writes the figures that the rows have data for; gives their paths.

    Args: suffix: "svg", "png" or "pdf".
    """
    figures: dict[str, Callable[[Sequence[Row]], Figure | None]] = {
        "speedup": speedup,
        "memory": memory,
        "roofline": roofline,
    }
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with matplotlib.rc_context(
        {"svg.hashsalt": "fused_resnet", "font.size": 9, "font.family": "DejaVu Sans"}
    ):
        for name, make in figures.items():
            figure = make(rows)
            if figure is None:
                continue
            figure.supxlabel(_conditions(conditions), x=0.01, ha="left", fontsize=6.5, color="#444444")
            path = folder / f"{stem}-{name}.{suffix}"
            metadata = {"Date": None} if suffix == "svg" else None
            figure.savefig(path, dpi=150, bbox_inches="tight", facecolor="white", metadata=metadata)
            written.append(path)
    return written


def _conditions(conditions: Conditions) -> str:
    told = (f"{name}: {conditions[name]}" for name in SHOWN_CONDITIONS if conditions.get(name))
    return "   ".join(told)


def _color(contestant: str) -> str:
    return COLORS.get(contestant.removesuffix(", CUDA graph"), "#999999")


def _hatch(contestant: str) -> str:
    return "///" if contestant.endswith("CUDA graph") else ""


# ---- bars ----------------------------------------------------------------------------------------


def _panels(rows: Sequence[Row]) -> Iterator[tuple[str, list[list[Row]]]]:
    """A title and the works in it, each with its contestants: one panel per level, mode and dtype."""
    found: dict[tuple[str, str, str], dict[Any, list[Row]]] = {}
    for row in rows:
        found.setdefault((row.level, row.mode, row.dtype), {}).setdefault(row.group, []).append(row)
    for (level, mode, dtype), works in found.items():
        title = f"{level}s, {dtype}" if mode == level else f"{level}s, {mode}, {dtype}"
        yield title, list(works.values())


def _bars(
    rows: Sequence[Row], value: Callable[[Row], float | None]
) -> tuple[Figure, list[tuple[Axes, list]]] | None:
    """Axes with a slot for every bar: (row, its height on the axis)."""
    shown = [row for row in rows if value(row) is not None]
    if not shown:
        return None
    panels = list(_panels(shown))
    heights = [sum(len(work) + 1 for work in works) for _, works in panels]
    figure = Figure(figsize=(8, 1.0 + 0.17 * sum(heights) + 0.6 * len(panels)), layout="constrained")
    all_axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    made = []
    for axes, (title, works) in zip(all_axes, panels, strict=True):
        slots, ticks, y = [], [], 0.0
        for work in works:
            ticks.append((y + (len(work) - 1) / 2, _label(work[0])))
            slots += [(row, y + index) for index, row in enumerate(work)]
            y += len(work) + 1
        axes.set_yticks([t for t, _ in ticks], [label for _, label in ticks])
        axes.invert_yaxis()
        axes.set_title(title, loc="left", fontweight="bold")
        axes.grid(axis="x", alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        made.append((axes, slots))
    _legend(figure, shown)
    return figure, made


def _label(row: Row) -> str:
    return f"{row.work}\nbatch {row.batch}" if row.level != "op" else row.work


def _legend(figure: Figure, rows: Sequence[Row]) -> None:
    from matplotlib.patches import Patch

    names = dict.fromkeys(row.contestant for row in rows)
    patches = [Patch(facecolor=_color(n), hatch=_hatch(n), edgecolor="white", label=n) for n in names]
    figure.legend(handles=patches, loc="outside upper center", ncols=4, frameon=False)


def speedup(rows: Sequence[Row]) -> Figure | None:
    """Times as fast as eager in channels_last; thin lines reach to the quartiles."""
    made = _bars(rows, lambda row: row.speedup)
    if made is None:
        return None
    figure, panels = made
    for axes, slots in panels:
        for row, y in slots:
            axes.barh(
                y, row.speedup, color=_color(row.contestant), hatch=_hatch(row.contestant), edgecolor="white"
            )
            base = row.speedup * row.median_s
            axes.hlines(
                y, base / row.third_quartile_s, base / row.first_quartile_s, color="black", linewidth=0.8
            )
            axes.text(row.speedup, y, f" {row.speedup:.2f}", va="center", fontsize=6.5)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xlabel("times as fast as eager, channels_last")
    return figure


def memory(rows: Sequence[Row]) -> Figure | None:
    """The most activation memory at once, and in darker colour what is kept for backward."""
    made = _bars(rows, lambda row: row.peak_bytes)
    if made is None:
        return None
    figure, panels = made
    for axes, slots in panels:
        for row, y in slots:
            peak, kept = row.peak_bytes / 2**20, (row.kept_bytes or 0) / 2**20
            color = _color(row.contestant)
            axes.barh(y, peak, color=color, alpha=0.5, edgecolor="white")
            axes.barh(y, kept, color=color, edgecolor="white")
            axes.text(peak, y, f" {peak:.0f}" + (f" ({kept:.0f})" if kept else ""), va="center", fontsize=6.5)
        axes.set_xlabel("MiB of activations: most at once (dark, in brackets: kept for backward)")
    return figure


# ---- the roofline --------------------------------------------------------------------------------


def roofline(rows: Sequence[Row]) -> Figure | None:
    """Operations per second over operations per byte, under the ceilings of the machine.

    Bytes are those that the contestant's operators touch; contestants whose operators are unknown are left
    out.
    """
    shown = [row for row in rows if row.bytes_per_s and row.flops_per_s]
    if not shown:
        return None
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    intensity = [row.flops / row.moved_bytes for row in shown]  # type: ignore[operator]
    _roofs(axes, shown, min(intensity) / 2, max(intensity) * 2)
    for row, x in zip(shown, intensity, strict=True):
        axes.scatter(
            x,
            row.flops_per_s / 1e9,  # type: ignore[operator]
            s=26,
            marker=MARKERS[row.level],
            color=_color(row.contestant),
            edgecolor="white",
            linewidth=0.5,
            zorder=3,
        )
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte moved (counted)", ylabel="GFLOP/s (measured)")
    axes.grid(alpha=0.25, which="both")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    _legend(figure, shown)
    levels = dict.fromkeys(row.level for row in shown)
    handles = [axes.scatter([], [], marker=MARKERS[n], color="black", s=26, label=f"{n}s") for n in levels]
    axes.legend(handles=handles, loc="lower right", frameon=False)
    return figure


def _roofs(axes: Axes, rows: Sequence[Row], left: float, right: float) -> None:
    """One per dtype."""
    for dtype in dict.fromkeys(row.dtype for row in rows):
        row = next(row for row in rows if row.dtype == dtype)
        ridge = row.ceiling_flops_per_s / row.ceiling_bytes_per_s
        xs = [min(left, ridge), ridge, max(right, ridge)]
        ys = [min(x * row.ceiling_bytes_per_s, row.ceiling_flops_per_s) / 1e9 for x in xs]
        axes.plot(xs, ys, color="black", linewidth=1)
        text = (
            f"{dtype}: {row.ceiling_flops_per_s / 1e9:.0f} GFLOP/s, {row.ceiling_bytes_per_s / 1e9:.0f} GB/s"
        )
        axes.annotate(text, (xs[2], ys[2]), ha="right", va="bottom", fontsize=7)
