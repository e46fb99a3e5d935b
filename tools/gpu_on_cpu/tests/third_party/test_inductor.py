"""What torch.compile makes of a small network in training: forward, backward, update of batch statistics."""

from __future__ import annotations

import copy
import pathlib

import pytest
import torch
from inductor_kernels import compiling_for
from near import near
from torch import nn


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    ]
    return nn.Sequential(*layers, nn.Linear(8 * 5 * 5, 7))


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_training_step(arch: int, tmp_path: pathlib.Path) -> None:
    """The convolution and the linear layer stay ATen's; the rest, and layouts, are Triton kernels."""
    model = network()
    exact = copy.deepcopy(model).double()
    x, weights = torch.randn(3, 3, 11, 11), torch.randn(3, 7)
    expected = exact(x.double())
    expected.backward(weights.double())
    for seed in (0, 1):
        compiled = copy.deepcopy(model)
        with compiling_for(arch, seed, tmp_path) as launches:
            result = torch.compile(compiled, fullgraph=True)(x)
            forward = len(launches)
            result.backward(weights)
        assert forward >= 6
        assert len(launches) - forward >= 4
        near(result.detach(), expected.detach(), 8)
        for p, e in zip(compiled.parameters(), exact.parameters(), strict=True):
            near(p.grad, e.grad, 16)
        for (name, b), e in zip(compiled.named_buffers(), exact.buffers(), strict=True):
            if name.endswith("num_batches_tracked"):
                assert b == 1
            else:
                near(b, e.detach(), 4)


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_softmax_and_norm(arch: int, tmp_path: pathlib.Path) -> None:
    """Reductions along rows: persistent ones and, for long rows, in a loop."""

    def function(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.softmax(torch.nn.functional.layer_norm(x, x.shape[1:], w), 1).var(0)

    torch.manual_seed(0)
    for columns, seed in ((97, 0), (2531, 1)):
        x, w = torch.randn(5, columns), torch.randn(columns)
        with compiling_for(arch, seed, tmp_path) as launches:
            result = torch.compile(function, fullgraph=True)(x, w)
        assert launches
        near(result, function(x.double(), w.double()), 2)
