"""``python -m benchmarks``: the figures wanted on a CPU; ``run``: blocks and networks, stock and fused."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from benchmarks.cases import BASELINE, BLOCKS, DTYPES, VARIANTS, Setting
from benchmarks.report import Row, write_csv, write_json
from fused_resnet.analysis import conditions, has_bf16_hardware

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's messages, of GPUs that are not there

app = typer.Typer(add_completion=False)

Rounds = Annotated[int, typer.Option(min=1, help="Timed runs; the most of anyone where a budget is short.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0: as many as torch takes.")]
Quick = Annotated[bool, typer.Option("--quick", help="Sizes that only show that it runs.")]
Csv = Annotated[Path | None, typer.Option("--csv", help="Write the results to this file.")]
Json = Annotated[Path | None, typer.Option("--json", help="Write the results to this file.")]


@app.callback(invoke_without_command=True)
def main(context: typer.Context) -> None:
    """Times and memory beside those of others. Without a command: the figures."""
    if context.invoked_subcommand is None:
        figures()


@app.command()
def figures(
    only: Annotated[str, typer.Option(help="Only figures with this in their title.")] = "",
    rounds: Rounds = 15,
    budget: Annotated[float, typer.Option(min=0, help="Seconds to time one figure in.")] = 60.0,
    threads: Threads = 2,
    skip: Annotated[list[str] | None, typer.Option(help="Leave this peer out (several times).")] = None,
    quick: Quick = False,
    csv_file: Csv = None,
    json_file: Json = None,
) -> None:
    """Time and memory beside eager mode, torch.compile, OpenVINO and ONNX Runtime, and the ratios wanted.

    The exit status is 1 if something failed or computed something else; a ratio that is missed is a result.
    """
    from benchmarks import report
    from benchmarks.figures import FIGURES
    from benchmarks.measure import Effort, measure
    from benchmarks.peers import PACKAGES, PEERS

    chosen = [figure for figure in FIGURES if only.lower() in figure.title.lower()]
    if not chosen:
        raise typer.BadParameter(f"only: nothing has {only!r} in its title; there are: {_lines(FIGURES)}")
    peers = [peer.name for peer in PEERS]
    if unknown := set(skip or ()) - set(peers):
        raise typer.BadParameter(f"skip: expected some of {peers}, got {sorted(unknown)}")
    if quick:
        chosen, rounds = [figure.quick() for figure in chosen], 1
    console = _console(report.WIDTH)
    found = _conditions(console, threads, {"device": "cpu"}, PACKAGES)
    effort = Effort(rounds, budget, frozenset(skip or ()))
    results = [result for figure in chosen for result in measure(figure, effort, console)]
    console.print(report.figures_table(results))
    console.print(report.explanation(), highlight=False, soft_wrap=True)
    console.print(report.tally(results), highlight=False)
    _write(console, report.rows(results), found, csv_file, json_file)
    if any(m.is_faulty for result in results for m in (result.ours, result.peer)):
        raise typer.Exit(1)


@app.command()
def run(
    only: Annotated[str, typer.Option(help="Only cases with this in their name.")] = "",
    mode: Annotated[str, typer.Option(help="training, inference or both.")] = "both",
    rounds: Rounds = 5,
    batch: Annotated[int, typer.Option(min=1, help="Images.")] = 8,
    size: Annotated[int, typer.Option(min=32, help="Height and width of an image.")] = 224,
    dtype: Annotated[str, typer.Option(help="fp32, or bf16 for autocast.")] = "fp32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    threads: Threads = 0,
    quick: Quick = False,
    csv_file: Csv = None,
    json_file: Json = None,
) -> None:
    """Stock and fused blocks and networks: times, spread and memory kept for backward."""
    from benchmarks.compare import choose, compare_all, table

    if dtype not in DTYPES:
        raise typer.BadParameter(f"dtype: expected one of {DTYPES}, got {dtype!r}")
    if mode not in (*VARIANTS, "both"):
        raise typer.BadParameter(f"mode: expected training, inference or both, got {mode!r}")
    try:
        cases = choose(only)
    except ValueError as error:
        raise typer.BadParameter(f"only: {error}") from None
    if quick:
        rounds, batch, size = 1, 2, 32
        cases = [case for case in cases if case in BLOCKS] or cases
    console = _console(120)
    setting = Setting(batch, size, dtype, device)
    about = {"dtype": dtype, "batch": batch, "image size": size, "device": device}
    found = _conditions(console, threads, about)
    if dtype == "bf16" and not has_bf16_hardware(device):
        console.print("note: this device emulates bf16; its times say little about others")
    results = compare_all(cases, list(VARIANTS) if mode == "both" else [mode], setting, rounds, console)
    console.print(table(results, f"Variants in turn, {rounds} timed rounds; x stock: of {BASELINE.name}"))
    _write(console, [asdict(result) for result in results], found, csv_file, json_file)


def _console(width: int) -> Console:
    """width: where there is no terminal."""
    return Console(width=None if Console().is_terminal else width)


def _conditions(
    console: Console, threads: int, about: dict[str, Any], packages: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Sets the threads; prints and gives the conditions."""
    if threads:
        torch.set_num_threads(threads)
    found = {**about, **conditions(about["device"], packages)}
    for key, value in found.items():
        console.print(f"{key}: {value}", highlight=False, soft_wrap=True)
    return found


def _lines(figures: tuple[Any, ...]) -> str:
    return "; ".join(figure.title for figure in figures)


def _write(
    console: Console, rows: list[Row], found: dict[str, Any], csv_file: Path | None, json_file: Path | None
) -> None:
    for path, write in ((json_file, write_json), (csv_file, write_csv)):
        if path is not None:
            write(path, rows, found)
            console.print(f"written: {path}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app()
