"""Blocks and a network on the CPU's own kernels, forward and backward, against the stock modules and fp64."""

import pytest
import torch

from fused_resnet import use_backend
from fused_resnet.backends import observe
from tests import test_blocks as blocks
from tests.cpu.problems import threads
from tests.cpu.test_threads import images, network
from tests.support import away_from_kinks, compare

MEMORY = "speed", "balanced", "min"
GROUPED = "conv3x3 dilated, grouped", "bottleneck grouped"
every_case = pytest.mark.parametrize("case", blocks.CASES)


def check(module, inputs, case="", **options):
    """Every op must run on this backend, but for convolutions in groups."""
    taken = set()
    with use_backend("cpu"), observe(lambda op, name: taken.add((op, name))):
        compare(module, inputs, **options)
    assert any(op.startswith("conv") for op, _ in taken), "nothing ran"
    elsewhere = {(op, name) for op, name in taken if name != "cpu"}
    assert not elsewhere or (case in GROUPED and all(op.startswith("conv") for op, _ in elsewhere))


@every_case
@pytest.mark.parametrize("memory", MEMORY)
def test_training_in_fp32(case, memory):
    module = blocks.make(case, "train", torch.float32)
    check(module, blocks.data(module, torch.float32, (3, 14, 13), 4), case, memory=memory)


@every_case
@pytest.mark.parametrize("mode", ("eval", "half frozen"))
def test_modes_in_fp32(case, mode):
    module = blocks.make(case, mode, torch.float32)
    check(module, blocks.data(module, torch.float32, (3, 14, 13), 4), case)


# A residual from outside the unit is in fp32 under autocast, where the stock modules run.
@pytest.mark.parametrize("case", [case for case in blocks.CASES if not case.startswith("add")])
@pytest.mark.parametrize("mode", ("train", "eval"))
def test_bf16_autocast(case, mode):
    module = blocks.make(case, mode, torch.float32)
    inputs = blocks.data(module, torch.float32, (2, 12, 11), 3)
    check(away_from_kinks(module, inputs[0]), inputs, case, autocast=torch.bfloat16)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("count", (1, 2, 4))
def test_network(count, memory):
    with threads(count):
        check(away_from_kinks(network(), images()), [images()], memory=memory, pooled=True)
