"""Times of things that are to be compared, taken in turn."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Timing", "interleaved", "synchronise"]


@dataclass(frozen=True)
class Timing:
    """Seconds of every run of one thing, in the order of the runs."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """First and third quartile; of a single run, that run."""
        if len(self.seconds) == 1:
            return self.seconds[0], self.seconds[0]
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return first, third

    @property
    def spread(self) -> float:
        """Interquartile range."""
        first, third = self.quartiles
        return third - first


def synchronise(device: torch.device | str) -> None:
    """Wait until everything queued on `device` has run (on a CPU it has)."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def _is_due(index: int, count: int, most: int) -> bool:
    """Is round `index` of `most` one of the `count` rounds that lie evenly among them?"""
    return (index + 1) * count // most > index * count // most


def interleaved(
    runs: Mapping[str, Callable[[], Any]],
    rounds: int | Mapping[str, int],
    *,
    warmup: int = 1,
    device: torch.device | str = "cpu",
    pause: float = 0.0,
    after_run: Callable[[], None] | None = None,
) -> dict[str, Timing]:
    """Time every callable once per round, so that a machine that slows down slows them all down.

    The order rotates from round to round: no callable is always the first. The garbage collector runs between
    the runs and not in them.

    Args:
        runs: name → callable without arguments.
        rounds: timed rounds, at least 1; by name where some are to run in fewer rounds than others, which lie
            evenly among all then. warmup: rounds before them that are not timed.
        device: waited for before and after every run.
        pause: seconds of rest before every run, where libraries take part whose threads spin on after theirs.
        after_run: called after every run, warm-up included, outside the time (for a progress bar).

    Raises:
        ValueError: rounds < 1.
    """
    names = list(runs)
    counts = dict.fromkeys(names, rounds) if isinstance(rounds, int) else dict(rounds)
    if set(counts) != set(names):
        raise ValueError(f"rounds: expected a number for each of {names}, got them for {list(counts)}")
    if wrong := {name: n for name, n in counts.items() if n < 1}:
        raise ValueError(f"rounds: expected at least 1, got {wrong}")
    most = max(counts.values(), default=0)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    collects = gc.isenabled()
    try:
        for index in range(-warmup, most):
            turn = index % len(names)
            for name in names[turn:] + names[:turn]:
                if index >= 0 and not _is_due(index, counts[name], most):
                    continue
                gc.collect()
                gc.disable()
                time.sleep(pause)
                synchronise(device)
                start = time.perf_counter()
                runs[name]()
                synchronise(device)
                elapsed = time.perf_counter() - start
                if index >= 0:
                    seconds[name].append(elapsed)
                if after_run is not None:
                    after_run()
    finally:
        if collects:
            gc.enable()
    return {name: Timing(tuple(values)) for name, values in seconds.items()}
