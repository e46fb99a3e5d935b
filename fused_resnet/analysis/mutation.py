"""Breaks the generated code of kernels on purpose: do the checks notice?

A breakage (a dropped wait, barrier, mask or store; a shifted index; a flipped comparison; other registers,
other coefficients) is put into the PTX of one kernel, and its problem runs on the CPU under three schedules.
It is noticed if the code is refused, the run faults, or a result is further from fp64 than allowed.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import torch

from . import kernel_truth
from .kernel_problems import PROBLEMS, Configuration, Make


class Subject(NamedTuple):
    """A problem, and the kernel of it that is broken."""

    backend: str
    problem: str
    kernel: str


# Every kind of kernel, each way that results are made.
SUBJECTS = (
    Subject("triton", "conv_fprop_stats-3x3", "conv_fprop"),
    Subject("triton", "conv_fprop-1x1-tail", "conv_fprop"),
    Subject("triton", "conv_fprop_dual-stride2", "conv_fprop_dual"),
    Subject("triton", "conv_dgrad_reduce-3x3-stride2", "conv_dgrad"),
    Subject("triton", "folded_dgrad_reduce-relu", "folded_dgrad"),
    Subject("triton", "conv_wgrad-3x3", "conv_wgrad"),
    Subject("triton", "gram-relu", "gram"),
    Subject("triton", "bn_act_bwd_reduce-y", "bn_act_bwd_reduce"),
    Subject("triton", "bn_act_maxpool_bwd_reduce-stem", "bn_act_maxpool_bwd_reduce"),
    Subject("cuda", "conv_fprop_stats-3x3", "fprop"),
    Subject("cuda", "conv_fprop-1x1-tail", "fprop"),
    Subject("cuda", "conv_fprop_dual-stride2", "fprop_dual"),
    Subject("cuda", "conv_dgrad_reduce-3x3-stride2", "dgrad"),
    Subject("cuda", "folded_dgrad_reduce-relu", "folded_dgrad"),
    Subject("cuda", "conv_wgrad-3x3", "wgrad"),
    Subject("cuda", "gram-relu", "gram"),
    Subject("cuda", "bn_act_bwd_reduce-y", "bn_act_bwd_reduce"),
    Subject("cuda", "bn_act_maxpool_bwd_reduce-stem", "bn_act_maxpool_bwd_reduce"),
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


def mutate(subject: Subject, arch: int, count: int, choice: int = 0) -> Iterator[Verdict]:
    """Verdicts on `count` breakages of one kernel.

    Args: subject: of SUBJECTS; arch: compute capability times ten; choice: another choice of breakages.
    Raises: AssertionError if the unbroken kernel fails; ModuleNotFoundError without gpu_on_cpu.
    """
    from gpu_on_cpu.mutation import mutate as breakages

    problem = PROBLEMS[subject.problem]
    arguments = problem.arguments(Make(torch.bfloat16))
    sound = _judge(subject, arguments, arch, "", "")
    assert sound is None, f"{subject} fails unbroken: {sound}"
    codes = _codes(subject, arguments, arch)
    each = -(-count // len(codes))
    for code in codes:
        for breakage in breakages(code, each, choice):
            how = _judge(subject, arguments, arch, code, breakage.ptx)
            yield Verdict(problem.name, subject.kernel, arch, breakage, how is not None, how or "survived")


def _emulate(
    backend: str, arch: int, seed: int = 0, execute: bool = True
) -> AbstractContextManager[list[Any]]:
    """Runs the kernels of a backend from their PTX."""
    if backend == "cuda":
        from .cuda_emulation import emulate_cuda

        return emulate_cuda("ptx", arch, seed, execute=execute)
    from gpu_on_cpu import emulate

    return emulate(arch, seed, execute=execute, timeout=20.0)


def _codes(subject: Subject, arguments: Sequence[tuple], arch: int) -> list[str]:
    """The distinct code of a kernel in a problem."""
    with _emulate(subject.backend, arch, execute=False) as records:
        for args in arguments:
            Configuration(PROBLEMS[subject.problem], args, 0, subject.backend).run()
    return list(dict.fromkeys(record.ptx for record in records if record.name == subject.kernel))


def _driver(backend: str) -> ModuleType:
    """What launches the kernels of a backend, and finds their code by `module_of`."""
    return importlib.import_module(f"gpu_on_cpu.{backend}.driver")


def _judge(subject: Subject, arguments: Sequence[tuple], arch: int, code: str, broken: str) -> str | None:
    """Who notices that `broken` runs in place of `code`; None if nobody does."""
    from gpu_on_cpu import CompilerError, KernelFault, Module, Unsupported

    driver, problem = _driver(subject.backend), PROBLEMS[subject.problem]
    original = driver.module_of
    made = functools.cache(lambda: Module(broken, "-O0"))

    def module_of(ptx: str, optimize: str) -> Any:
        return made() if ptx == code else original(ptx, optimize)

    try:
        with mock.patch.object(driver, "module_of", module_of):
            for seed in SCHEDULES:
                for i, args in enumerate(arguments):
                    with _emulate(subject.backend, arch, seed):
                        results = Configuration(problem, args, 0, subject.backend).run()
                    errors = kernel_truth.check(problem.op, args, results)
                    if wrong := [name for name, error in errors.items() if not error <= 1]:
                        return f"wrong {', '.join(wrong)} of size {i} under schedule {seed}"
    except (KernelFault, Unsupported, CompilerError) as fault:
        return f"{type(fault).__name__}: {fault}".splitlines()[0]
    return None
