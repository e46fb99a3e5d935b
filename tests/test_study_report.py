"""docs/study.md: every row of its tables is what the result files beside it say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")

import pandas

from fused_resnet.study import cost, tables
from fused_resnet.study.data import DIGITS_SIZE

DOCS = Path(__file__).parent.parent / "docs"
RESULTS = DOCS / "study"
PAGE = (DOCS / "study.md").read_text()
TRAINED = ("degradation", "shortcuts", "family")
MEASURED = ("cost", "bottleneck")


def table_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def errors_rows(name: str) -> list[str]:
    summary = tables.errors(pandas.read_csv(RESULTS / f"{name}.csv"), DIGITS_SIZE)
    return [
        table_row(
            row["network"],
            f"{row['parameters']:,}",
            f"{row['multiply_adds'] / 1e6:.2f} M",
            str(row["seeds"]),
            *(tables.percent(row, error) for error in tables.ERRORS),
        )
        for row in summary.to_dict("records")
    ]


def both(stock: float, fused: float, form: str) -> str:
    return f"{stock:{form}} → {fused:{form}} ({fused / stock:.2f})"


def measured_rows(name: str) -> list[str]:
    """Of stock and fused: milliseconds of a training step and of inference, MiB kept and at the peak."""
    found = []
    for network, pair in pandas.read_csv(RESULTS / f"{name}.csv").groupby("network", sort=False):
        stock, fused = (pair[pair["variant"] == variant].iloc[0] for variant in ("stock", "fused"))
        times = (both(1e3 * stock[f"{w}_s"], 1e3 * fused[f"{w}_s"], ".1f") for w in ("training", "inference"))
        sizes = (both(stock[s] / 2**20, fused[s] / 2**20, ".1f") for s in ("kept_bytes", "peak_bytes"))
        found.append(table_row(str(network), *times, *sizes))
    return found


def counted_rows() -> list[str]:
    return [
        table_row(
            found["network"],
            f"{found['parameters']:,}",
            f"{found['multiply_adds']:,}",
            f"{found['multiply_adds_paper_stride']:,}",
            f"{found['paper_multiply_adds'] / 1e9:.1f} G",
        )
        for found in map(cost.counts, cost.DEPTHS)
    ]


@pytest.mark.parametrize("name", TRAINED)
def test_errors(name):
    for row in errors_rows(name):
        assert row in PAGE


@pytest.mark.parametrize("name", MEASURED)
def test_measurements(name):
    for row in measured_rows(name):
        assert row in PAGE


def test_counts():
    for row in counted_rows():
        assert row in PAGE


@pytest.mark.parametrize("name", (*TRAINED, *MEASURED, "responses"))
def test_files_say_where_they_are_from(name):
    assert (RESULTS / f"{name}.svg").stat().st_size > 10_000
    origin = json.loads((RESULTS / f"{name}.json").read_text())
    assert origin["command"].startswith(f"python -m fused_resnet.study {name}")
    assert origin["command"] in PAGE
    assert origin["settings"] and origin["conditions"]["commit"]
