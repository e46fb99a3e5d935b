"""The source of the kernels, compiled for the CPU: against the truth, and under sanitizers."""

from __future__ import annotations

import pytest

from .support import formats  # isort: skip

from gpu_on_cpu.cuda import workers

from fused_resnet.analysis import cuda_emulation
from fused_resnet.analysis.kernel_problems import PROBLEMS
from tests.cuda.in_worker import check
from tests.kernels_support import REPRESENTATIVES


@pytest.fixture(scope="module")
def worker():
    with workers() as started:
        yield started


@pytest.fixture(scope="module", params=["none", "address", "thread"])
def sanitizer(request):
    """Built here, so that compiling does not count as hanging; it takes minutes for each."""
    if request.param != "none" and not request.config.getoption("--all-dtypes"):
        pytest.skip(
            "sanitizers with --all-dtypes, as in make verify; executed PTX is checked for the same faults"
        )
    cuda_emulation.extension(request.param)
    return request.param


@pytest.mark.parametrize("name", PROBLEMS)
def test_problem(sanitizer, name, worker, request):
    """Plain: three schedules. Out of bounds, undefined arithmetic: one. Races: one, the smallest size.

    With --all-dtypes in every format; else in bf16, the representatives in the others, too.
    """
    for number_format in formats(name):
        if (
            number_format != "bf16"
            and name not in REPRESENTATIVES
            and not request.config.getoption("--all-dtypes")
        ):
            continue
        seeds = (0, 1, 2) if sanitizer == "none" else (1,)
        sizes = slice(-1, None) if sanitizer == "thread" else slice(None)
        worker(sanitizer).call(check, name, number_format, sanitizer, seeds, sizes)
