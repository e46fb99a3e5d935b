"""Measures a job: prepares everyone, checks what each computes, times them in turn within a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from fused_resnet.analysis import ColdCache, OtherProcesses, interleaved, stopwatch
from fused_resnet.analysis.progress import Ticker

from . import op_cases
from .cases import OP, Ready, Task, Variant, Work
from .op_cases import OpWork
from .peers import Contestant

LEAST_ROUNDS = 3
DISTURBED = 0.05  # share of the processors in other hands from which on times are not to be trusted
PAUSE = 0.05  # seconds; ONNX Runtime's threads spin on for some milliseconds and slow down who is next
SKIPPED, FAILED, WRONG = "skipped", "failed", "wrong"
# dtype -> the largest error that passes as the same computation, of the output and of the gradients
TOLERANCES = {"fp32": (1e-3, 2e-2), "bf16": (5e-2, 0.5), "fp16": (1e-2, 0.1)}


@dataclass(frozen=True)
class Measurement:
    """What was found of one contestant.

    missing: why there are no values, or empty. error: the largest difference of a result from the expected
    one, relative to the largest value in it; gradient_error: the norm of the difference of all gradients,
    relative to their norm. checked_in: seconds of that run. seconds: the median of one call, with its
    quartiles. Bytes: the most allocated at once; kept for backward; moved by its operators, counted from
    shapes. others_share: of the processors, what other processes took while this was timed.
    """

    contestant: str
    layout: str
    how: str = ""
    missing: str = ""
    error: float | None = None
    gradient_error: float | None = None
    checked_in: float | None = None
    seconds: float | None = None
    first_quartile: float | None = None
    third_quartile: float | None = None
    rounds: int = 0
    peak_bytes: int | None = None
    kept_bytes: int | None = None
    moved_bytes: int | None = None
    others_share: float | None = None

    @property
    def is_faulty(self) -> bool:
        """Did it fail, or compute something else?"""
        return self.missing.startswith((FAILED, WRONG))

    @property
    def errors(self) -> str:
        gradients = "" if self.gradient_error is None else f" ({self.gradient_error:.0e})"
        return "unknown" if self.error is None else f"{self.error:.0e}{gradients}"


@dataclass(frozen=True)
class Job:
    """A task for some contestants. calls: how often one timed run does it, for works that take little."""

    title: str
    task: Task
    contestants: tuple[Contestant, ...]
    calls: int = 1
    times: bool = True
    memory: bool = False


@dataclass(frozen=True)
class Effort:
    """rounds: the most timed ones of anyone; budget: seconds to time a job in; skip: names of contestants;
    cold: does every run find caches full of something else?"""

    rounds: int
    budget: float
    skip: frozenset[str] = frozenset()
    cold: bool = False


def measure(job: Job, effort: Effort, console: Console) -> dict[str, Measurement]:
    """Everyone of the job, by name."""
    ready, found = prepare(job, effort, console)
    errors = ", ".join(f"{name} {found[name].errors}" for name in ready)
    console.print(f"{job.title}: relative error (of gradients): {errors}", highlight=False, soft_wrap=True)
    for name in [name for name in ready if found[name].missing]:
        del ready[name]
    found |= {name: _counted(found[name], run) for name, run in ready.items()}
    if job.memory:
        found |= {name: _with_memory(found[name], run) for name, run in ready.items()}
    if job.times and ready:
        found |= _timed(job, ready, found, effort, console)
    return found


def prepare(job: Job, effort: Effort, console: Console) -> tuple[dict[str, Ready], dict[str, Measurement]]:
    """Those who run, each after a run that was checked, and what is known of everyone."""
    ready: dict[str, Ready] = {}
    found: dict[str, Measurement] = {}
    with Ticker(console, f"{job.title}: preparing", total=len(job.contestants) + 1) as ticker:
        expected = _expected(job.task)
        ticker.advance("reference")
        for contestant in job.contestants:
            name = contestant.name
            measurement = Measurement(name, contestant.layout)
            why = SKIPPED if name in effort.skip else contestant.why_absent()
            if why is None:
                try:
                    runs, how = contestant.prepare(job.task)
                    measurement = replace(
                        measurement, how=", ".join(filter(None, (how, contestant.other_function)))
                    )
                    measurement = _checked(measurement, runs, expected, job.task, contestant)
                    ready[name] = runs
                except Exception as error:  # one that fails must not take the others' figures along
                    why = f"{FAILED}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            found[name] = measurement if why is None else replace(measurement, missing=why)
            ticker.advance(name)
    return ready, found


# ---- do they compute the same? -------------------------------------------------------------------

Results = tuple[tuple[Tensor, ...], Tensor | None]


def _expected(task: Task) -> Results:
    """An op's results in fp64; else output and gradients of stock fp32.

    These in the other layout, so that stock's own error is seen, too.
    """
    if task.mode == OP:
        return op_cases.expected(task), None
    setting = replace(task.setting, dtype="fp32")
    work = Work(replace(task, setting=setting), Variant(torch.contiguous_format))
    return (work().detach(),), work.gradients()


def _checked(
    measurement: Measurement, runs: Ready, expected: Results, task: Task, contestant: Contestant
) -> Measurement:
    """With the errors; missing where they are beyond what rounding explains."""
    outputs, gradients = expected
    device = outputs[0].device
    start = time.perf_counter()
    made = runs()
    seconds = time.perf_counter() - start
    found = made if isinstance(made, tuple) else (made,)
    error = max(_relative(a.detach().to(device), b) for a, b in zip(found, outputs, strict=True))
    gradient_error, of_run = None, runs.gradients()
    if gradients is not None and of_run is not None and of_run.shape == gradients.shape:
        gradient_error = ((of_run.float() - gradients).norm() / gradients.norm()).item()
    measurement = replace(measurement, error=error, gradient_error=gradient_error, checked_in=seconds)
    of_output, of_gradients = TOLERANCES[task.setting.dtype]
    # written so that NaN is wrong, too
    same = error <= of_output and (gradient_error is None or gradient_error <= of_gradients)
    if same or contestant.other_function:
        return measurement
    why = f"{WRONG}: relative error {measurement.errors}, at most {of_output:.0e} ({of_gradients:.0e})"
    return replace(measurement, missing=why)


def _relative(found: Tensor, expected: Tensor) -> float:
    difference = (found.double() - expected.double()).abs().max()
    return (difference / expected.abs().max().double().clamp(min=torch.finfo(torch.float32).tiny)).item()


# ---- memory and bytes ----------------------------------------------------------------------------


def _counted(measurement: Measurement, runs: Ready) -> Measurement:
    """With the bytes that it moves, where its operators are known."""
    work = getattr(runs, "work", runs)
    if isinstance(work, OpWork) or (isinstance(work, Work) and work.shows_operators):
        return replace(measurement, moved_bytes=work.operations().bytes)
    return measurement


def _with_memory(measurement: Measurement, runs: Ready) -> Measurement:
    if not isinstance(runs, Work):
        return measurement
    return replace(measurement, peak_bytes=runs.peak_bytes(), kept_bytes=runs.kept_bytes())


# ---- time ----------------------------------------------------------------------------------------


def _repeated(run: Callable[[], Any], calls: int) -> Callable[[], None]:
    def repeat() -> None:
        for _ in range(calls):
            run()

    return repeat


def _timed(
    job: Job,
    ready: Mapping[str, Ready],
    found: Mapping[str, Measurement],
    effort: Effort,
    console: Console,
) -> dict[str, Measurement]:
    runs = {name: _repeated(run, job.calls) for name, run in ready.items()}
    device = job.task.setting.device
    seconds = {name: _duration(run, found[name], job, effort) for name, run in runs.items()}
    rounds = rounds_within(effort.budget, effort.rounds, seconds)
    with (
        Ticker(console, f"{job.title}: measuring", total=sum(rounds.values())) as ticker,
        OtherProcesses() as others,
    ):
        times = interleaved(
            runs,
            rounds,
            warmup=0,
            device=device,
            pause=PAUSE,
            before_run=ColdCache(device) if effort.cold else None,
            after_run=ticker.advance,
        )
    if is_disturbed(others.share):
        console.print(
            f"{job.title}: DISTURBED: other processes had {others.share:.0%} of the processors, "
            "which hits OpenMP (PyTorch, ours) harder than OpenVINO or ONNX Runtime: repeat it",
            highlight=False,
            soft_wrap=True,
        )
    timed = {}
    for name, timing in times.items():
        first, third = (q / job.calls for q in timing.quartiles)
        timed[name] = replace(
            found[name],
            seconds=timing.median / job.calls,
            first_quartile=first,
            third_quartile=third,
            rounds=rounds[name],
            others_share=others.share,
        )
    return timed


def is_disturbed(others_share: float | None) -> bool:
    return others_share is not None and others_share > DISTURBED


def _duration(run: Callable[[], Any], found: Measurement, job: Job, effort: Effort) -> float:
    """Seconds of a run, to plan with: of the check where that took long, else of another one.

    In another one nothing is made for the first time any more.
    """
    if found.checked_in is not None and found.checked_in * job.calls > effort.budget / 20:
        return found.checked_in * job.calls
    return stopwatch(job.task.setting.device)(run)


def rounds_within(budget: float, most: int, seconds: Mapping[str, float]) -> dict[str, int]:
    """How many rounds each gets: equal shares of the budget; what fast ones leave goes to slow ones.

    At least `LEAST_ROUNDS` where the budget has them, and always one; never more than `most`.
    """
    rounds, left = {}, budget
    for position, name in enumerate(sorted(seconds, key=lambda name: seconds[name])):
        share = left / (len(seconds) - position)
        least = LEAST_ROUNDS if LEAST_ROUNDS * seconds[name] <= budget else 1
        rounds[name] = min(most, max(least, int(share / max(seconds[name], 1e-9))))
        left = max(0.0, left - rounds[name] * seconds[name])
    return rounds
