"""Whole blocks, forward and backward, through the executed code of the kernels, against the stock modules."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from .support import ARCHS  # isort: skip

import gpu_on_cpu

import fused_resnet
from fused_resnet import use_backend
from fused_resnet.backends import observe
from fused_resnet.models.blocks import BasicBlock, Bottleneck
from fused_resnet.nn import ZeroPadShortcut
from tests.support import away_from_kinks, compare, perturb

NHWC = torch.channels_last


def shortcut(kind, channels, out_channels, stride):
    if kind == "identity":
        return None
    if kind == "pad":
        return ZeroPadShortcut(channels, out_channels, stride)
    conv = nn.Conv2d(channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


def basic(kind):
    wide, stride = (32, 1) if kind == "identity" else (48, 2)
    return BasicBlock(32, wide, stride, shortcut(kind, 32, wide, stride))


def bottleneck(kind):
    """The expanding convolutions fold: C <= K/2, and enough rows."""
    channels, inner, stride = (64, 16, 1) if kind == "identity" else (48, 32, 2)
    return Bottleneck(channels, inner, stride, shortcut(kind, channels, 4 * inner, stride))


def stem(_):
    conv = nn.Conv2d(3, 32, 7, 2, 3, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(32), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))


CASES = {
    **{f"basic {kind}": (basic, kind, 32) for kind in ("identity", "projection", "pad")},
    **{f"bottleneck {kind}": (bottleneck, kind, 64) for kind in ("identity",)},
    **{f"bottleneck {kind}": (bottleneck, kind, 48) for kind in ("projection", "pad")},
    "stem": (stem, "", 3),
}


def check(case, gpu, memory="balanced", training=True):
    """A block in gpu.dtype on the emulated GPU, where every op but those on vectors must run on Triton."""
    make, kind, channels = CASES[case]
    torch.manual_seed(1)  # of this one, no pre-activation is 4 standard deviations off, at ReLU's kink
    x = torch.randn(3, channels, 11, 10).contiguous(memory_format=NHWC)
    stock = perturb(make(kind))
    if gpu.dtype != torch.float32:
        away_from_kinks(stock, x)
    stock = stock.to(gpu.dtype).to(memory_format=NHWC).train(training)
    taken = []
    with gpu.emulate() as records, use_backend("triton"), observe(lambda op, name: taken.append((op, name))):
        compare(stock, [x.to(gpu.dtype)], memory=memory)
    assert {name for _, name in taken} == {"triton"}, "nothing fell back"
    assert records
    assert not any(record.launch.collisions for record in records)
    return {op for op, _ in taken}


@pytest.mark.gpu_on_cpu(archs=ARCHS, seeds=(1,), dtypes=("bf16",))
@pytest.mark.parametrize("case", CASES)
def test_training(case, emulated_gpu):
    check(case, emulated_gpu)


@pytest.mark.gpu_on_cpu(archs=(80,), seeds=(2,), dtypes=("fp32",))
@pytest.mark.parametrize("case", ["basic projection", "bottleneck projection"])
def test_training_in_full_fp32(case, emulated_gpu, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    check(case, emulated_gpu)


@pytest.mark.gpu_on_cpu(archs=(90,), seeds=(0,), dtypes=("bf16",))
@pytest.mark.parametrize("memory", ["speed", "min"])
def test_memory_modes(memory, emulated_gpu):
    check("bottleneck projection", emulated_gpu, memory)


@pytest.mark.gpu_on_cpu(archs=(90,), seeds=(0,), dtypes=("bf16",))
def test_running_statistics_in_eval(emulated_gpu):
    """The projection and the tail run as one kernel."""
    assert "conv_fprop_dual" in check("bottleneck projection", emulated_gpu, training=False)


@pytest.mark.gpu_on_cpu(archs=(90,), seeds=(0,), dtypes=("bf16",))
def test_folded_tail_with_projection(emulated_gpu):
    assert {"gram", "conv_fprop_dual", "folded_dgrad"} <= check("bottleneck projection", emulated_gpu)


@pytest.mark.parametrize("arch", [100])
def test_training_step_repeats(arch):
    """Whatever the schedule of the threads, the same bits."""
    block = fused_resnet.fuse(perturb(bottleneck("projection"))).to(torch.bfloat16).to(memory_format=NHWC)
    x = torch.randn(3, 48, 11, 10).to(torch.bfloat16).contiguous(memory_format=NHWC).requires_grad_()
    results = []
    for seed in (0, 1):
        with gpu_on_cpu.emulate(arch, seed), use_backend("triton"):
            out = block(x)
            results.append((out, *torch.autograd.grad(out.float().square().sum(), (x, *block.parameters()))))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


class Waits(TorchDispatchMode):
    """Notes operators that make the host wait for the device: a CUDA graph cannot capture them."""

    NAMES = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in self.NAMES:
            self.found.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("make", [basic, bottleneck])
def test_the_host_never_waits(make):
    block = fused_resnet.fuse(make("projection")).to(torch.bfloat16).to(memory_format=NHWC)
    channels = block.conv1.in_channels
    x = torch.randn(3, channels, 11, 10).to(torch.bfloat16).contiguous(memory_format=NHWC).requires_grad_()
    with gpu_on_cpu.emulate(90, execute=False), use_backend("triton"), Waits() as waits:
        out = block(x)
        torch.autograd.grad(out, (x, *block.parameters()), torch.ones_like(out))
    assert not waits.found
