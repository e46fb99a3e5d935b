"""``fused-resnet selftest``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table

from ..analysis.printing import Printer

MARKS = {True: "passed", False: "FAILED", None: "not checked"}
STYLES = {True: "green", False: "bold red", None: "yellow"}


def selftest(
    device: Annotated[str, typer.Option(help="auto, cuda or cpu.")] = "auto",
    backend: Annotated[str, typer.Option(help="triton, cuda, cpu or all.")] = "all",
    brief: Annotated[bool, typer.Option("--brief", help="One problem of every kind of kernel.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write everything to this JSON file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check the kernels against fp64: a GPU's on the GPU here, or else their generated code on the CPU.

    The exit status is 1 if a check failed, or none could run.
    """
    from ..analysis import conditions
    from ..analysis.selftest import checks, kernels, why_not

    if device not in ("auto", "cuda", "cpu"):
        raise typer.BadParameter(f"device: expected auto, cuda or cpu, got {device!r}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("device: there is no CUDA device here")
    known = kernels(device)
    if backend not in (*known, "all"):
        raise typer.BadParameter(f"backend: on {device} expected one of {(*known, 'all')}, got {backend!r}")
    backends = known if backend == "all" else (backend,)
    printer = Printer(as_json, 160)
    absent = {name: why for name in backends if (why := why_not(name, device))}
    if len(absent) == len(backends):
        for name, why in absent.items():
            printer.line(f"The kernels of {name} cannot run here: {why}.")
        if device == "cpu":
            printer.line("In a source checkout: pip install './tools/gpu_on_cpu[triton]' torchvision")
        raise typer.Exit(1)
    found = conditions(device)
    printer.lines(found)
    findings = []
    table = Table("check", "of", "", "detail", title=f"kernels on {device}: {backend}")
    for check in checks(device, brief, backends):
        for finding in check():
            findings.append(finding)
            mark, style = MARKS[finding.passed], STYLES[finding.passed]
            table.add_row(finding.check, finding.subject, f"[{style}]{mark}[/]", finding.detail[:200])
            printer.line(f"{mark}: {finding.check}, {finding.subject}")
    printer.console.print(table)
    counts = {mark: sum(f.passed is key for f in findings) for key, mark in MARKS.items()}
    printer.line(", ".join(f"{n} {mark}" for mark, n in counts.items()))
    text = {"conditions": found, "findings": [dataclasses.asdict(f) for f in findings]}
    if report is not None:
        report.write_text(json.dumps(text, indent=2) + "\n")
        printer.line(f"written: {report}")
    printer.document(text)
    if counts[MARKS[False]]:
        raise typer.Exit(1)
