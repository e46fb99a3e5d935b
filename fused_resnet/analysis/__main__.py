"""``python -m fused_resnet.analysis``: what can be told of the GPU kernels without a GPU, as tables."""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from .selftest import DTYPES

app = typer.Typer(add_completion=False)
console = Console(width=None if Console().is_terminal else 180)


def _architectures(arch: str) -> list[int]:
    return [int(a) for a in arch.split(",")]


@app.callback(invoke_without_command=True)
def main(context: typer.Context) -> None:
    """Resources of every kernel (the default), bytes moved by a training step, mutation."""
    if context.invoked_subcommand is None:
        kernels()


@app.command()
def kernels(
    arch: Annotated[str, typer.Option(help="Compute capabilities times ten.")] = "80,90,100,120",
    dtype: Annotated[str, typer.Option(help="bf16, fp16 or fp32.")] = "bf16",
    only: Annotated[str, typer.Option(help="Only problems with this in their name.")] = "",
) -> None:
    """Registers, shared memory, occupancy, instructions, compile time of every kernel and configuration."""
    from .kernel_table import kernels as compiled
    from .kernel_table import problems

    failed = 0
    for architecture in _architectures(arch):
        found = compiled(architecture, problems(only, DTYPES[dtype]))
        table = Table(title=f"sm_{architecture}, {dtype}: as compiled, nothing timed but the compiler")
        for column in (
            "kernel",
            "tile and variant",
            "warps",
            "registers",
            "spills",
            "shared",
            "occupancy <=",
        ):
            table.add_column(column)
        for column in ("tensor core", "16-byte of global accesses", "compile s", "wrong"):
            table.add_column(column)
        for k in found:
            table.add_row(
                *(k.name, k.variant, str(k.warps), str(k.registers), str(k.spills), str(k.shared)),
                *(f"{k.occupancy:.2f}", str(k.tensor_core), f"{k.wide} of {k.accesses}"),
                *(f"{k.seconds:.1f}", k.why_not),
            )
        console.print(table)
        failed += sum(bool(k.why_not) for k in found)
    if failed:
        raise typer.Exit(1)


@app.command()
def extension() -> None:
    """Registers and spills of the CUDA C++ kernels in the installed extension, for every architecture."""
    from .extension_table import compiled

    table = Table(title="the extension: as compiled, nothing run")
    for column in ("sm", "kernel", "threads", "registers", "stack and spills", "static shared", "wrong"):
        table.add_column(column)
    failed = 0
    for k in compiled():
        failed += bool(k.why_not)
        cells = k.arch, k.signature, k.threads, k.registers, k.stack, k.shared, k.why_not
        table.add_row(*map(str, cells))
    console.print(table)
    if failed:
        raise typer.Exit(1)


@app.command()
def traffic(
    network: Annotated[str, typer.Option(help="bottleneck, or one of torchvision's ResNets.")] = "bottleneck",
    batch: Annotated[int, typer.Option(help="Images.")] = 8,
    size: Annotated[int, typer.Option(help="Height and width of the input.")] = 56,
    backend: Annotated[str, typer.Option(help="triton or cuda.")] = "triton",
) -> None:
    """Bytes that a training step moves in bf16, fused and stock; a bottleneck's in units of M*C elements."""
    from .traffic import compare, model

    stock, x, unit = model(network, batch, size)
    eager, fused = compare(stock, x, backend)
    table = Table(
        title=f"{network}, {backend}, input {tuple(x.shape)}, bf16: {unit.name}, counted by running"
    )
    for column in ("direction", "kernel or operator", "fused", "stock eager"):
        table.add_column(column, justify="right" if column in ("fused", "stock eager") else "left")
    for direction in ("forward", "backward"):
        for found in (fused, eager):
            for (d, name), n in sorted(found.by_name.items(), key=lambda item: -item[1]):
                if d == direction and n / unit.size >= 0.005:
                    cells = f"{n / unit.size:.2f}", ""
                    table.add_row(direction, name, *(cells if found is fused else reversed(cells)))
        totals = (f"{found.total(direction) / unit.size:.2f}" for found in (fused, eager))
        table.add_row(direction, "all", *totals, end_section=True, style="bold")
    totals = (f"{found.total() / unit.size:.2f}" for found in (fused, eager))
    table.add_row("step", "all", *totals, style="bold")
    console.print(table)
    console.print(f"fused / stock: {fused.total() / eager.total():.3f}")


@app.command()
def mutation(
    arch: Annotated[str, typer.Option(help="Compute capabilities times ten.")] = "80,90,100",
    count: Annotated[int, typer.Option(help="Breakages per kernel and architecture.")] = 8,
    only: Annotated[str, typer.Option(help="Only problems with this in their name.")] = "",
    least: Annotated[float, typer.Option(help="The share that must be noticed.")] = 0.95,
    backend: Annotated[str, typer.Option(help="triton, cuda or all.")] = "all",
) -> None:
    """Break kernels on purpose and count what is noticed; survivors are listed."""
    from .mutation import SUBJECTS, mutate

    noticed = tried = 0
    for subject in SUBJECTS:
        if only not in subject.problem or backend not in ("all", subject.backend):
            continue
        # the code for every GPU comes from one CUDA source, without anything that only some of them have
        for architecture in [80] if subject.backend == "cuda" else _architectures(arch):
            verdicts = list(mutate(subject, architecture, count))
            counted = [v for v in verdicts if not v.harmless]
            ours = sum(v.noticed for v in counted)
            noticed, tried = noticed + ours, tried + len(counted)
            console.print(
                f"{subject.backend}, {subject.problem}, {subject.kernel}, sm_{architecture}: {ours} of "
                f"{len(counted)} noticed; {len(verdicts) - len(counted)} dropped barriers order nothing"
            )
            for v in counted:
                if not v.noticed:
                    b = v.breakage
                    console.print(f"  survived: line {b.line}, {b.kind}\n    {b.before}\n    {b.after}")
    console.print(f"{noticed} of {tried} noticed ({noticed / max(tried, 1):.1%})")
    if noticed < least * tried:
        raise typer.Exit(1)


if __name__ == "__main__":
    torch.manual_seed(0)
    app()
