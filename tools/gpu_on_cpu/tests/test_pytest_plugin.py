"""The fixture and marker, in pytest runs of their own."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

KERNELS = """
import triton
import triton.language as tl

@triton.jit
def negate(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, -tl.load(x + i, mask=i < n), mask=i < n)
"""
TESTS = """
import pytest, torch
from negate_kernel import negate
from gpu_on_cpu import Case, Expected

@pytest.mark.gpu_on_cpu(archs=(80, 90), seeds=(0, 5), dtypes=("bf16", "fp32"))
def test_run(emulated_gpu):
    x = torch.randn(70).to(emulated_gpu.dtype)
    y = torch.empty_like(x)
    result = emulated_gpu.run(negate, (x, y, 70), (2,), BLOCK=64)
    assert torch.equal(y, -x)
    assert result.record.arch == emulated_gpu.arch

@pytest.mark.gpu_on_cpu(archs=(100,), seeds=(0,))
@pytest.mark.parametrize("sign", [-1, 1])
def test_check(emulated_gpu, sign):
    x = torch.arange(64.0)
    args = dict(x=x, y=torch.zeros(64), n=64)
    emulated_gpu.check(Case(negate, args, (1,), {"y": Expected(sign * x)}, dict(BLOCK=64)))

def test_emulate(emulated_gpu):
    x, y = torch.randn(64), torch.zeros(64)
    with emulated_gpu.emulate() as records:
        negate[(1,)](x, y, 64, BLOCK=64)
    assert len(records) == 1 and torch.equal(y, -x)
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makepyfile(negate_kernel=KERNELS, test_negate=TESTS)
    return pytester


def test_combinations(project: pytest.Pytester) -> None:
    result = project.runpytest("-v")
    result.assert_outcomes(passed=8 + 1 + 9, failed=1)
    result.stdout.fnmatch_lines(["*test_run?sm_80-seed0-bf16? PASSED*", "*test_run?sm_90-seed5-fp32? PASSED*"])
    result.stdout.fnmatch_lines(["*errors in units of the tolerance: {'y': *"])


def test_options_replace_markers(project: pytest.Pytester) -> None:
    project.runpytest("-k", "test_run", "--gpu-archs", "120", "--gpu-seeds", "1").assert_outcomes(passed=2)


def test_bad_marker(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.gpu_on_cpu(arch=80)\ndef test(emulated_gpu): pass\n")
    result = pytester.runpytest()
    result.stdout.fnmatch_lines(["*gpu_on_cpu takes archs, seeds and dtypes, got [[]'arch'[]]*"])
    assert result.ret != 0
