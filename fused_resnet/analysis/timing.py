"""Times of things that are to be compared, taken in turn."""

from __future__ import annotations

import functools
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

__all__ = ["ColdCache", "Timing", "interleaved", "stopwatch", "synchronise"]


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


def stopwatch(device: torch.device | str) -> Callable[[Callable[[], Any]], float]:
    """A function that runs another one and gives the seconds that it took on `device`.

    On a GPU by CUDA events in the current stream: from where the stream gets to what is run until all of it
    is done, so that the time which the host is behind counts, and the way from the host and back does not.
    """
    if torch.device(device).type == "cuda":
        return functools.partial(_by_events, device)
    return _by_clock


def _by_clock(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _by_events(device: torch.device | str, run: Callable[[], Any]) -> float:
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3


class ColdCache:
    """Call it to fill the last-level cache of `device` with something else: what runs next reads from memory.

    size: bytes that are written, twice what the cache holds; where the system does not tell that, 128 MiB.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.size = 2 * _cache_bytes(torch.device(device))
        self._filling = torch.empty(self.size, dtype=torch.uint8, device=device)

    def __call__(self) -> None:
        self._filling.fill_(1)


def _cache_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    try:
        return max(int(path.read_text().strip().removesuffix("K")) << 10 for path in sizes)
    except (OSError, ValueError):
        return 64 << 20


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
    before_run: Callable[[], Any] | None = None,
    after_run: Callable[[], None] | None = None,
) -> dict[str, Timing]:
    """Time every callable once per round, so that a machine that slows down slows them all down.

    The order rotates from round to round: no callable is always the first. The garbage collector runs between
    the runs and not in them.

    Args:
        runs: name → callable without arguments.
        rounds: timed rounds, at least 1; by name where some are to run in fewer rounds than others, which lie
            evenly among all then. warmup: rounds before them that are not timed.
        device: what runs; times on a GPU are those of its stream (`stopwatch`).
        pause: seconds of rest before every run, where libraries take part whose threads spin on after theirs.
        before_run: called before every run, outside the time (a `ColdCache`, say).
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
    timed = stopwatch(device)
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
                if before_run is not None:
                    before_run()
                elapsed = timed(runs[name])
                if index >= 0:
                    seconds[name].append(elapsed)
                if after_run is not None:
                    after_run()
    finally:
        if collects:
            gc.enable()
    return {name: Timing(tuple(values)) for name, values in seconds.items()}
