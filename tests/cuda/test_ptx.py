"""The code that nvcc generates, executed on the CPU, against the truth and against the Triton kernels."""

from __future__ import annotations

import pytest
import torch

from .support import ARCH, formats  # isort: skip

from fused_resnet.analysis import kernel_truth
from fused_resnet.analysis.cuda_emulation import emulate_cuda
from fused_resnet.analysis.kernel_problems import PROBLEMS, Configuration, Make, every_configuration
from tests.kernels_support import FORMATS, REPRESENTATIVES, assert_right, assert_same_bits, run, with_a_nan

SEEDS = 0, 1, 2  # schedules of the threads


def pytest_generate_tests(metafunc):
    """bf16 in every tile; the representatives in the other formats, too, or with --all-dtypes everything."""
    if "number_format" in metafunc.fixturenames:
        everything = metafunc.config.getoption("--all-dtypes")
        metafunc.parametrize(
            "name, number_format",
            [
                (name, f)
                for name in PROBLEMS
                for f in formats(name)
                if everything or f == "bf16" or name in REPRESENTATIVES
            ],
        )


def execute(configuration: Configuration) -> tuple[torch.Tensor, ...]:
    """The results, bitwise the same in every schedule, and nothing left to which lane of a warp is first."""
    first = None
    for seed in SEEDS:
        with emulate_cuda("ptx", ARCH, seed) as records:
            results = run(configuration)
        assert records
        assert not any(record.launch.collisions for record in records), configuration
        first = results if first is None else first
        assert_same_bits(results, first, f"seed {seed}")
    return first


def test_problem(name, number_format):
    problem, make = PROBLEMS[name], Make(FORMATS[number_format].use(), seed=1)
    for args in problem.arguments(make):
        for configuration in every_configuration(problem, args, "cuda"):
            assert_right(configuration, execute(configuration))


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_nan_propagates(name):
    """A NaN in any one of the tensors goes where it goes in torch, and nowhere else."""
    problem, make = PROBLEMS[name], Make(torch.bfloat16, seed=2)
    for configuration in with_a_nan(problem, problem.arguments(make)[-1], "cuda"):
        with emulate_cuda("ptx", ARCH):
            results = run(configuration)
        assert_right(configuration, results)


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_agrees_with_triton(name):
    """Written apart, they are the same bit for bit where nothing is summed, and ReLU's masks always are."""
    pytest.importorskip("triton")
    from gpu_on_cpu import emulate

    problem, make = PROBLEMS[name], Make(torch.bfloat16, seed=3)
    args = problem.arguments(make)[0]
    with emulate_cuda("ptx", ARCH):
        ours = run(Configuration(problem, args, 0, "cuda"))
    with emulate(ARCH):
        theirs = run(Configuration(problem, args, 0, "triton"))
    for a, b, want in zip(ours, theirs, kernel_truth.expected(problem.op, args, ours).values(), strict=True):
        assert a.dtype == b.dtype and a.stride() == b.stride()
        assert ((a.double() - b.double()).abs() <= 2 * want.allowed).all()
        if a.dim() == 4:
            assert torch.equal(a == 0, b == 0)
