"""Stock and fused code in turn: rounds over the variants, so that a machine's moods hit them all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks.cases import BASELINE, BLOCKS, NETWORKS, VARIANTS, Case, Setting, Work
from fused_resnet.analysis import interleaved
from fused_resnet.analysis.progress import Ticker

WARMUP = 1


@dataclass(frozen=True)
class Result:
    """One row: times in seconds, memory in bytes, ratio of the median to stock channels_last."""

    case: str
    mode: str
    variant: str
    layout: str
    median_s: float
    first_quartile_s: float
    third_quartile_s: float
    rounds: int
    ratio: float
    kept_bytes: int | None


def compare(case: Case, mode: str, setting: Setting, rounds: int, ticker: Ticker) -> Iterator[Result]:
    variants = VARIANTS[mode]
    works = {variant.name: Work(case, variant, mode, setting) for variant in variants}
    note = f"{case.name}, {mode}"
    times = interleaved(
        works, rounds, warmup=WARMUP, device=setting.device, after_run=lambda: ticker.advance(note)
    )
    for variant in variants:
        timing = times[variant.name]
        yield Result(
            case.name,
            mode,
            variant.name,
            variant.layout,
            timing.median,
            *timing.quartiles,
            rounds,
            timing.median / times[BASELINE.name].median,
            works[variant.name].kept_bytes(),
        )


def table(results: list[Result], title: str) -> Table:
    made = Table("case", "", "variant", title=title)
    for column in ("median ms", "quartiles ms", "x stock", "MiB kept"):
        made.add_column(column, justify="right")
    before = None
    for r in results:
        first = (r.case, r.mode) != before
        if first and before is not None:
            made.add_section()
        before = (r.case, r.mode)
        made.add_row(
            r.case if first else "",
            r.mode if first else "",
            r.variant,
            f"{r.median_s * 1e3:.1f}",
            f"{r.first_quartile_s * 1e3:.1f}–{r.third_quartile_s * 1e3:.1f}",
            f"{r.ratio:.2f}",
            "" if r.kept_bytes is None else f"{r.kept_bytes / 2**20:.1f}",
        )
    return made


def choose(only: str) -> list[Case]:
    """Cases with `only` in their name. Raises: ValueError: there is none."""
    chosen = [case for case in (*BLOCKS, *NETWORKS) if only.lower() in case.name.lower()]
    if not chosen:
        known = ", ".join(case.name for case in (*BLOCKS, *NETWORKS))
        raise ValueError(f"no case has {only!r} in its name; there are: {known}")
    return chosen


def compare_all(
    cases: list[Case], modes: list[str], setting: Setting, rounds: int, console: Console
) -> list[Result]:
    total = len(cases) * sum(len(VARIANTS[mode]) for mode in modes) * (WARMUP + rounds)
    with Ticker(console, "measuring", total=total) as ticker:
        return [row for case in cases for m in modes for row in compare(case, m, setting, rounds, ticker)]
