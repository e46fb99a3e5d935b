"""What can go wrong, as exceptions that say where."""

from __future__ import annotations

import dataclasses


class GpuOnCpuError(Exception):
    """Base class of everything this package raises on purpose."""


class Unsupported(GpuOnCpuError):
    """PTX that is not modelled. Nothing was run.

    Attributes:
        line: line of the PTX text, counted from 1; 0 if it has none.
        text: the instruction or directive.
        why: the part of it that is unknown, or "".
    """

    def __init__(self, text: str, line: int = 0, why: str = "") -> None:
        self.text, self.line, self.why = text, line, why
        where = f"line {line}: " if line else ""
        super().__init__(f"{where}not modelled{f' ({why})' if why else ''}: {text}")


@dataclasses.dataclass
class KernelFault(GpuOnCpuError):
    """The kernel did what the PTX ISA or the CUDA model leaves undefined, and was stopped.

    Attributes:
        reason: what is wrong, e.g. ``"shared-memory race: ..."``, ``"hang"``.
        block: blockIdx (x, y, z) of the thread that was caught.
        thread: threadIdx (x, y, z).
        line: line of the PTX text (or of the .cu source, where known), counted from 1; 0 if unknown.
        instruction: the text of that line.
        details: everything the process wrote to stderr (a sanitizer's report, the waiting threads of a deadlock).
    """

    reason: str
    block: tuple[int, int, int] = (0, 0, 0)
    thread: tuple[int, int, int] = (0, 0, 0)
    line: int = 0
    instruction: str = ""
    details: str = dataclasses.field(default="", repr=False)

    def __str__(self) -> str:
        at = f", line {self.line}: {self.instruction}" if self.line or self.instruction else ""
        return f"{self.reason} [block {self.block}, thread {self.thread}{at}]"


class CompilerError(GpuOnCpuError):
    """A compiler (g++, nvcc, ptxas, Triton) refused its input; the message holds its output."""
