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


def interleaved(
    runs: Mapping[str, Callable[[], Any]],
    rounds: int,
    *,
    warmup: int = 1,
    device: torch.device | str = "cpu",
    after_run: Callable[[], None] | None = None,
) -> dict[str, Timing]:
    """Time every callable once per round, so that a machine that slows down slows them all down.

    The order rotates from round to round: no callable is always the first. The garbage collector runs between
    the runs and not in them.

    Args:
        runs: name → callable without arguments.
        rounds: timed rounds, at least 1; warmup: rounds before them that are not timed.
        device: waited for before and after every run.
        after_run: called after every run, warm-up included, outside the time (for a progress bar).

    Raises:
        ValueError: rounds < 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds: expected at least 1, got {rounds}")
    names = list(runs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    collects = gc.isenabled()
    try:
        for index in range(-warmup, rounds):
            turn = index % len(names)
            for name in names[turn:] + names[:turn]:
                gc.collect()
                gc.disable()
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
