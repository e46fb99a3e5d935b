"""Liger-Kernel's autograd functions, with their host code, on CPU tensors."""

from __future__ import annotations

import types
from collections.abc import Callable

import pytest
import torch
from near import near

from gpu_on_cpu.triton.driver import emulate

F = torch.nn.functional
ROWS, COLUMNS = 5, 333
ARCHES = [80, 90, 100]
DTYPES = [torch.float32, torch.bfloat16]


def compare(
    arch: int,
    function: Callable[..., torch.Tensor],
    reference: Callable[..., torch.Tensor],
    inputs: list[torch.Tensor],
    roundings: int,
) -> None:
    """The result and the gradients of all inputs, against a reference in float64."""
    exact_inputs = [t.detach().double().requires_grad_() for t in inputs]
    exact = reference(*exact_inputs)
    weights = torch.randn(exact.shape).to(inputs[0].dtype)
    exact.backward(weights.double())
    for seed in (0, 1):
        leaves = [t.detach().clone().requires_grad_() for t in inputs]
        with emulate(arch, seed) as launches:
            result = function(*leaves)
            result.backward(weights)
        assert launches
        near(result.detach(), exact.detach(), roundings)
        for leaf, e in zip(leaves, exact_inputs, strict=True):
            near(leaf.grad, e.grad, roundings)


@pytest.mark.parametrize("arch", ARCHES)
def test_softmax(liger: types.SimpleNamespace, arch: int) -> None:
    torch.manual_seed(0)
    compare(
        arch,
        liger.softmax.LigerSoftmaxFunction.apply,
        lambda x: x.softmax(-1),
        [torch.randn(ROWS, COLUMNS)],
        2,
    )


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rms_norm(liger: types.SimpleNamespace, arch: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    function = liger.rms_norm.LigerRMSNormFunction
    compare(
        arch,
        lambda x, w: function.apply(x, w, 1e-6, 0.0, "llama", False),
        lambda x, w: F.rms_norm(x, (COLUMNS,), w, 1e-6),
        [torch.randn(ROWS, COLUMNS).to(dtype), torch.randn(COLUMNS).to(dtype)],
        4,
    )


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm(liger: types.SimpleNamespace, arch: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    compare(
        arch,
        lambda x, w, b: liger.layer_norm.LigerLayerNormFunction.apply(x, w, b, 1e-5),
        lambda x, w, b: F.layer_norm(x, (COLUMNS,), w, b, 1e-5),
        [
            torch.randn(ROWS, COLUMNS).to(dtype),
            torch.randn(COLUMNS).to(dtype),
            torch.randn(COLUMNS).to(dtype),
        ],
        4,
    )


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy(liger: types.SimpleNamespace, arch: int, dtype: torch.dtype) -> None:
    """It writes the gradient over the logits, with more threads than columns.

    Of the threads that hold one column, one stores the gradient, and others may load the logit after that:
    their value is never used, so that no fault may be reported.
    """
    torch.manual_seed(0)
    target = torch.randint(0, COLUMNS, (ROWS,))
    target[3] = -100
    function = liger.cross_entropy.LigerCrossEntropyFunction
    compare(
        arch,
        lambda x: function.apply(x * 1, target, None, -100, 0.0, 0.1)[0],  # * 1: what is overwritten is no leaf
        lambda x: F.cross_entropy(x, target, label_smoothing=0.1),
        [torch.randn(ROWS, COLUMNS).to(dtype)],
        4,
    )
