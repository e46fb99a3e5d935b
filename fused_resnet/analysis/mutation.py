"""Breaks the generated code of kernels on purpose: do the checks notice?

A breakage (a dropped wait, barrier, mask or store; a shifted index; a flipped comparison; other registers,
other coefficients) is put into the PTX of one kernel, and its problem runs on the CPU under three schedules.
It is noticed if the code is refused, the run faults, or a result is further from fp64 than allowed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch

from . import kernel_truth
from .kernel_problems import PROBLEMS, Configuration, Make, Problem

# A problem and the kernel of it that is broken: every kind of kernel, each way that results are made.
SUBJECTS = (
    ("conv_fprop_stats-3x3", "conv_fprop"),
    ("conv_fprop-1x1-tail", "conv_fprop"),
    ("conv_fprop_dual-stride2", "conv_fprop_dual"),
    ("conv_dgrad_reduce-3x3-stride2", "conv_dgrad"),
    ("folded_dgrad_reduce-relu", "folded_dgrad"),
    ("conv_wgrad-3x3", "conv_wgrad"),
    ("gram-relu", "gram"),
    ("bn_act_bwd_reduce-y", "bn_act_bwd_reduce"),
    ("bn_act_maxpool_bwd_reduce-stem", "bn_act_maxpool_bwd_reduce"),
)
SCHEDULES = (0, 1, 2)


@dataclass(frozen=True)
class Verdict:
    """What became of one breakage; how: who noticed and what they said, or "survived"."""

    problem: str
    kernel: str
    arch: int
    breakage: Any
    noticed: bool
    how: str

    @property
    def harmless(self) -> bool:
        """A barrier was dropped and nobody noticed: it orders nothing on any path that ran.

        The race detector computes by vector clocks what is ordered, whatever the schedule happened to be:
        without this barrier every access is ordered by others. Where Triton normalises operands, for one,
        each thread reads from shared memory what it copied there itself.
        """
        return not self.noticed and self.breakage.kind == "drop bar.sync"


def mutate(subject: tuple[str, str], arch: int, count: int, choice: int = 0) -> Iterator[Verdict]:
    """Verdicts on `count` breakages of one kernel.

    Args: subject: of SUBJECTS; arch: compute capability times ten; choice: another choice of breakages.
    Raises: AssertionError if the unbroken kernel fails; ModuleNotFoundError without gpu_on_cpu.
    """
    from gpu_on_cpu.mutation import mutate as breakages

    problem, kernel = PROBLEMS[subject[0]], subject[1]
    arguments = problem.arguments(Make(torch.bfloat16))
    sound = _judge(problem, arguments, arch, "", "")
    assert sound is None, f"{problem.name} fails unbroken: {sound}"
    codes = _codes(problem, arguments, kernel, arch)
    each = -(-count // len(codes))
    for code in codes:
        for breakage in breakages(code, each, choice):
            how = _judge(problem, arguments, arch, code, breakage.ptx)
            yield Verdict(problem.name, kernel, arch, breakage, how is not None, how or "survived")


def _codes(problem: Problem, arguments: Sequence[tuple], kernel: str, arch: int) -> list[str]:
    """The distinct code of `kernel` in a problem."""
    from gpu_on_cpu import emulate

    with emulate(arch, execute=False) as records:
        for args in arguments:
            Configuration(problem, args, 0).run()
    return list(dict.fromkeys(record.ptx for record in records if record.name == kernel))


def _judge(problem: Problem, arguments: Sequence[tuple], arch: int, code: str, broken: str) -> str | None:
    """Who notices that `broken` runs in place of `code`; None if nobody does."""
    from gpu_on_cpu import CompilerError, KernelFault, Module, Unsupported, emulate
    from gpu_on_cpu.triton import driver

    original = driver.module_of
    made = functools.cache(lambda: Module(broken, "-O0"))

    def module_of(ptx: str, optimize: str) -> Module:
        return made() if ptx == code else original(ptx, optimize)

    try:
        with mock.patch.object(driver, "module_of", module_of):
            for seed in SCHEDULES:
                for i, args in enumerate(arguments):
                    with emulate(arch, seed, timeout=20.0):
                        results = Configuration(problem, args, 0).run()
                    errors = kernel_truth.check(problem.op, args, results)
                    if wrong := [name for name, error in errors.items() if not error <= 1]:
                        return f"wrong {', '.join(wrong)} of size {i} under schedule {seed}"
    except (KernelFault, Unsupported, CompilerError) as fault:
        return f"{type(fault).__name__}: {fault}".splitlines()[0]
    return None
