"""``fused-resnet plan``: what the planner would do with a network, and the least time that takes on a GPU."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from rich.table import Table
from torch import nn

from .. import models
from ..analysis.ceilings import GPUS, Ceilings, datasheet
from ..analysis.printing import Printer
from ..bench.cases import DTYPES
from ..convert import Explanation, explain, fuse
from ..convert.explain import Run
from ..planner import MEMORY_MODES

SOURCES = ("torchvision", "timm", "fused_resnet")


def plan(
    model: Annotated[str, typer.Argument(help="resnet50, timm:resnet26d, torchvision:..., fused_resnet:...")],
    batch: Annotated[int, typer.Option(min=1, help="Images.")] = 32,
    size: Annotated[int, typer.Option(min=8, help="Height and width of an image.")] = 224,
    dtype: Annotated[str, typer.Option(help="fp32 (tf32 on a GPU), bf16 or fp16.")] = "bf16",
    memory: Annotated[str, typer.Option(help="speed, balanced or min.")] = "balanced",
    inference: Annotated[bool, typer.Option("--inference", help="In eval mode, without gradients.")] = False,
    gpu: Annotated[str, typer.Option(help=f"Whose ceilings: {', '.join(GPUS)}.")] = "h100",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The planner's table for a network: what is folded, recomputed and kept, and who convolves.

    Times are bounds from datasheet ceilings, of forward and backward: no kernel is run, none can be faster.
    """
    if dtype not in DTYPES:
        raise typer.BadParameter(f"dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    if memory not in MEMORY_MODES:
        raise typer.BadParameter(f"memory: expected one of {', '.join(MEMORY_MODES)}, got {memory!r}")
    try:
        ceilings = datasheet(gpu)
        stock, source = build(model)
    except (ValueError, ImportError) as error:
        raise typer.BadParameter(str(error)) from None
    try:
        found, device = _explained(stock, (batch, 3, size, size), DTYPES[dtype], memory, inference)
    except (RuntimeError, TypeError, ValueError) as error:
        why = str(error).strip().splitlines()[0]
        raise typer.BadParameter(f"{source} does not take {batch}x3x{size}x{size}: {why}") from None
    printer = Printer(as_json, 150)
    title = f"{source}, {batch}x3x{size}x{size}, {dtype}, "
    title += "inference" if inference else f"training, memory={memory!r}"
    printer.console.print(_table(found, ceilings, dtype, title))
    _notes(printer, found, ceilings, dtype, device)
    printer.document(_document(found, ceilings, dtype, title, device))
    if not found.runs:
        raise typer.Exit(1)


# ---- the network ---------------------------------------------------------------------------------


def build(name: str) -> tuple[nn.Module, str]:
    """A stock network by name, with random weights, and where it is from.

    Args: name: "source:name", or a name that the first of `SOURCES` knows.
    Raises: ValueError: nobody knows it. ImportError: the source that is asked for is not installed.
    """
    source, _, plain = name.rpartition(":")
    if source and source not in SOURCES:
        raise ValueError(f"model: expected one of {', '.join(SOURCES)} before the colon, got {source!r}")
    for candidate in (source,) if source else SOURCES:
        try:
            made = _BUILDERS[candidate](plain)
        except ImportError:
            if source:
                raise ImportError(f"model: {source} is not installed: pip install {source}") from None
            continue
        if made is not None:
            return made, f"{candidate}'s {plain}"
    raise ValueError(f"model: {source or ', '.join(SOURCES)} has no {plain!r}")


def _of_torchvision(name: str) -> nn.Module | None:
    known = importlib.import_module("torchvision.models")
    return known.get_model(name) if name in known.list_models() else None


def _of_timm(name: str) -> nn.Module | None:
    timm = importlib.import_module("timm")
    return timm.create_model(name) if timm.is_model(name) else None


def _own(name: str) -> nn.Module | None:
    return models.create(name, fused=False) if name in models.names() else None


_BUILDERS: dict[str, Callable[[str], nn.Module | None]] = dict(
    zip(SOURCES, (_of_torchvision, _of_timm, _own), strict=True)
)


def _explained(
    model: nn.Module, size: tuple[int, ...], dtype: torch.dtype, memory: str, inference: bool
) -> tuple[Explanation, str]:
    """On fake tensors: as on a GPU where torch is built for one, else as on the CPU."""
    device = "cuda" if torch.backends.cuda.is_built() else "cpu"
    fused = fuse(model, memory=memory).train(not inference).to(dtype)
    fused.to(memory_format=torch.channels_last)
    x = torch.empty(size, dtype=dtype).to(memory_format=torch.channels_last)
    with torch.set_grad_enabled(not inference):
        return explain(fused, x, device), device


# ---- what is printed -----------------------------------------------------------------------------


def least_seconds(run: Run, ceilings: Ceilings, dtype: str) -> float:
    """What the unit's bytes or its multiply-adds take at least, whichever is more (the roofline model)."""
    by_bytes = run.cost.bytes_moved / ceilings.bytes_per_second
    return max(by_bytes, 2 * run.cost.multiply_adds / ceilings.flops_per_second[dtype])


def _limit(run: Run, ceilings: Ceilings, dtype: str) -> str:
    by_bytes = run.cost.bytes_moved / ceilings.bytes_per_second
    return "memory" if least_seconds(run, ceilings, dtype) == by_bytes else "arithmetic"


def _table(found: Explanation, ceilings: Ceilings, dtype: str, title: str) -> Table:
    table = Table(title=title)
    for column in ("unit", "kind", "input", "folded", "again", "convolved by"):
        table.add_column(column)
    for column in ("MB moved", "MB kept", "GMAC", "ms at least", "bound by"):
        table.add_column(column, justify="right")
    for run in found.runs:
        moved, macs, kept = run.cost
        table.add_row(
            run.path,
            run.kind,
            "x".join(map(str, run.shape)),
            "".join("x" if folded else "-" for folded in run.folded),
            "yes" if run.recomputed else "no",
            " ".join(run.engines if len(set(run.engines)) > 1 else run.engines[:1]),
            f"{moved / 1e6:.1f}",
            f"{kept / 1e6:.1f}",
            f"{macs / 1e9:.2f}",
            f"{least_seconds(run, ceilings, dtype) * 1e3:.3f}",
            _limit(run, ceilings, dtype),
        )
    sums = [sum(run.cost[i] for run in found.runs) for i in range(3)]
    total = sum(least_seconds(run, ceilings, dtype) for run in found.runs)
    table.add_section()
    cells = f"{sums[0] / 1e6:.1f}", f"{sums[2] / 1e6:.1f}", f"{sums[1] / 1e9:.2f}", f"{total * 1e3:.3f}"
    table.add_row("all", "", "", "", "", "", *cells, "", style="bold")
    return table


def _notes(printer: Printer, found: Explanation, ceilings: Ceilings, dtype: str, device: str) -> None:
    memory, arithmetic = ceilings.bytes_per_second / 1e9, ceilings.flops_per_second[dtype] / 1e12
    rates = f"{memory:.0f} GB/s, {arithmetic:.0f} TFLOP/s"
    printer.line(
        f"ms at least: {ceilings.name}'s datasheet, {rates}; bytes and multiply-adds are counted from "
        "shapes. A bound, nothing was run."
    )
    if device == "cpu":
        printer.line("convolved by: as on the CPU here; a CUDA build of torch shows a GPU's engines")
    if not found.runs:
        printer.line("nothing in this network can be fused:", style="yellow")
    for row in found.left:
        printer.line(f"left alone: {row.path}: {row.reason}")


def _document(found: Explanation, ceilings: Ceilings, dtype: str, title: str, device: str) -> dict[str, Any]:
    units = [
        {
            **{
                name: getattr(run, name)
                for name in ("path", "kind", "shape", "folded", "recomputed", "engines")
            },
            **run.cost._asdict(),
            "least_seconds": least_seconds(run, ceilings, dtype),
            "bound_by": _limit(run, ceilings, dtype),
        }
        for run in found.runs
    ]
    return {
        "title": title,
        "engines_as_on": device,
        "ceilings": dataclasses.asdict(ceilings),
        "units": units,
        "least_seconds": sum(unit["least_seconds"] for unit in units),
        "left_alone": [{"convolution": row.path, "because": row.reason} for row in found.left],
    }
