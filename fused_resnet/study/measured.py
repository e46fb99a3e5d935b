"""Time and memory of modules, stock and fused in turn: what the experiments that measure share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from pandas import DataFrame
from rich.table import Table
from torch import Tensor, nn

from fused_resnet import fuse, models
from fused_resnet.analysis import (
    OtherProcesses,
    Timing,
    interleaved,
    peak_activation_bytes,
    saved_activation_bytes,
)
from fused_resnet.analysis.printing import Printer
from fused_resnet.analysis.progress import Ticker
from fused_resnet.planner.plan import MEMORY_MODES

__all__ = ["COLORS", "COLUMNS", "Subject", "check", "measure", "network", "per_image", "table"]

SEED = 0
LEAST_SIZE = 64  # at half of it the last stage is one pixel, and at batch 1 has no batch statistics
DISTURBED = 0.05  # share of the processors in other hands from which on times are not to be trusted
STOCK, FUSED = "stock", "fused"
COLORS = {STOCK: "#5f6b76", FUSED: "#d1495b"}
TRAINING, INFERENCE = "training", "inference"


def times(work: str) -> list[str]:
    """The columns of a work's median and quartiles."""
    return [f"{work}_s", f"{work}_first_quartile_s", f"{work}_third_quartile_s"]


COLUMNS = ["batch", "size", *times(TRAINING), *times(INFERENCE), "rounds"]
COLUMNS += ["kept_bytes", "peak_bytes", "output_gap", "others_share"]


@dataclass(frozen=True)
class Subject:
    """What is measured: a module in channels_last in stock form, and what a training step does with it.

    Attributes:
        stock: called with `input`, on the same device.
        input: ``[N, C, S, S]``; of a block it requires a gradient, as inside a network.
        backward: called with the output, leaves gradients.
    """

    stock: nn.Module
    input: Tensor
    backward: Callable[[Tensor], None]


def check(*, batch: int, size: int, rounds: int, memory: str) -> None:
    """Raises: ValueError: an argument that cannot be measured with; it is named."""
    for name, value, least in (("batch", batch, 1), ("size", size, LEAST_SIZE), ("rounds", rounds, 1)):
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")
    if memory not in MEMORY_MODES:
        raise ValueError(f"memory: expected one of {MEMORY_MODES}, got {memory!r}")


def placed(value: Any, device: torch.device) -> Any:
    return value.to(device=device, memory_format=torch.channels_last)


def network(name: str, *, batch: int, size: int, device: torch.device) -> Subject:
    """A network of `fused_resnet.models`, random images, and as its loss cross-entropy of random labels."""
    torch.manual_seed(SEED)
    stock = models.create(name, fused=False)
    images = torch.randn(batch, 3, size, size)
    labels = torch.randint(1000, (batch,)).to(device)

    def backward(output: Tensor) -> None:
        F.cross_entropy(output, labels).backward()

    return Subject(placed(stock, device), placed(images, device), backward)


def measure(
    printer: Printer,
    subjects: Mapping[str, Callable[[], Subject]],
    *,
    rounds: int,
    device: torch.device,
    memory: str,
) -> list[dict[str, Any]]:
    """Two rows for every subject, stock and fused: ``network``, ``variant`` and `COLUMNS`.

    One subject after the other is made and measured. Times are of the whole batch, in seconds: a training
    step (forward and backward, no optimizer) and inference; their others_share is the processors' share that
    other processes had, None where unknown. kept_bytes: what the forward pass keeps for backward, without
    the loss; peak_bytes: the most alive at once in a training step (on a GPU with the parameters' gradients).
    output_gap: the largest difference of an output from stock's as a share of stock's largest output, in
    training or in evaluation, whichever is larger.

    Args:
        subjects: name → what makes it.
        rounds: timed runs of everything, after one that is not timed.
        memory: of the fused variant, as `fused_resnet.fuse` takes it.
    """
    rows: list[dict[str, Any]] = []
    with Ticker(printer.console, "measuring", total=len(subjects) * 4 * (rounds + 1)) as ticker:
        for name, make in subjects.items():
            found = _rows(make(), rounds, device, memory, partial(ticker.advance, name))
            rows += [{"network": name, **row} for row in found]
            share = rows[-1]["others_share"]
            if share is not None and share > DISTURBED:
                had = f"other processes had {share:.0%} of the processors"
                printer.line(f"{name}: {had}: its times are not to be trusted", style="yellow")
    return rows


def _rows(
    subject: Subject, rounds: int, device: torch.device, memory: str, after_run: Callable[[], None]
) -> list[dict[str, Any]]:
    stock, input = subject.stock, subject.input
    variants = {STOCK: stock, FUSED: fuse(copy.deepcopy(stock), memory=memory)}
    memories = {variant: _memory(model, subject, device) for variant, model in variants.items()}
    gaps = {STOCK: 0.0, FUSED: output_gap(stock, variants[FUSED], input)}
    with OtherProcesses() as others:
        timings = _timings(variants, subject, rounds, device, after_run)
    both = {"batch": len(input), "size": input.shape[-1], "rounds": rounds, "others_share": others.share}
    return [
        {"variant": variant, "output_gap": gaps[variant], **both, **memories[variant], **timings[variant]}
        for variant in variants
    ]


def _training_step(model: nn.Module, subject: Subject) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad()
        subject.input.grad = None
        subject.backward(model(subject.input))

    return step


def _memory(model: nn.Module, subject: Subject, device: torch.device) -> dict[str, int]:
    step = _training_step(model.train(), subject)
    return {
        "kept_bytes": saved_activation_bytes(model, subject.input),
        "peak_bytes": peak_activation_bytes(step, model.parameters(), device),
    }


def output_gap(stock: nn.Module, fused: nn.Module, input: Tensor) -> float:
    """As a share of stock's largest output; each one has its own running statistics."""
    gaps = []
    for training in (True, False):
        expected, found = (model.train(training)(input).detach() for model in (stock, fused))
        gaps.append((found - expected).abs().max() / expected.abs().max())
    return torch.stack(gaps).max().item()  # not Python's max, which may pass over a NaN


def _timings(
    variants: Mapping[str, nn.Module],
    subject: Subject,
    rounds: int,
    device: torch.device,
    after_run: Callable[[], None],
) -> dict[str, dict[str, float]]:
    """The columns of both works, by variant."""

    def infer(model: nn.Module) -> None:
        with torch.inference_mode():
            model(subject.input)

    steps = {variant: _training_step(model.train(), subject) for variant, model in variants.items()}
    training = interleaved(steps, rounds, device=device, after_run=after_run)
    inferences = {variant: partial(infer, model.eval()) for variant, model in variants.items()}
    inference = interleaved(inferences, rounds, device=device, after_run=after_run)
    return {
        variant: _columns(TRAINING, training[variant]) | _columns(INFERENCE, inference[variant])
        for variant in variants
    }


def _columns(work: str, taken: Timing) -> dict[str, float]:
    return dict(zip(times(work), (taken.median, *taken.quartiles), strict=True))


# ---- what is shown -------------------------------------------------------------------------------


def table(rows: Iterable[Mapping[str, Any]], title: str) -> Table:
    """Rows of `measure` for people, a fused one below its stock one, which its ratios are to."""
    shown = Table("", "", title=title)
    for heading in (f"{TRAINING}: ms", "× stock", f"{INFERENCE}: ms", "× stock"):
        shown.add_column(heading, justify="right")
    for heading in ("MiB kept", "MiB peak", "gap", "others"):
        shown.add_column(heading, justify="right")
    for row in rows:
        if row["variant"] == STOCK:
            stock = row
        cells = []
        for work in (TRAINING, INFERENCE):
            cells += [_milliseconds(row, work), f"{row[f'{work}_s'] / stock[f'{work}_s']:.2f}"]
        cells += [f"{row[f'{which}_bytes'] / 2**20:.1f}" for which in ("kept", "peak")]
        cells.append(f"{row['output_gap']:.0e}" if row["variant"] == FUSED else "")
        cells.append("unknown" if row["others_share"] is None else f"{row['others_share']:.0%}")
        shown.add_row(row["network"] if row is stock else "", row["variant"], *cells)
    return shown


def _milliseconds(row: Mapping[str, Any], work: str) -> str:
    median, first, third = (row[column] * 1e3 for column in times(work))
    return f"{median:.1f} ({first:.1f}–{third:.1f})"


def per_image(part: DataFrame, work: str) -> tuple[Any, list[Any]]:
    """Milliseconds per image ``[rows]``, and how far below and above them the quartiles are, to draw."""
    median, first, third = ((part[column] / part["batch"] * 1e3).to_numpy() for column in times(work))
    return median, [median - first, third - median]
