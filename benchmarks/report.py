"""Tables and files of the figures."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.figures import MEMORY
from benchmarks.measure import Measurement, Result, is_disturbed

Row = dict[str, Any]
WIDTH = 160  # of the table where there is no terminal


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
            _ratio(result),
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
    if found.value is None:
        return found.missing
    if result.figure.quantity == MEMORY:
        kept = "" if found.kept_bytes is None else f" (kept {_digits(found.kept_bytes / 2**20)})"
        return f"{_digits(found.value / 2**20)} MiB{kept}"
    assert found.first_quartile is not None and found.third_quartile is not None
    quartiles = f"{_digits(found.first_quartile * 1e3)}–{_digits(found.third_quartile * 1e3)}"
    return f"{_digits(found.value * 1e3)} ms ({quartiles}) ×{found.rounds}"


def _ratio(result: Result) -> str:
    return "" if result.ratio is None else f"{result.ratio:.2f}"


def _digits(value: float) -> str:
    """Four of them, at most three behind the point."""
    return f"{value:.{min(3, max(0, 3 - math.floor(math.log10(max(value, 1)))))}f}"


def rows(results: list[Result]) -> list[Row]:
    """Every result as one flat row: times in seconds, memory in bytes."""
    return [
        {
            "work": r.figure.name,
            "mode": r.figure.task.mode,
            "dtype": r.figure.task.setting.dtype,
            "batch": r.figure.task.setting.batch,
            "image_size": r.figure.task.setting.size,
            "unit": "bytes" if r.figure.quantity == MEMORY else "s",
            **{f"ours_{key}": value for key, value in asdict(r.ours).items()},
            **{f"peer_{key}": value for key, value in asdict(r.peer).items()},
            "ratio": r.ratio,
            "ratio_of": "peer / ours" if r.comparison.speedup else "ours / peer",
            "wanted": r.comparison.wanted,
            "verdict": r.verdict,
        }
        for r in results
    ]


def write_csv(path: Path, rows: list[Row], found: dict[str, Any]) -> None:
    """One line per row, the conditions in every line: files of several runs can be put together."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *(key for key in found if key not in rows[0])])
        writer.writeheader()
        writer.writerows({**found, **row} for row in rows)


def write_json(path: Path, rows: list[Row], found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"conditions": found, "results": rows}, indent=2) + "\n")
