"""Measures a figure: prepares everyone, checks what each computes, times them in turn within a budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.cases import Variant, Work
from benchmarks.figures import MEMORY, Comparison, Figure
from benchmarks.peers import CONTESTANTS, Ready, Task
from fused_resnet.analysis import OtherProcesses, interleaved
from fused_resnet.analysis.progress import Ticker

LEAST_ROUNDS = 3
DISTURBED = 0.05  # share of the processors in other hands from which on times are not to be trusted
PAUSE = 0.05  # seconds; ONNX Runtime's threads spin on for some milliseconds and slow down who is next
SKIPPED, FAILED, WRONG = "skipped", "failed", "wrong"
# dtype -> the largest error that passes as the same computation, of the output and of the gradients
TOLERANCES = {"fp32": (1e-3, 2e-2), "bf16": (5e-2, 0.5)}


@dataclass(frozen=True)
class Measurement:
    """What was found of one contestant.

    missing: why there is no value, or empty. value: median seconds of one call, or bytes at the peak.
    error: the output's largest difference from stock fp32, relative to the largest output; gradient_error:
    the norm of the difference of all gradients, relative to their norm. checked_in: seconds of that run.
    others_share: of the processors, what other processes took while this was timed.
    """

    contestant: str
    layout: str
    how: str = ""
    missing: str = ""
    error: float | None = None
    gradient_error: float | None = None
    checked_in: float | None = None
    value: float | None = None
    first_quartile: float | None = None
    third_quartile: float | None = None
    rounds: int = 0
    kept_bytes: int | None = None
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
class Result:
    """A comparison with what was measured."""

    figure: Figure
    comparison: Comparison
    ours: Measurement
    peer: Measurement

    @property
    def ratio(self) -> float | None:
        if self.ours.value is None or self.peer.value is None:
            return None
        return self.comparison.ratio(self.ours.value, self.peer.value)

    @property
    def verdict(self) -> str:
        """ "met", "MISSED", "not judged" for want of a peer, or empty where nothing is wanted."""
        if self.comparison.bound is None:
            return ""
        if self.ratio is None:
            return "MISSED" if self.ours.value is None else "not judged"
        return "met" if self.comparison.is_met(self.ratio) else "MISSED"


@dataclass(frozen=True)
class Effort:
    """rounds: the most timed ones of anyone; budget: seconds to time a figure in; skip: names of peers."""

    rounds: int
    budget: float
    skip: frozenset[str] = frozenset()


def measure(figure: Figure, effort: Effort, console: Console) -> list[Result]:
    """All comparisons of a figure."""
    ready, found = prepare(figure, effort, console)
    errors = ", ".join(f"{name} {found[name].errors}" for name in ready)
    console.print(f"{figure.title}: relative error (of gradients): {errors}", highlight=False, soft_wrap=True)
    for name in [name for name in ready if found[name].missing]:
        del ready[name]
    if figure.quantity == MEMORY:
        found |= {name: _with_memory(found[name], work) for name, work in ready.items()}
    elif ready:
        found |= _timed(figure, ready, found, effort, console)
    return [Result(figure, c, found[c.ours], found[c.peer]) for c in figure.comparisons]


def prepare(
    figure: Figure, effort: Effort, console: Console
) -> tuple[dict[str, Ready], dict[str, Measurement]]:
    """Those who run, each after a run that was checked, and what is known of everyone."""
    ready: dict[str, Ready] = {}
    found: dict[str, Measurement] = {}
    with Ticker(console, f"{figure.title}: preparing", total=len(figure.contestants) + 1) as ticker:
        expected = _expected(figure.task)
        ticker.advance("reference")
        for name in figure.contestants:
            contestant = CONTESTANTS[name]
            measurement = Measurement(name, contestant.layout)
            why = SKIPPED if name in effort.skip else contestant.why_absent()
            if why is None:
                try:
                    runs, how = contestant.prepare(figure.task)
                    measurement = _checked(replace(measurement, how=how), runs, expected, figure.task)
                    ready[name] = runs
                except Exception as error:  # one that fails must not take the others' figures along
                    why = f"{FAILED}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            found[name] = measurement if why is None else replace(measurement, missing=why)
            ticker.advance(name)
    return ready, found


def _expected(task: Task) -> tuple[Tensor, Tensor | None]:
    """Output and gradients of stock fp32, in the other layout, so that stock's own error is seen, too."""
    setting = replace(task.setting, dtype="fp32")
    work = Work(task.case, Variant("reference", torch.contiguous_format), task.mode, setting)
    return work().detach(), work.gradients()


def _checked(
    measurement: Measurement, runs: Ready, expected: tuple[Tensor, Tensor | None], task: Task
) -> Measurement:
    """With the errors; missing where they are beyond what rounding explains."""
    output, gradients = expected
    start = time.perf_counter()
    made = runs().detach().float()
    seconds = time.perf_counter() - start
    error = ((made - output).abs().max() / output.abs().max()).item()
    gradient_error, of_run = None, runs.gradients()
    if gradients is not None and of_run is not None:
        gradient_error = ((of_run.float() - gradients).norm() / gradients.norm()).item()
    measurement = replace(measurement, error=error, gradient_error=gradient_error, checked_in=seconds)
    of_output, of_gradients = TOLERANCES[task.setting.dtype]
    # written so that NaN is wrong, too
    if error <= of_output and (gradient_error is None or gradient_error <= of_gradients):
        return measurement
    why = f"{WRONG}: relative error {measurement.errors}, at most {of_output:.0e} ({of_gradients:.0e})"
    return replace(measurement, missing=why)


def _with_memory(measurement: Measurement, work: Ready) -> Measurement:
    assert isinstance(work, Work), f"{measurement.contestant} has no memory that is known here"
    return replace(measurement, value=float(work.peak_bytes()), rounds=1, kept_bytes=work.kept_bytes())


def _repeated(run: Callable[[], Any], calls: int) -> Callable[[], None]:
    def repeat() -> None:
        for _ in range(calls):
            run()

    return repeat


def _timed(
    figure: Figure,
    ready: Mapping[str, Ready],
    found: Mapping[str, Measurement],
    effort: Effort,
    console: Console,
) -> dict[str, Measurement]:
    runs = {name: _repeated(run, figure.calls) for name, run in ready.items()}
    seconds = {name: _duration(run, found[name], figure, effort) for name, run in runs.items()}
    rounds = rounds_within(effort.budget, effort.rounds, seconds)
    with (
        Ticker(console, f"{figure.title}: measuring", total=sum(rounds.values())) as ticker,
        OtherProcesses() as others,
    ):
        times = interleaved(runs, rounds, warmup=0, pause=PAUSE, after_run=ticker.advance)
    if is_disturbed(others.share):
        console.print(
            f"{figure.title}: DISTURBED: other processes had {others.share:.0%} of the processors, "
            "which hits OpenMP (PyTorch, ours) harder than OpenVINO or ONNX Runtime: repeat it",
            highlight=False,
            soft_wrap=True,
        )
    timed = {}
    for name, timing in times.items():
        first, third = (q / figure.calls for q in timing.quartiles)
        timed[name] = replace(
            found[name],
            value=timing.median / figure.calls,
            first_quartile=first,
            third_quartile=third,
            rounds=rounds[name],
            others_share=others.share,
        )
    return timed


def is_disturbed(others_share: float | None) -> bool:
    return others_share is not None and others_share > DISTURBED


def _duration(run: Callable[[], Any], found: Measurement, figure: Figure, effort: Effort) -> float:
    """Seconds of a run, to plan with: of the check where that took long, else of another one.

    In another one nothing is made for the first time any more.
    """
    if found.checked_in is not None and found.checked_in * figure.calls > effort.budget / 20:
        return found.checked_in * figure.calls
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def rounds_within(budget: float, most: int, seconds: Mapping[str, float]) -> dict[str, int]:
    """How many rounds each gets: equal shares of the budget; what fast ones leave goes to slow ones.

    At least `LEAST_ROUNDS` where the budget has them, and always one; never more than `most`.
    """
    rounds, left = {}, budget
    for position, name in enumerate(sorted(seconds, key=lambda name: seconds[name])):
        share = left / (len(seconds) - position)
        least = LEAST_ROUNDS if LEAST_ROUNDS * seconds[name] <= budget else 1
        rounds[name] = min(most, max(least, int(share / seconds[name])))
        left = max(0.0, left - rounds[name] * seconds[name])
    return rounds
