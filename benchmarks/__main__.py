"""Compares stock and fused code in turn: rounds over the variants, so that a machine's moods hit them all."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.cases import BASELINE, BLOCKS, DTYPES, NETWORKS, VARIANTS, Case, Setting, Work
from fused_resnet.analysis import conditions, has_bf16_hardware, interleaved
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


def write_csv(path: Path, results: list[Result], found: dict[str, Any]) -> None:
    """One line per result, the conditions in every line: files of several runs can be put together."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{**asdict(result), **found} for result in results]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, results: list[Result], found: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"conditions": found, "results": [asdict(r) for r in results]}, indent=2)
    path.write_text(text + "\n")


def choose(only: str) -> list[Case]:
    chosen = [case for case in (*BLOCKS, *NETWORKS) if only.lower() in case.name.lower()]
    if not chosen:
        known = ", ".join(case.name for case in (*BLOCKS, *NETWORKS))
        raise typer.BadParameter(f"no case has {only!r} in its name; there are: {known}")
    return chosen


def main(
    only: Annotated[str, typer.Option(help="Only cases with this in their name.")] = "",
    mode: Annotated[str, typer.Option(help="training, inference or both.")] = "both",
    rounds: Annotated[int, typer.Option(min=1, help="Timed runs of every variant.")] = 5,
    batch: Annotated[int, typer.Option(min=1, help="Images.")] = 8,
    size: Annotated[int, typer.Option(min=32, help="Height and width of an image.")] = 224,
    dtype: Annotated[str, typer.Option(help="fp32, or bf16 for autocast.")] = "fp32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: as many as torch takes.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Sizes that only show that it runs.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results to this file.")] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write the results to this file.")] = None,
) -> None:
    """Stock and fused blocks and networks: times, spread and memory kept for backward."""
    if dtype not in DTYPES:
        raise typer.BadParameter(f"dtype: expected one of {DTYPES}, got {dtype!r}")
    if mode not in (*VARIANTS, "both"):
        raise typer.BadParameter(f"mode: expected training, inference or both, got {mode!r}")
    cases = choose(only)
    if quick:
        rounds, batch, size = 1, 2, 32
        cases = [case for case in cases if case in BLOCKS] or cases
    if threads:
        torch.set_num_threads(threads)
    console = Console(width=None if Console().is_terminal else 120)
    setting = Setting(batch, size, dtype, device)
    found = {"dtype": dtype, "batch": batch, "image size": size, "device": device, **conditions(device)}
    for key, value in found.items():
        console.print(f"{key}: {value}", highlight=False, soft_wrap=True)
    if dtype == "bf16" and not has_bf16_hardware(device):
        console.print("note: this device emulates bf16; its times say little about others")
    modes = VARIANTS if mode == "both" else {mode: VARIANTS[mode]}
    total = len(cases) * sum(map(len, modes.values())) * (WARMUP + rounds)
    with Ticker(console, "measuring", total=total) as ticker:
        results = [row for case in cases for m in modes for row in compare(case, m, setting, rounds, ticker)]
    console.print(table(results, f"Variants in turn, {rounds} timed rounds; x stock: of {BASELINE.name}"))
    for path, write in ((json_file, write_json), (csv_file, write_csv)):
        if path is not None:
            write(path, results, found)
            console.print(f"written: {path}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
