"""Tensors of more than 2^31 - 1 elements: offsets of 64 bits, without a tensor of that size."""

import pytest
import torch

from .support import patched_in_backend  # isort: skip

import triton
import triton.language as tl
from gpu_on_cpu import emulate
from gpu_on_cpu.triton import interpreting

from fused_resnet.analysis.kernel_problems import PROBLEMS, Configuration, Make, host
from fused_resnet.backends.triton.kernels.common import rows_of
from fused_resnet.backends.triton.launch import index_type
from tests.kernels_support import FORMATS, REPRESENTATIVES, assert_same_bits, run


def in_both_widths(name, context, which):
    """An op's results with offsets of 32 and of 64 bits, and the types that its launches had."""
    problem = PROBLEMS[name]
    args = problem.arguments(Make(FORMATS["bf16"].use(), seed=1))[which]
    host(problem.op)  # imports what is patched here
    found = []
    for index in (tl.int32, tl.int64):
        with context() as launches, patched_in_backend("index_type", lambda *tensors, t=index: t):
            found.append(run(Configuration(problem, args, 0)))
        if context is interpreting:
            assert {done.constexprs.get("INDEX", index) for done in launches} == {index}
    return found


@pytest.mark.parametrize("name", PROBLEMS)
def test_wide_offsets_change_nothing(name):
    assert_same_bits(*in_both_widths(name, interpreting, -1))


@pytest.mark.parametrize("name", REPRESENTATIVES)
def test_wide_offsets_in_compiled_code(name):
    assert_same_bits(*in_both_widths(name, lambda: emulate(80), -1))


@pytest.mark.parametrize("elements, expected", [(2**31 - 1, tl.int32), (2**31, tl.int64)])
def test_index_type(elements, expected):
    large = torch.empty(elements, dtype=torch.bfloat16, device="meta")
    small = torch.empty(8, device="meta")
    assert index_type(large) == index_type(None, small, large) == expected
    assert index_type(small, None) == tl.int32


@triton.jit
def offsets_of(out, block, channels, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    tl.store(out + tl.arange(0, BLOCK), rows_of(block, BLOCK, INDEX).to(tl.int64) * channels)
    tl.store(out + BLOCK + tl.arange(0, BLOCK), (rows_of(block, BLOCK, INDEX) * channels).to(tl.int64))


@pytest.mark.parametrize("context", [interpreting, lambda: emulate(80)], ids=["interpreted", "executed"])
@pytest.mark.parametrize("block", [2**24 - 1, 2**24, 2**24 + 5])
def test_rows_of_does_not_overflow(block, context):
    """Rows around 2^31, times a row length."""
    rows = block * 128 + torch.arange(128, dtype=torch.int64)
    out = torch.zeros(256, dtype=torch.int64)
    with context():
        offsets_of[(1,)](out, block, 2048, BLOCK=128, INDEX=tl.int64)
    assert torch.equal(out, (rows * 2048).repeat(2))


def test_narrow_offsets_would():
    out = torch.zeros(256, dtype=torch.int64)
    with interpreting():
        offsets_of[(1,)](out, 2**24, 2048, BLOCK=128, INDEX=tl.int32)
    assert (out < 2**31).all()
