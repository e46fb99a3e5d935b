"""What the command line does with the cases of a file: each function checks one kernel on one architecture."""

from __future__ import annotations

import dataclasses
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


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Of one job.

    Attributes:
        worst: largest error in units of what is allowed.
        collisions: bytes of shared memory whose value depends on which lane of a warp wins.
        problem: why it failed, or "".
        triton, build, execute: seconds to compile the kernel with Triton; to translate the PTX and compile the C++; to
            run all sizes once.
    """

    job: Job
    sizes: int
    worst: float = 0.0
    collisions: int = 0
    problem: str = ""
    triton: float = 0.0
    build: float = 0.0
    execute: float = 0.0


def check(job: Job, seeds: Sequence[int]) -> Outcome:
    """Runs all problem sizes under all seeds."""
    all_cases = job.cases()
    start = time.perf_counter()
    try:
        replay = Replay(all_cases, job.arch)
        compiled = time.perf_counter()
        module = Module(replay.ptx)
        _ = module.path
        built = time.perf_counter()
        worst, collisions, problem = 0.0, 0, ""
        for seed in seeds:
            for i, c in enumerate(all_cases):
                c.poison()
                collisions += replay.launch(module, c, seed=seed).collisions
                for name, error in c.errors().items():
                    if not error <= 1:
                        problem = problem or f"size {i}, seed {seed}: {name} is off by {error:.3g} tolerances"
                    worst = max(worst, error)
    except GpuOnCpuError as e:
        return Outcome(job, len(all_cases), problem=f"{type(e).__name__}: {e}")
    done = time.perf_counter()
    return Outcome(
        job,
        len(all_cases),
        worst,
        collisions,
        problem,
        compiled - start,
        built - compiled,
        (done - built) / len(seeds),
    )


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
