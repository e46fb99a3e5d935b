"""Bytes that a training step moves, counted while it runs."""

import pytest
import torch

from .support import ARCHS  # isort: skip  # noqa: F401

from gpu_on_cpu import emulate

from fused_resnet import fuse, use_backend
from fused_resnet.analysis import traffic


def test_identity_bottleneck():
    """In units of M*C elements, of an ideal cache: 17 forward and 42 backward, and what partial sums add.

    Stock's 114: every ATen operator's activation inputs and outputs.
    """
    stock, x, unit = traffic.model("bottleneck", batch=4, size=56)
    eager, fused = traffic.compare(stock, x)
    assert eager.total("forward") == 48 * unit.size and eager.total("backward") == 66 * unit.size
    print({direction: round(fused.total(direction) / unit.size, 2) for direction in ("forward", "backward")})
    assert 17 * unit.size <= fused.total("forward") <= 20 * unit.size
    assert 42 * unit.size <= fused.total("backward") <= 48 * unit.size
    assert fused.total() <= 0.60 * eager.total()


@pytest.mark.parametrize("arch", [80, 90])
def test_executed_code_moves_as_much(arch):
    """The generated code asks for the same sectors as the interpreted kernels."""
    stock, x, _ = traffic.model("bottleneck", batch=2, size=5)
    model = fuse(stock)
    interpreted = traffic.kernel_bytes(model, x)
    executed = traffic.StepBytes()
    direction = ""
    with emulate(arch, traffic=True) as records, use_backend("triton"):
        for coming in traffic.training_step(model, x):
            traffic.take(((r.name, r.launch.traffic) for r in records), executed, direction)
            records.clear()
            direction = coming
        traffic.take(((r.name, r.launch.traffic) for r in records), executed, direction)
    for key, count in executed.by_name.items():
        assert interpreted.by_name[key] == count, key


def test_counts_eager_operators():
    """Two convolutions by hand: each reads and writes its activations once."""
    model = torch.nn.Sequential(torch.nn.Conv2d(8, 4, 1, bias=False), torch.nn.ReLU())
    found = traffic.eager_bytes(model.to("meta"), torch.empty(2, 8, 3, 3, device="meta"))
    m = 2 * 3 * 3 * 4
    assert found.by_name["forward", "convolution"] == (8 + 4) * m
    assert found.by_name["forward", "relu"] == (4 + 4) * m
    assert found.by_name["backward", "threshold_backward"] == (4 + 4 + 4) * m
    assert found.by_name["backward", "convolution_backward"] == (4 + 8 + 8) * m
