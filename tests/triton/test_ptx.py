"""The code that Triton generates for each architecture, executed on the CPU, against the truth."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import pytest
import torch

from .support import ARCHS  # isort: skip

from gpu_on_cpu import emulate

from fused_resnet.analysis.kernel_problems import PROBLEMS, Configuration, Make, every_configuration
from fused_resnet.analysis.kernel_table import why_not
from tests.kernels_support import FORMATS, REPRESENTATIVES, assert_right, assert_same_bits, run, with_a_nan

SEEDS = 0, 1, 2  # schedules of the threads


class Case(NamedTuple):
    problem: str
    format: str
    arch: int
    every: bool  # configuration, or just the first

    def __str__(self):
        return f"{self.problem}-{self.format}-sm_{self.arch}"


def everything():
    return [Case(*c, True) for c in itertools.product(PROBLEMS, FORMATS, ARCHS)]


def selected():
    """bf16 in every configuration: a few of each family on all architectures, the others on one in turn.

    Those few in the other formats, too.
    """
    cases = []
    for i, name in enumerate(PROBLEMS):
        one = ARCHS[i % len(ARCHS)]
        cases += [Case(name, "bf16", arch, True) for arch in (ARCHS if name in REPRESENTATIVES else (one,))]
        if name in REPRESENTATIVES:
            cases += [Case(name, f, one, False) for f in FORMATS if f != "bf16"]
    return cases


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        cases = everything() if metafunc.config.getoption("--all-dtypes") else selected()
        metafunc.parametrize("case", cases, ids=str)


def execute(configuration: Configuration, arch: int, gates: bool) -> tuple[torch.Tensor, ...]:
    """The results, bitwise the same in every schedule, and nothing left to which lane of a warp is first.

    gates: ask ptxas, too, what the kernels cost.
    """
    first = None
    for seed in SEEDS:
        with emulate(arch, seed) as records:
            results = run(configuration)
        assert not any(record.launch.collisions for record in records), configuration
        for record in records if gates and first is None else ():
            assert not why_not(record, record.resources()), f"{record.name}, {configuration.chosen}"
        first = results if first is None else first
        assert_same_bits(results, first, f"seed {seed}")
    return first


def test_problem(case):
    problem, make = PROBLEMS[case.problem], Make(FORMATS[case.format].use(), seed=1)
    for i, args in enumerate(problem.arguments(make)):
        for configuration in every_configuration(problem, args):
            gates = case.every and i == 0
            assert_right(configuration, execute(configuration, case.arch, gates))
            if not case.every:
                break


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_nan_propagates(name):
    """A NaN in any one of the tensors goes where it goes in torch, and nowhere else."""
    problem, make = PROBLEMS[name], Make(torch.bfloat16, seed=2)
    for configuration in with_a_nan(problem, problem.arguments(make)[-1], "triton"):
        with emulate(80):
            results = run(configuration)
        assert_right(configuration, results)
