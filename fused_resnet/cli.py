"""The command `fused-resnet`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(no_args_is_help=True, add_completion=False)
MARKS = {True: "passed", False: "FAILED", None: "not checked"}


@app.callback()
def main() -> None:
    """Fused residual blocks for PyTorch."""


@app.command()
def selftest(
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    backend: Annotated[str, typer.Option(help="triton, cuda or all.")] = "all",
    brief: Annotated[bool, typer.Option("--brief", help="One problem of every kind of kernel.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write everything to this JSON file.")] = None,
) -> None:
    """Check the GPU kernels: on the GPU here, or else their generated code on the CPU, in brief.

    The exit status is 1 if a check failed.
    """
    from .analysis import conditions
    from .analysis.selftest import KERNELS, checks, why_not

    if device not in ("auto", "cuda", "cpu"):
        raise typer.BadParameter(f"device: expected auto, cuda or cpu, got {device!r}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("device: there is no CUDA device here")
    if backend not in (*KERNELS, "all"):
        raise typer.BadParameter(f"backend: expected one of {(*KERNELS, 'all')}, got {backend!r}")
    backends = KERNELS if backend == "all" else (backend,)
    console = Console(width=None if Console().is_terminal else 160)
    absent = {name: why for name in backends if (why := why_not(name, device))}
    if len(absent) == len(backends):
        for name, why in absent.items():
            console.print(f"The kernels of {name} cannot run here: {why}.", highlight=False)
        if device == "cpu":
            console.print("In a source checkout: pip install './tools/gpu_on_cpu[triton]' torchvision")
        raise typer.Exit(1)
    found = conditions(device)
    for key, value in found.items():
        console.print(f"{key}: {value}", highlight=False, soft_wrap=True)
    findings = []
    table = Table("check", "of", "", "detail", title=f"kernels on {device}: {backend}")
    for check in checks(device, brief, backends):
        for finding in check():
            findings.append(finding)
            table.add_row(finding.check, finding.subject, MARKS[finding.passed], finding.detail[:200])
            console.print(f"{MARKS[finding.passed]}: {finding.check}, {finding.subject}", highlight=False)
    console.print(table)
    counts = {mark: sum(f.passed is key for f in findings) for key, mark in MARKS.items()}
    console.print(", ".join(f"{n} {mark}" for mark, n in counts.items()))
    if report is not None:
        text = {"conditions": found, "findings": [dataclasses.asdict(f) for f in findings]}
        report.write_text(json.dumps(text, indent=2) + "\n")
        console.print(f"written: {report}", highlight=False, soft_wrap=True)
    if counts[MARKS[False]]:
        raise typer.Exit(1)
