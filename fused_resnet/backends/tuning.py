"""Chooses between ways to do the same thing by measuring them on the GPU (or CPU) at hand.

The first time a problem (a kernel and its sizes) comes up on a CUDA device, its candidates are timed, which
takes a moment; the winner is kept in memory, and on disk for the next process: a JSON file for each kind of
GPU and version of torch, of what compiles the kernels and of this package, in
``platformdirs.user_cache_dir("fused_resnet")``. Nothing is measured while a CUDA graph is captured or
torch.compile traces, on fake tensors, or where no GPU runs the kernels: a winner that is known serves there,
too, else the first candidate, best by rule of thumb. `policy` says how much of this is wanted.

What a CPU runs is measured and kept in the same way, for each kind of CPU and number of threads.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import platformdirs
import torch

from .. import _extension
from .._version import __version__
from . import cuda, triton

Candidate = TypeVar("Candidate")
Result = TypeVar("Result")

POLICIES = ("measure", "cached", "off")
MEASURE_MS = 30.0  # for each candidate
REPETITIONS = (5, 100)
FILLS = 16  # of the cache, to know how long one takes

_policy = "measure"
# Backward runs in threads of its own. Reentrant: what is measured may choose between candidates itself.
_lock = threading.RLock()


class policy:
    """Set how much is measured, for the whole process: at once, or for a ``with`` block.

    Args:
        name: ``"measure"`` (the default: measure what no winner is known for), ``"cached"`` (use known
            winners, never measure) or ``"off"`` (always the first candidate).

    Raises:
        ValueError: unknown name.
    """

    def __init__(self, name: str) -> None:
        global _policy
        if name not in POLICIES:
            raise ValueError(f"name: expected one of {POLICIES}, got {name!r}")
        self._before, _policy = _policy, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        global _policy
        _policy = self._before


def current_policy() -> str:
    """One of `POLICIES`."""
    return _policy


def tuned(key: Hashable, candidates: Sequence[Candidate], run: Callable[[Candidate], Result]) -> Result:
    """``run(candidate)`` with the best candidate for `key`; with another one where that needs too much."""
    best = choose(key, candidates, run)
    failed: Exception | None = None
    for candidate in (best, *(c for c in candidates if c is not best)):
        try:
            return run(candidate)
        except _failures() as error:
            failed = failed or error
    assert failed is not None
    raise failed


def choose(
    key: Hashable,
    candidates: Sequence[Candidate],
    run: Callable[[Candidate], Any],
    inputs: Iterable[torch.Tensor] = (),
    on_cpu: bool = False,
) -> Candidate:
    """The `winner`, or the first candidate where there is none."""
    found = None if len(candidates) == 1 else winner(key, candidates, run, inputs, on_cpu)
    return candidates[0] if found is None else found


def winner(
    key: Hashable,
    candidates: Sequence[Candidate],
    run: Callable[[Candidate], Any],
    inputs: Iterable[torch.Tensor] = (),
    on_cpu: bool = False,
) -> Candidate | None:
    """The known winner for `key`, else the fastest where it may be measured, else None.

    Args: key, candidates: their ``repr`` is what they are known by on disk; run: does the work on the current
    device, as often as it is called; inputs: nothing is measured if one of them is fake; on_cpu: the CPU does
    the work.
    """
    if _policy == "off":
        return None
    where, measure = (environment_of_cpu(), fastest_on_cpu) if on_cpu else (environment(), fastest)
    if where is None:
        return None
    with _lock:
        winners = _winners(where)
        found = winners.get(key, candidates)
        if found is None and _may_measure(inputs, on_cpu):
            found = candidates[measure(candidates, run)]
            winners.put(key, found)
    return found


def _may_measure(inputs: Iterable[torch.Tensor], on_cpu: bool) -> bool:
    return (
        _policy == "measure"
        and not torch.compiler.is_compiling()
        and torch._guards.detect_fake_mode(tuple(inputs)) is None
        and (on_cpu or not torch.cuda.is_current_stream_capturing())
    )


# ---- measuring -----------------------------------------------------------------------------------


def fastest(candidates: Sequence[Candidate], run: Callable[[Candidate], Any]) -> int:
    """Index of the candidate that takes the current GPU the least time, as the median of interleaved runs.

    Every run finds the L2 cache full of something else, and the GPU busy until all of its kernels are
    launched: the time that this takes the host does not count. Candidates that fail for want of resources do
    not count; if all do, the first one's error is raised.
    """
    works, failed = [], []
    for i, candidate in enumerate(candidates):
        try:
            run(candidate)  # compiles, and tunes what it is made of
            works.append(i)
        except _failures() as error:
            failed.append(error)
    if not works:
        raise failed[0]
    if len(works) == 1:
        return works[0]
    torch.cuda.synchronize()
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    flush = torch.empty(2 * properties.L2_cache_size, dtype=torch.uint8, device="cuda")
    filling = max(_time(FILLS, lambda n: [flush.zero_() for _ in range(n)], flush, 1) / FILLS, 1e-3)
    fills = 1 + math.ceil(2 * max(_launching(candidates[i], run) for i in works) / filling)
    once = fills * filling + sum(_time(candidates[i], run, flush, fills) for i in works) / len(works)
    times: dict[int, list[float]] = {i: [] for i in works}
    for _ in range(_repetitions(once)):
        for i in works:
            times[i].append(_time(candidates[i], run, flush, fills))
    return min(works, key=lambda i: statistics.median(times[i]))


def fastest_on_cpu(candidates: Sequence[Candidate], run: Callable[[Candidate], Any]) -> int:
    """Index of the candidate that takes the CPU the least time, as the median of interleaved runs.

    The caches are as the candidate before left them.
    """
    for candidate in candidates:
        run(candidate)  # the library makes its kernels in the first run
    once = sum(_time_on_cpu(candidate, run) for candidate in candidates) / len(candidates)
    times: list[list[float]] = [[] for _ in candidates]
    for _ in range(_repetitions(once)):
        for i, candidate in enumerate(candidates):
            times[i].append(_time_on_cpu(candidate, run))
    return min(range(len(candidates)), key=lambda i: statistics.median(times[i]))


def _repetitions(once: float) -> int:
    """How often a candidate is run that takes so many milliseconds."""
    least, most = REPETITIONS
    return max(least, min(most, int(MEASURE_MS / max(once, 1e-3))))


def _time_on_cpu(candidate, run) -> float:
    """Milliseconds that one run takes."""
    start = time.perf_counter()
    run(candidate)
    return 1e3 * (time.perf_counter() - start)


def _launching(candidate, run) -> float:
    """Milliseconds that the host takes for one run."""
    elapsed = _time_on_cpu(candidate, run)
    torch.cuda.synchronize()
    return elapsed


def _time(candidate, run, flush: torch.Tensor, fills: int) -> float:
    """Milliseconds that the GPU takes for one run, behind so many fills of the cache."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(fills):
        flush.zero_()
    start.record()
    run(candidate)
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


@cache
def _failures() -> tuple[type[Exception], ...]:
    """What a candidate raises that asks for more than the GPU has."""
    try:
        from triton.compiler.errors import CompileTimeAssertionFailure
        from triton.runtime.errors import OutOfResources, PTXASError
    except ImportError:
        return (torch.OutOfMemoryError,)
    return torch.OutOfMemoryError, OutOfResources, PTXASError, CompileTimeAssertionFailure


# ---- winners -------------------------------------------------------------------------------------


def environment() -> str | None:
    """What times depend on besides the problem: the current GPU and the versions; None without such a GPU."""
    if not torch.cuda.is_available() or not any(b.launches_on("cuda") for b in (triton, cuda)):
        return None
    return _environment(torch.cuda.current_device())


@cache
def _environment(device: int) -> str:
    name, (major, minor) = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
    compilers = (backend.version() for backend in (triton, cuda) if backend.launches_on("cuda"))
    versions = f"torch {torch.__version__}", *compilers, f"fused_resnet {__version__}"
    return ", ".join((name, f"sm_{major}{minor}", *versions))


def environment_of_cpu() -> str:
    """What times on the CPU depend on besides the problem."""
    return _environment_of_cpu(torch.get_num_threads(), _extension.build_info()["matrix_engine"])


@cache
def _environment_of_cpu(threads: int, matrix_engine: str) -> str:
    processor = platform.processor() or platform.machine()
    if hasattr(torch.cpu, "get_capabilities"):  # torch 2.13
        processor = torch.cpu.get_capabilities().get("cpu_name", processor)
    level = torch.backends.cpu.get_cpu_capability()
    versions = f"torch {torch.__version__}", f"fused_resnet {__version__}"
    return ", ".join((processor, level, f"matrix engine {matrix_engine}", f"{threads} threads", *versions))


class _Winners:
    """The winners of one environment."""

    def __init__(self, where: str) -> None:
        self.where = where
        name = re.sub(r"[^\w.+-]+", "-", where)
        self.path = Path(platformdirs.user_cache_dir("fused_resnet", appauthor=False)) / f"{name}.json"
        self.found: dict[Hashable, Any] = {}
        self.stored = self._read()

    def get(self, key: Hashable, candidates: Sequence[Candidate]) -> Candidate | None:
        """None also where the winner is no candidate any more."""
        if self.found.get(key) not in candidates:
            stored = self.stored.get(repr(key))
            self.found[key] = next((c for c in candidates if repr(c) == stored), None)
        return self.found[key]

    def put(self, key: Hashable, candidate: Any) -> None:
        self.found[key] = candidate
        # another process may have written since: its winners stay
        self.stored = self._read() | self.stored | {repr(key): repr(candidate)}
        try:
            self._write()
        except OSError as error:
            _warn(f"cannot keep winners of measurements in {self.path} ({error}): they are lost at exit")

    def _read(self) -> dict[str, str]:
        try:
            content = json.loads(self.path.read_text())
            winners = dict(content["winners"]) if content["environment"] == self.where else None
            if winners is not None and all(isinstance(v, str) for v in winners.values()):
                return winners
            why: object = "it belongs to something else"
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError) as error:
            why = error
        _warn(f"ignored {self.path}, where winners of measurements are kept: {why}")
        return {}

    def _write(self) -> None:
        """Readers see the whole old file or the whole new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"environment": self.where, "winners": self.stored}, indent=1)
        handle, temporary = tempfile.mkstemp(dir=self.path.parent, suffix=".tmp")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(content)
            os.replace(temporary, self.path)
        except OSError:
            os.unlink(temporary)
            raise


_winners = cache(_Winners)


@cache
def _warn(text: str) -> None:
    """Once per process and text."""
    warnings.warn(f"fused_resnet: {text}", RuntimeWarning, stacklevel=2)
