"""Blocks and a network on the CPU's own kernels, forward and backward, against the stock modules and fp64."""

import pytest
import torch
from torch import nn

import fused_resnet
from fused_resnet import use_backend
from fused_resnet.analysis import peak_activation_bytes
from fused_resnet.backends import observe
from fused_resnet.models import BasicBlock, Bottleneck
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


def projection(channels):
    return nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))


# The most that is alive at once, in units of M*C (C the inner width):
# - basic block: out, y1, g, g1 and dx;
# - bottleneck: out 4, y1, g 4, g1 and dx 4;
# - with a projection: out 4, y1, the projection's y 4, g 4, g1 and the shortcut's gradient 4;
# and y2, where the graph holds it. The copy of a gradient that arrives in another layout is gone by then.
PEAKS = (
    (lambda: BasicBlock(16, 16), 16, {"speed": 6, "balanced": 6, "min": 5}),
    (lambda: Bottleneck(64, 16), 64, {"balanced": 15, "min": 14}),
    (lambda: Bottleneck(64, 16, downsample=projection(64)), 64, {"balanced": 19, "min": 18}),
)


@pytest.mark.parametrize("memory_format", (torch.channels_last, torch.contiguous_format), ids=str)
@pytest.mark.parametrize(
    ("build", "channels", "memory", "units"),
    [(build, channels, memory, n) for build, channels, peaks in PEAKS for memory, n in peaks.items()],
)
def test_peak_memory(build, channels, memory, units, memory_format):
    module = fused_resnet.fuse(build().to(memory_format=torch.channels_last), memory=memory)
    x = torch.randn(4, channels, 32, 32).to(memory_format=torch.channels_last).requires_grad_()
    dout = torch.randn(4, channels, 32, 32).to(memory_format=memory_format)

    def step():
        x.grad = None
        module(x).backward(dout)

    with use_backend("cpu"):
        peak = peak_activation_bytes(step, module.parameters())
    unit = 4 * 32 * 32 * 16 * x.itemsize
    print(f"{peak / unit:.2f} of {units} units")
    assert peak <= (units + 0.5) * unit
