"""Rows of trainings as a table: every epoch, and the errors in the end with their spread over seeds."""

from __future__ import annotations

from collections.abc import Mapping

import pandas
from rich.table import Table

from .experiments import counts
from .training import Row, Run

__all__ = ["epochs", "errors", "errors_table", "percent"]

ERRORS = ("train_error", "test_error")


def epochs(found: Mapping[Run, list[Row]], data: str) -> pandas.DataFrame:
    """A row per epoch of every run. Errors are shares of 1."""
    rows = [
        {"data": data, "network": run.network, "recipe": run.recipe.name, "seed": run.seed, **row}
        for run, history in found.items()
        for row in history
    ]
    return pandas.DataFrame(rows)


def errors(frame: pandas.DataFrame, size: int) -> pandas.DataFrame:
    """A row per network, in the order of `frame`: parameters, multiply-adds of a size x size image, errors.

    Of either error after the last epoch, in per cent: mean, deviation, least and greatest over seeds (of one
    seed there is no deviation: NaN). No epoch is picked by its test error.
    """
    last = frame.sort_values("epoch").groupby(["network", "seed"], sort=False).tail(1)
    rows = []
    for network in frame["network"].unique():
        of_network = last[last["network"] == network]
        row = {"network": network, **counts(network, size), "seeds": len(of_network)}
        for error in ERRORS:
            values = 100 * of_network[error]
            row |= {f"{error}_mean": values.mean(), f"{error}_deviation": values.std()}
            row |= {f"{error}_least": values.min(), f"{error}_greatest": values.max()}
        rows.append(row)
    return pandas.DataFrame(rows)


def percent(row: Mapping[str, float], error: str) -> str:
    """Mean ± deviation (least to greatest)."""
    mean, deviation, least, greatest = (
        row[f"{error}_{name}"] for name in ("mean", "deviation", "least", "greatest")
    )
    if pandas.isna(deviation):
        return f"{mean:.2f}"
    return f"{mean:.2f} ± {deviation:.2f} ({least:.2f} to {greatest:.2f})"


def errors_table(summary: pandas.DataFrame, title: str) -> Table:
    table = Table(
        *("network", "parameters", "multiply-adds", "seeds", "training error, %", "test error, %"),
        title=title,
    )
    for row in summary.to_dict("records"):
        table.add_row(
            str(row["network"]),
            f"{row['parameters']:,}",
            f"{row['multiply_adds'] / 1e6:.2f} M",
            str(row["seeds"]),
            *(percent(row, error) for error in ERRORS),
        )
    return table
