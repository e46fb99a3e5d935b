"""The commands of the benchmark suite: run, plot, compare; figures."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from fused_resnet.analysis import conditions, has_bf16_hardware
from fused_resnet.analysis.ceilings import measured
from fused_resnet.analysis.device import device_named
from fused_resnet.analysis.printing import Printer

from . import results
from .cases import DTYPES
from .peers import CONTESTANTS, PACKAGES
from .results import FormatError

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's messages, of GPUs that are not there

app = typer.Typer(add_completion=False, no_args_is_help=True)

Only = Annotated[str, typer.Option(help="Only what has this in its name.")]
Rounds = Annotated[int, typer.Option(min=1, help="Timed runs; the most of anyone where a budget is short.")]
Budget = Annotated[float, typer.Option(min=0, help="Seconds to time one work in.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0: as many as torch takes.")]
Quick = Annotated[bool, typer.Option("--quick", help="Sizes that only show that it runs.")]
Skip = Annotated[list[str] | None, typer.Option(help="Leave this peer out (several times).")]
Output = Annotated[
    list[Path] | None,
    typer.Option("--output", "-o", help="Write to this .csv or .json file (several times)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; everything else goes to standard error.")]
WIDTH = 170  # of tables where there is no terminal


@app.callback()
def main() -> None:
    """Times and memory, ours beside others'."""


@app.command()
def run(
    only: Only = "",
    level: Annotated[str, typer.Option(help="op, block, network, or all.")] = "all",
    mode: Annotated[str, typer.Option(help="training, inference or both.")] = "both",
    rounds: Rounds = 15,
    budget: Budget = 60.0,
    batch: Annotated[int, typer.Option(min=1, help="Images.")] = 8,
    size: Annotated[int, typer.Option(min=32, help="Height and width of an image.")] = 224,
    dtype: Annotated[str, typer.Option(help="fp32, or bf16 or fp16 for autocast.")] = "fp32",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    threads: Threads = 0,
    skip: Skip = None,
    warm: Annotated[bool, typer.Option("--warm", help="Leave caches as the last run left them.")] = False,
    memory: Annotated[bool, typer.Option(help="Measure activation memory, too.")] = True,
    quick: Quick = False,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Ops, blocks and networks: everyone in turn, with spread, memory, bytes and the share of the roofline.

    The exit status is 1 if somebody failed or computed something else.
    """
    from . import report, suite
    from .measure import Effort

    chosen = suite.Choice(_some(level, tuple(suite.LEVELS), "level"), _some(mode, suite.MODES, "mode"), only)
    setting = _setting(4 if quick else batch, 64 if quick else size, dtype, device)
    try:
        tasks = chosen.tasks(setting)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    effort = Effort(1 if quick else rounds, budget, _skipped(skip), cold=not warm)
    _check_outputs(output)
    printer = Printer(as_json, WIDTH)
    found = _conditions(printer, threads, device)
    if dtype == "bf16" and not has_bf16_hardware(device):
        printer.line("note: this device emulates bf16; its times say little about others")
    ceilings = measured(dtype, device)
    rows: list[results.Row] = []
    start = time.monotonic()
    for index, task in enumerate(tasks):
        left = f", about {_left(start, index, len(tasks)):.0f} min left" if index else ""
        printer.line(f"{index + 1} of {len(tasks)}{left}: {task.case.name}, {task.mode}")
        rows += suite.run(task, effort, ceilings, memory, printer.console)
        _write(printer, [results.as_dict(row) for row in rows], found, output, last=index == len(tasks) - 1)
    printer.console.print(report.suite_table(rows, printer.console))
    printer.line(report.suite_explanation(rows))
    printer.document({"conditions": found, "results": [results.as_dict(row) for row in rows]})
    if any(row.missing.startswith(("failed", "wrong")) for row in rows):
        raise typer.Exit(1)


@app.command()
def plot(
    files: Annotated[list[Path], typer.Argument(help="CSV or JSON files of `run`.")],
    folder: Annotated[Path | None, typer.Option(help="Where to; default: beside the first file.")] = None,
    name: Annotated[str, typer.Option(help="What the drawings are called; default: as the first file.")] = "",
    suffix: Annotated[str, typer.Option("--format", help="svg, png or pdf.")] = "svg",
    as_json: AsJson = False,
) -> None:
    """Draw speed-ups, memory and the roofline, from result files alone; of several, all rows in one."""
    if suffix not in ("svg", "png", "pdf"):
        raise typer.BadParameter(f"format: expected svg, png or pdf, got {suffix!r}")
    read = [_read(path) for path in files]
    from .plot import draw

    rows = [row for found, _ in read for row in found]
    written = draw(rows, read[0][1], folder or files[0].parent, name or files[0].stem, suffix)
    printer = Printer(as_json)
    for path in written:
        printer.line(f"written: {path}")
    printer.document([str(path) for path in written])


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="A CSV or JSON file of `run`.")],
    after: Annotated[Path, typer.Argument(help="Another one.")],
    fail_slower: Annotated[
        float | None,
        typer.Option(min=1, help="Exit with 1 if anything takes this many times as long, beyond the spread."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Two result files side by side: times, memory, and which conditions differ."""
    from . import beside

    (old, of_old), (new, of_new) = _read(before), _read(after)
    found = beside.compare(old, new, (of_old, of_new))
    printer = Printer(as_json, WIDTH)
    for name, (a, b) in found.differing.items():
        printer.line(f"differs: {name}: {a or 'unknown'} -> {b or 'unknown'}", style="yellow")
    printer.console.print(beside.table(found))
    for rows, where in ((found.only_before, before), (found.only_after, after)):
        if rows:
            printer.line(f"only in {where}: {len(rows)} rows")
    slower = [p for p in found.pairs if fail_slower is not None and p.is_slower(fail_slower)]
    for pair in slower:
        printer.line(
            f"slower: {pair.after.work}, {pair.after.mode}, {pair.after.contestant}: {pair.ratio:.2f}"
        )
    printer.document(
        {
            "differing conditions": found.differing,
            "pairs": [{"key": p.after.key, "ratio": p.ratio, "distinct": p.is_distinct} for p in found.pairs],
            "only before": [row.key for row in found.only_before],
            "only after": [row.key for row in found.only_after],
            "slower": [p.after.key for p in slower],
        }
    )
    if slower:
        raise typer.Exit(1)


@app.command()
def figures(
    only: Only = "",
    rounds: Rounds = 15,
    budget: Budget = 60.0,
    threads: Threads = 2,
    skip: Skip = None,
    quick: Quick = False,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Time and memory on a CPU beside others, and the ratios wanted.

    The exit status is 1 if something failed or computed something else; a ratio that is missed is a result.
    """
    from . import report
    from .figures import FIGURES, results_of
    from .measure import Effort

    chosen = [figure for figure in FIGURES if only.lower() in figure.title.lower()]
    if not chosen:
        known = "; ".join(figure.title for figure in FIGURES)
        raise typer.BadParameter(f"only: nothing has {only!r} in its title; there are: {known}")
    effort = Effort(1 if quick else rounds, budget, _skipped(skip))
    _check_outputs(output)
    printer = Printer(as_json, report.WIDTH)
    found = _conditions(printer, threads, "cpu")
    outcome = [
        result
        for figure in chosen
        for result in results_of(figure.quick() if quick else figure, effort, printer.console)
    ]
    printer.console.print(report.figures_table(outcome))
    printer.line(report.explanation())
    printer.line(report.tally(outcome))
    rows = report.figure_rows(outcome)
    _write(printer, rows, found, output)
    printer.document({"conditions": found, "results": rows})
    if any(m.is_faulty for result in outcome for m in (result.ours, result.peer)):
        raise typer.Exit(1)


def _left(start: float, done: int, of: int) -> float:
    """Minutes, if what is to come takes as long as what was."""
    return (time.monotonic() - start) / done * (of - done) / 60


# ---- options -------------------------------------------------------------------------------------


def _some(name: str, known: tuple[str, ...], option: str) -> tuple[str, ...]:
    if name in ("all", "both"):
        return known
    if name not in known:
        raise typer.BadParameter(f"{option}: expected one of {', '.join(known)} or all, got {name!r}")
    return (name,)


def _setting(batch: int, size: int, dtype: str, device: str) -> Any:
    from .cases import Setting

    if dtype not in DTYPES:
        raise typer.BadParameter(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    try:
        device_named(device)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return Setting(batch, size, dtype, device)


def _skipped(skip: list[str] | None) -> frozenset[str]:
    if unknown := set(skip or ()) - set(CONTESTANTS):
        raise typer.BadParameter(f"skip: expected some of {sorted(CONTESTANTS)}, got {sorted(unknown)}")
    return frozenset(skip or ())


def _check_outputs(paths: list[Path] | None) -> None:
    for path in paths or ():
        try:
            results.check_suffix(path)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None


def _read(path: Path) -> tuple[list[results.Row], results.Conditions]:
    try:
        return results.read(path)
    except (FormatError, ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from None


def _conditions(printer: Printer, threads: int, device: str) -> results.Conditions:
    """Sets the threads; prints and gives the conditions."""
    if threads:
        torch.set_num_threads(threads)
    found: results.Conditions = dict(conditions(device, PACKAGES))
    printer.lines(found)
    return found


def _write(
    printer: Printer,
    rows: list[dict[str, Any]],
    found: results.Conditions,
    paths: list[Path] | None,
    last: bool = True,
) -> None:
    """After every work: what was measured is not lost if the next one never ends."""
    for path in paths or ():
        results.write(path, rows, found)
        if last:
            printer.line(f"written: {path}")
