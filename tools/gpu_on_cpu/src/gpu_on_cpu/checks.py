"""What the command line does with the cases of a file: each function checks one kernel on one architecture."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence

from gpu_on_cpu import case as cases
from gpu_on_cpu.errors import GpuOnCpuError
from gpu_on_cpu.mutation import Score, score
from gpu_on_cpu.ptx.module import Module
from gpu_on_cpu.resources import Resources
from gpu_on_cpu.triton import run
from gpu_on_cpu.triton.replay import Replay


@dataclasses.dataclass(frozen=True)
class Job:
    """A kernel of a file, for an architecture and a number format."""

    file: str
    kernel: str
    arch: int
    dtype: str

    def cases(self) -> Sequence[cases.Case]:
        return cases.load(self.file)[self.kernel](self.dtype)


@dataclasses.dataclass
class Outcome:
    """Of one job.

    Attributes:
        worst: largest error in units of what is allowed.
        collisions: bytes of shared memory whose value depends on which lane of a warp wins.
        problem: why it failed, or "".
        triton, translate, compile, execute: seconds until Triton had PTX, that was C++, that was a library, and all
            sizes had run once; what was cached takes next to none.
    """

    job: Job
    sizes: int
    worst: float = 0.0
    collisions: int = 0
    problem: str = ""
    triton: float = 0.0
    translate: float = 0.0
    compile: float = 0.0
    execute: float = 0.0


def check(job: Job, seeds: Sequence[int]) -> Outcome:
    """Runs all problem sizes under all seeds."""
    all_cases = job.cases()
    outcome = Outcome(job, len(all_cases))
    try:
        times = [time.perf_counter()]
        replay = Replay(all_cases, job.arch)
        times.append(time.perf_counter())
        module = Module(replay.ptx)
        times.append(time.perf_counter())
        _ = module.path
        times.append(time.perf_counter())
        for seed in seeds:
            _run_sizes(outcome, replay, module, all_cases, seed)
        times.append(time.perf_counter())
    except GpuOnCpuError as e:
        outcome.problem = f"{type(e).__name__}: {e}"
        return outcome
    outcome.triton, outcome.translate, outcome.compile, execute = (b - a for a, b in itertools.pairwise(times))
    outcome.execute = execute / len(seeds)
    return outcome


def _run_sizes(outcome: Outcome, replay: Replay, module: Module, all_cases: Sequence[cases.Case], seed: int) -> None:
    for i, c in enumerate(all_cases):
        c.poison()
        outcome.collisions += replay.launch(module, c, seed=seed).collisions
        for name, error in c.errors().items():
            if not error <= 1 and not outcome.problem:
                outcome.problem = f"size {i}, seed {seed}: {name} is off by {error:.3g} tolerances"
            outcome.worst = max(outcome.worst, error)


def resources(job: Job) -> Resources:
    """Of the first problem size."""
    c = job.cases()[0]
    return run(c.kernel, c.args, c.grid, job.arch, traffic=False, outputs=list(c.expected), **c.constexprs).resources


def traffic(job: Job, size: int) -> list[dict[str, object]]:
    """Rows of one problem size, each with the bytes of the whole tensor beside what was asked for."""
    c = job.cases()[size]
    result = run(c.kernel, c.args, c.grid, job.arch, traffic=True, outputs=list(c.expected), **c.constexprs)
    assert result.traffic
    rows = result.traffic.rows()
    for row in rows:
        tensor = c.args.get(str(row["tensor"]))
        row["tensor_bytes"] = tensor.numel() * tensor.element_size() if tensor is not None else 0
    return rows


def mutations(job: Job, count: int, seeds: Sequence[int], choice: int) -> Score:
    return score(job.cases(), job.arch, count=count, seeds=seeds, choice=choice)
