"""Tables of what was measured."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.bar import Bar
from rich.console import Console, RenderableType
from rich.table import Table

from .figures import MEMORY, Result
from .measure import Measurement, is_disturbed
from .results import Row

WIDTH = 160  # of a table where there is no terminal
BAR = 20  # characters


# ---- the suite -----------------------------------------------------------------------------------


def suite_table(rows: Sequence[Row], console: Console) -> Table:
    """One section per work; bars only on a terminal."""
    bars = console.is_terminal
    made = Table(title="Everyone in turn: median (quartiles) × timed rounds")
    made.add_column("work", max_width=36)
    made.add_column("who", max_width=34)
    for column in ("ms", "speed-up", "MiB peak (kept)", "GB moved", "GB/s", "of roofline"):
        made.add_column(column, justify="right")
    if bars:
        made.add_column("", width=BAR)
    most = max((row.speedup for row in rows if row.speedup), default=1.0)
    for _, group in itertools.groupby(rows, key=lambda row: row.group):
        for index, row in enumerate(group):
            cells: list[RenderableType] = [_title(row) if index == 0 else "", _who(row), *_numbers(row)]
            if bars:
                cells.append(Bar(most, 0, row.speedup or 0, width=BAR, color=_color(row)))
            made.add_row(*cells, style="bold" if bars and row.contestant.startswith("ours") else None)
        made.add_section()
    return made


def _color(row: Row) -> str:
    if row.speedup is None or row.speedup == 1:
        return "white"
    return "green" if row.speedup > 1 else "red"


def _title(row: Row) -> str:
    disturbed = " (DISTURBED)" if is_disturbed(row.others_share) else ""
    return f"{row.work}, {row.mode}, {row.dtype}, batch {row.batch}{disturbed}"


def _who(row: Row) -> str:
    layout = "" if row.layout == "channels_last" else row.layout
    return ", ".join(filter(None, (row.contestant, layout, row.how)))


def _numbers(row: Row) -> tuple[str, ...]:
    if row.median_s is None:
        return row.missing, "", _memory(row), "", "", ""
    share, rate, moved = row.roofline_share, row.bytes_per_s, row.moved_bytes
    return (
        _milliseconds(row.median_s, row.first_quartile_s, row.third_quartile_s, row.rounds),
        "" if row.speedup is None else f"{row.speedup:.2f}",
        _memory(row),
        "" if moved is None else f"{moved / 1e9:.3f}",
        "" if rate is None else f"{rate / 1e9:.1f}",
        "" if share is None else f"{share:.0%}",
    )


def _memory(row: Row) -> str:
    if row.peak_bytes is None:
        return ""
    kept = "" if row.kept_bytes is None else f" ({digits(row.kept_bytes / 2**20)})"
    return f"{digits(row.peak_bytes / 2**20)}{kept}"


def _milliseconds(median: float, first: float | None, third: float | None, rounds: int) -> str:
    assert first is not None and third is not None
    return f"{digits(median * 1e3)} ({digits(first * 1e3)}–{digits(third * 1e3)}) ×{rounds}"


def suite_explanation(rows: Sequence[Row]) -> str:
    row = rows[0]
    cold = "Every run finds the caches full of something else. " if row.cold_cache else ""
    ceilings = f"{row.ceiling_bytes_per_s / 1e9:.1f} GB/s and {row.ceiling_flops_per_s / 1e9:.0f} GFLOP/s"
    return (
        f"speed-up: over eager in channels_last. {cold}A training step is forward, loss and backward; bf16 "
        "and fp16 are autocast.\nGB moved: every tensor once per operator, counted from shapes. Of "
        f"roofline: what our ops would take at {ceilings}, measured here, as a share of the time; caches "
        "and Winograd's convolutions can exceed it."
    )


def digits(value: float) -> str:
    """Four of them, at most three behind the point."""
    return f"{value:.{min(3, max(0, 3 - math.floor(math.log10(max(value, 1)))))}f}"


# ---- the figures ---------------------------------------------------------------------------------


def figures_table(results: list[Result]) -> Table:
    made = Table(title="Ours beside others, in turn: median (quartiles) × timed rounds")
    made.add_column("work", max_width=34)
    for column in ("ours", "", "beside", "", "ratio", "wanted", "verdict"):
        made.add_column(column, justify="right" if column in ("", "ratio", "wanted") else "left")
    before = None
    for result in results:
        first = result.figure is not before
        if first and before is not None:
            made.add_section()
        before = result.figure
        made.add_row(
            _work(result) if first else "",
            _name(result.ours),
            _value(result, result.ours),
            _name(result.peer),
            _value(result, result.peer),
            "" if result.ratio is None else f"{result.ratio:.2f}",
            result.comparison.wanted,
            result.verdict,
        )
    return made


def explanation() -> str:
    return (
        "A training step is forward, loss and backward. bf16 is autocast in PyTorch, a hint in OpenVINO. "
        "Everyone in channels_last where nothing else is said.\nratio: of training steps the speed-up (the "
        "other's time / ours), else our share (ours / the other's). `balanced` is the default, and is judged."
    )


def tally(results: list[Result]) -> str:
    counts = Counter(result.verdict for result in results if result.verdict)
    return ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("met", "MISSED", "not judged"))


def _work(result: Result) -> str:
    return result.figure.title + (" (DISTURBED)" if is_disturbed(result.ours.others_share) else "")


def _name(found: Measurement) -> str:
    layout = "" if found.layout == "channels_last" else found.layout
    return ", ".join(filter(None, (found.contestant, found.how, layout)))


def _value(result: Result, found: Measurement) -> str:
    value = result.figure.value(found)
    if value is None:
        return found.missing
    if result.figure.quantity == MEMORY:
        kept = "" if found.kept_bytes is None else f" (kept {digits(found.kept_bytes / 2**20)})"
        return f"{digits(value / 2**20)} MiB{kept}"
    return _milliseconds(value, found.first_quartile, found.third_quartile, found.rounds).replace(
        " (", " ms ("
    )


def figure_rows(results: list[Result]) -> list[dict[str, Any]]:
    """Every result as one flat row: times in seconds, memory in bytes."""
    return [
        {
            "work": r.figure.name,
            "mode": r.figure.task.mode,
            "dtype": r.figure.task.setting.dtype,
            "batch": r.figure.task.setting.batch,
            "image_size": r.figure.task.setting.size,
            "quantity": r.figure.quantity,
            **{f"ours_{key}": value for key, value in asdict(r.ours).items()},
            **{f"peer_{key}": value for key, value in asdict(r.peer).items()},
            "ratio": r.ratio,
            "ratio_of": "peer / ours" if r.comparison.speedup else "ours / peer",
            "wanted": r.comparison.wanted,
            "verdict": r.verdict,
        }
        for r in results
    ]
