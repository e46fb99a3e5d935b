"""``python -m gpu_on_cpu``: checks of the kernels that a file of cases describes.

A file of cases is a Python file with a dictionary CASES: for every kernel a function that takes a dtype ("bf16",
"fp16", "fp32") and returns a list of `gpu_on_cpu.Case`, problem sizes that share one compiled kernel.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import json
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from gpu_on_cpu import case, checks
from gpu_on_cpu.checks import Job
from gpu_on_cpu.errors import GpuOnCpuError
from gpu_on_cpu.resources import target

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=__doc__,
)

File = Annotated[str, typer.Argument(help="Python file with a dictionary CASES")]
Kernels = Annotated[str, typer.Option(help="comma-separated names; all if empty")]
Archs = Annotated[str, typer.Option(help="comma-separated: 80, 86, 89, 90, 100, 120")]
Dtypes = Annotated[str, typer.Option(help="comma-separated: bf16, fp16, fp32")]
Jobs = Annotated[int, typer.Option(help="processes")]
Json = Annotated[bool, typer.Option("--json", help="print JSON lines instead of a table")]


def jobs_of(file: str, kernels: str, archs: str, dtypes: str) -> list[Job]:
    try:
        known = list(case.load(file))
    except ValueError as e:
        raise typer.BadParameter(str(e)) from None
    chosen = kernels.split(",") if kernels else known
    if unknown := [k for k in chosen if k not in known]:
        raise typer.BadParameter(f"{unknown} are not among the kernels of {file}: {known}")
    return [Job(file, k, int(a), d) for k, d, a in itertools.product(chosen, dtypes.split(","), archs.split(","))]


def in_parallel(
    function: Callable[..., Any], jobs: Sequence[Job], processes: int, *args: Any
) -> Iterator[tuple[Job, Any]]:
    """(job, result) as they come, with a bar of progress on a terminal; a job's own errors end the program."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = {pool.submit(function, job, *args): job for job in jobs}
        done = concurrent.futures.as_completed(futures)
        console = Console(stderr=True)
        for future in track(done, total=len(jobs), console=console, transient=True, disable=not console.is_terminal):
            try:
                yield futures[future], future.result()
            except (GpuOnCpuError, ValueError) as e:
                job = futures[future]
                typer.echo(f"{job.kernel} {target(job.arch)} {job.dtype}: {type(e).__name__}: {e}", err=True)
                pool.shutdown(cancel_futures=True)
                raise typer.Exit(1) from None


def show(title: str, rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    table = Table(title=title, title_justify="left")
    for name in rows[0] if rows else ():
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right", overflow="fold")
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def columns(job: Job) -> dict[str, str]:
    return {"kernel": job.kernel, "arch": target(job.arch), "dtype": job.dtype}


@app.command()
def run(
    file: File,
    kernels: Kernels = "",
    arch: Archs = "80,90,100",
    dtype: Dtypes = "bf16,fp32",
    seeds: int = 4,
    jobs: Jobs = 2,
    json: Json = False,
) -> None:
    """Executes every problem size under several schedules and compares with the references."""
    rows, failed = [], 0
    for job, o in in_parallel(checks.check, jobs_of(file, kernels, arch, dtype), jobs, range(seeds)):
        failed += bool(o.problem)
        figures = {
            "sizes": o.sizes,
            "worst error": o.worst,
            "collisions": o.collisions,
            "triton s": o.triton,
            "translate s": o.translate,
            "compile s": o.compile,
            "run s": o.execute,
        }
        rows.append(columns(job) | figures | {"problem": o.problem})
    show(
        f"{len(rows) - failed} of {len(rows)} right; errors in tolerances; seconds per kernel, run: all sizes once",
        rows,
        json,
    )
    raise typer.Exit(1 if failed else 0)


@app.command()
def resources(
    file: File,
    kernels: Kernels = "",
    arch: Archs = "80,90,100,120",
    dtype: Dtypes = "bf16,fp32",
    jobs: Jobs = 2,
    json: Json = False,
) -> None:
    """Registers, spills, shared memory, occupancy and machine instructions of every kernel."""
    rows = []
    for job, r in in_parallel(checks.resources, jobs_of(file, kernels, arch, dtype), jobs):
        figures = {
            "registers": r.registers,
            "stack": r.stack,
            "spills": r.spills,
            "shared": r.shared,
            "tmem": r.tensor_memory,
            "fits": str(r.fits),
        }
        counts = {
            "blocks/SM": r.blocks_per_sm,
            "occupancy": r.occupancy,
            "tensor core": r.tensor_core,
            "instructions": sum(r.instructions.values()),
        }
        rows.append(columns(job) | figures | counts)
    show("resources as ptxas gives them; occupancy is a bound, not a speed", rows, json)


@app.command()
def traffic(
    file: File,
    kernels: Kernels = "",
    arch: Archs = "90",
    dtype: Dtypes = "bf16",
    size: int = 0,
    jobs: Jobs = 2,
    json: Json = False,
) -> None:
    """Bytes that every kernel asks of global memory, per tensor, for one problem size."""
    rows = []
    for job, accesses in in_parallel(checks.traffic, jobs_of(file, kernels, arch, dtype), jobs, size):
        rows += [columns(job) | a for a in accesses]
    show("bytes asked for; in 32-byte sectors per warp instruction, per block, per kernel", rows, json)


@app.command()
def mutate(
    file: File,
    kernels: Kernels = "",
    arch: Archs = "80,90,100",
    dtype: Dtypes = "bf16",
    count: Annotated[int, typer.Option(help="breakages of each kernel")] = 20,
    seeds: int = 4,
    choice: Annotated[int, typer.Option(help="another choice of breakages")] = 0,
    jobs: Jobs = 2,
    least: Annotated[float, typer.Option(help="exit status 1 if a smaller share is noticed")] = 0.0,
    json: Json = False,
) -> None:
    """Breaks every kernel on purpose and lists the breakages that its cases do not notice."""
    rows, survivors, noticed, total = [], [], 0, 0
    for job, s in in_parallel(checks.mutations, jobs_of(file, kernels, arch, dtype), jobs, count, range(seeds), choice):
        noticed, total = noticed + s.noticed, total + len(s.verdicts)
        rows.append(columns(job) | {"noticed": s.noticed, "broken": len(s.verdicts)})
        survivors += [
            columns(job) | {k: v for k, v in dataclasses.asdict(v.mutant).items() if k != "ptx"} for v in s.survivors
        ]
    show(f"{noticed} of {total} breakages noticed", rows, json)
    if survivors:
        show("survivors", survivors, json)
    raise typer.Exit(1 if total and noticed / total < least else 0)


@app.command()
def instructions(json: Json = False) -> None:
    """The table of modelled PTX instructions."""
    from gpu_on_cpu.ptx import translate  # noqa: F401  (fills the table)
    from gpu_on_cpu.ptx.table import ENTRIES

    show(
        f"{len(ENTRIES)} instructions",
        [{"instruction": e.name, "forms": len(e.forms), "section of the PTX ISA": e.section} for e in ENTRIES],
        json,
    )
