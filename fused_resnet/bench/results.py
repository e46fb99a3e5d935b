"""The rows of a run, and the files that hold them: all that tables and plots are made from."""

from __future__ import annotations

import csv
import json
import types
import typing
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

Conditions = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One contestant in one work; None where something does not apply or is not known.

    Times are of one run, in seconds; rates are per second. ``flops`` are those of the work as direct
    convolutions, the same for everyone; ``moved_bytes`` are the contestant's own, every tensor once per
    operator; both counted from shapes. ``bound_s`` is what our ops would take at the ceilings, the sum over
    them of the slower of bytes and operations, and ``roofline_share`` is ``bound_s / median_s``. ``speedup``
    is over eager in channels_last.
    """

    level: str
    work: str
    mode: str
    contestant: str
    how: str
    layout: str
    dtype: str
    device: str
    batch: int
    image_size: int
    cold_cache: bool
    missing: str
    error: float | None
    gradient_error: float | None
    median_s: float | None
    first_quartile_s: float | None
    third_quartile_s: float | None
    rounds: int
    speedup: float | None
    peak_bytes: int | None
    kept_bytes: int | None
    moved_bytes: int | None
    flops: int | None
    bound_s: float | None
    ceiling_bytes_per_s: float
    ceiling_flops_per_s: float
    others_share: float | None

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two rows comparable."""
        setting = self.dtype, self.layout, self.batch, self.image_size, self.cold_cache
        return self.level, self.work, self.mode, *setting, self.contestant

    @property
    def group(self) -> tuple[Any, ...]:
        """The contestants of one work."""
        return self.level, self.work, self.mode, self.dtype, self.batch, self.image_size, self.cold_cache

    @property
    def roofline_share(self) -> float | None:
        return None if self.bound_s is None or self.median_s is None else self.bound_s / self.median_s

    @property
    def bytes_per_s(self) -> float | None:
        return None if self.moved_bytes is None or self.median_s is None else self.moved_bytes / self.median_s

    @property
    def flops_per_s(self) -> float | None:
        return None if self.flops is None or self.median_s is None else self.flops / self.median_s


DERIVED = ("roofline_share", "bytes_per_s", "flops_per_s")  # in the files for those who read them elsewhere


class FormatError(ValueError):
    """A file that does not hold the results of a run."""


def as_dict(row: Row) -> dict[str, Any]:
    return {**asdict(row), **{name: getattr(row, name) for name in DERIVED}}


def write(path: Path, rows: Sequence[dict[str, Any]], conditions: Conditions) -> None:
    """As CSV, or as JSON if the name says so.

    In CSV the conditions stand in every line, so that files of several runs can be put together.
    Raises: ValueError: another suffix.
    """
    check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(as_json(rows, conditions) + "\n")
        return
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*rows[0], *(key for key in conditions if key not in rows[0])])
        writer.writeheader()
        writer.writerows({**conditions, **row} for row in rows)


def check_suffix(path: Path) -> None:
    if path.suffix not in (".csv", ".json"):
        raise ValueError(f"output: expected a name that ends in .csv or .json, got {str(path)!r}")


def as_json(rows: Sequence[dict[str, Any]], conditions: Conditions) -> str:
    return json.dumps({"conditions": conditions, "results": list(rows)}, indent=2)


def read(path: Path) -> tuple[list[Row], Conditions]:
    """The rows of a CSV or JSON file and the conditions of the first one.

    Raises: FormatError: it holds something else; the message names the column. OSError: it cannot be read.
    """
    check_suffix(path)
    try:
        if path.suffix == ".json":
            found = json.loads(path.read_text())
            lines = [{**found["conditions"], **row} for row in found["results"]]
        else:
            with path.open(newline="") as file:
                lines = list(csv.DictReader(file))
        rows = [_row(line) for line in lines]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise FormatError(f"{path}: not the results of `run`: {type(error).__name__}: {error}") from None
    if not rows:
        raise FormatError(f"{path}: no results")
    known = {field.name for field in fields(Row)} | set(DERIVED)
    return rows, {key: value for key, value in lines[0].items() if key not in known}


_TYPES = typing.get_type_hints(Row)


def _row(line: dict[str, Any]) -> Row:
    return Row(**{field.name: _value(line[field.name], _TYPES[field.name]) for field in fields(Row)})


def _value(text: Any, kind: Any) -> Any:
    """A value of a CSV or JSON file as the type that the field has."""
    if isinstance(kind, types.UnionType):
        if text in ("", None):
            return None
        (kind,) = (k for k in kind.__args__ if k is not types.NoneType)
    if kind is bool:
        return text if isinstance(text, bool) else text == "True"
    return kind(text)
