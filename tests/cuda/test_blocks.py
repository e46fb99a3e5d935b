"""Whole blocks, forward and backward, through the executed code of the kernels, against the stock modules."""

import pytest
import torch

from .support import ARCH  # isort: skip

from fused_resnet.analysis.cuda_emulation import emulate_cuda
from tests import kernels_blocks
from tests.kernels_blocks import CASES, training_step
from tests.kernels_support import FORMATS


def check(case, seed=0, dtype=torch.bfloat16, **options):
    return kernels_blocks.check(case, "cuda", emulate_cuda("ptx", ARCH, seed), dtype, **options)


@pytest.mark.parametrize("case", CASES)
def test_training(case):
    check(case, seed=1)


@pytest.mark.parametrize("case", ["basic projection", "bottleneck projection"])
def test_training_in_fp16(case):
    check(case, 2, torch.float16)


@pytest.mark.parametrize("case", ["basic projection", "stem"])
def test_training_in_tf32(case):
    check(case, 2, FORMATS["tf32"].use())


@pytest.mark.parametrize("memory", ["speed", "min"])
def test_memory_modes(memory):
    check("bottleneck projection", memory=memory)


def test_running_statistics_in_eval():
    """The projection and the tail run as one kernel."""
    assert "conv_fprop_dual" in check("bottleneck projection", training=False)


def test_folded_tail_with_projection():
    assert {"gram", "conv_fprop_dual", "folded_dgrad"} <= check("bottleneck projection")


def test_training_step_repeats():
    """Whatever the schedule of the threads, the same bits."""
    results = [training_step(emulate_cuda("ptx", ARCH, seed), "cuda") for seed in (0, 1)]
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
