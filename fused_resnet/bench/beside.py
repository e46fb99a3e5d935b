"""Two result files side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from .report import digits
from .results import Conditions, Row

IGNORED = ("date",)  # conditions that say nothing about a time


@dataclass(frozen=True)
class Pair:
    """The same contestant in the same work, in both files."""

    before: Row
    after: Row

    @property
    def ratio(self) -> float | None:
        """Time after / time before."""
        if self.before.median_s is None or self.after.median_s is None:
            return None
        return self.after.median_s / self.before.median_s

    @property
    def is_distinct(self) -> bool:
        """Do the quartiles lie apart, so that the difference is more than the spread?"""
        a, b = self.before, self.after
        if None in (a.first_quartile_s, a.third_quartile_s, b.first_quartile_s, b.third_quartile_s):
            return False
        return a.third_quartile_s < b.first_quartile_s or b.third_quartile_s < a.first_quartile_s  # type: ignore[operator]

    @property
    def memory_ratio(self) -> float | None:
        if not self.before.peak_bytes or self.after.peak_bytes is None:
            return None
        return self.after.peak_bytes / self.before.peak_bytes

    def is_slower(self, factor: float) -> bool:
        return self.ratio is not None and self.ratio > factor and self.is_distinct


@dataclass(frozen=True)
class Comparison:
    """pairs: what both files have; only_before, only_after: what one of them has; differing: conditions."""

    pairs: list[Pair]
    only_before: list[Row]
    only_after: list[Row]
    differing: dict[str, tuple[str, str]]


def compare(
    before: Sequence[Row], after: Sequence[Row], conditions: tuple[Conditions, Conditions]
) -> Comparison:
    """In the order of `after`. Where a file has a row twice, the last one counts."""
    old, new = ({row.key: row for row in rows} for rows in (before, after))
    names = [name for name in {**conditions[0], **conditions[1]} if name not in IGNORED]
    told = {name: tuple(str(c.get(name, "")) for c in conditions) for name in names}
    return Comparison(
        [Pair(old[key], row) for key, row in new.items() if key in old],
        [row for key, row in old.items() if key not in new],
        [row for key, row in new.items() if key not in old],
        {name: (a, b) for name, (a, b) in told.items() if a != b},
    )


def table(comparison: Comparison) -> Table:
    made = Table(title="before and after: median; ~ where the quartiles overlap")
    for column in ("work", "who"):
        made.add_column(column)
    for column in (
        "ms before",
        "ms after",
        "after / before",
        "",
        "MiB before",
        "MiB after",
        "after / before",
    ):
        made.add_column(column, justify="right")
    for pair in comparison.pairs:
        a, b = pair.before, pair.after
        made.add_row(
            f"{b.work}, {b.mode}, {b.dtype}, batch {b.batch}",
            b.contestant,
            *(row.missing if row.median_s is None else digits(row.median_s * 1e3) for row in (a, b)),
            "" if pair.ratio is None else f"{pair.ratio:.2f}",
            "" if pair.ratio is None or pair.is_distinct else "~",
            *("" if row.peak_bytes is None else digits(row.peak_bytes / 2**20) for row in (a, b)),
            "" if pair.memory_ratio is None else f"{pair.memory_ratio:.2f}",
        )
    return made
