"""Whole blocks, forward and backward, through the executed code of the kernels, against the stock modules."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .support import ARCHS  # isort: skip

import gpu_on_cpu

import fused_resnet
from fused_resnet import use_backend
from tests import kernels_blocks
from tests.kernels_blocks import CASES, NHWC, basic, bottleneck, training_step


def check(case, gpu, **options):
    return kernels_blocks.check(case, "triton", gpu.emulate(), gpu.dtype, **options)


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
    check("bottleneck projection", emulated_gpu, memory=memory)


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
    results = [training_step(gpu_on_cpu.emulate(arch, seed), "triton") for seed in (0, 1)]
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
