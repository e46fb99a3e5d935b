"""What the numerical tests share: running a module once and collecting everything that it computes."""

from __future__ import annotations

import contextlib
import copy
import math

import torch
from torch import nn

import fused_resnet
from tests.tolerances import (
    ZERO_GRADIENT,
    absolute_error,
    assert_not_worse_than_stock,
    relative_error,
    tolerance,
)


def perturb(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give batch norms parameters and running statistics that matter, as a trained network has."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(t, low, high):
        t.copy_(torch.empty_like(t).uniform_(low, high, generator=generator))

    with torch.no_grad():
        for m in module.modules():
            if getattr(m, "running_mean", None) is not None:
                uniform(m.running_mean, -0.3, 0.3)
                uniform(m.running_var, 0.5, 1.5)
            if hasattr(m, "running_mean") and m.weight is not None:
                uniform(m.weight, 0.5, 1.5)
                uniform(m.bias, -0.5, 0.5)
    return module


def away_from_kinks(module: nn.Module, x: torch.Tensor) -> nn.Module:
    """Shift batch norms by +-6 standard deviations, and calibrate their running statistics on `x`.

    A ReLU's gradient jumps at 0. In low precision some pre-activations round to the other side, in stock and
    fused code alike but not the same ones, and these few elements would be all that a comparison sees. Half
    of the channels pass nearly everything then, the others nearly nothing.
    """
    with torch.no_grad():
        for m in module.modules():
            if getattr(m, "bias", None) is not None and hasattr(m, "running_mean"):
                m.bias.copy_(torch.where(torch.arange(m.bias.numel()) % 2 == 0, 6.0, -6.0))
                m.momentum = 1.0
        training = module.training
        module.train()(x)
        module.train(training)
    return module


def run(
    module: nn.Module, x: torch.Tensor, dout: torch.Tensor | None = None, autocast: torch.dtype | None = None
):
    """Forward and (with `dout`) backward: output, input gradient, parameter gradients, buffers, by name."""
    x = x.detach().clone().requires_grad_(dout is not None)
    module.zero_grad()
    context = torch.autocast("cpu", dtype=autocast) if autocast else contextlib.nullcontext()
    with context, torch.set_grad_enabled(dout is not None):
        out = module(x)
    results = {"out": out.detach()}
    if dout is not None:
        out.backward(dout.to(out.dtype))
        results["x.grad"] = x.grad
        results |= {f"{n}.grad": p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    return results | {n: b.clone() for n, b in module.named_buffers()}


def compare(
    stock: nn.Module,
    inputs: list[torch.Tensor],
    autocast: torch.dtype | None = None,
    memory: str = "balanced",
    backward: bool = True,
    pooled: bool = False,
    bound: str = "parity",
) -> None:
    """Fused against stock and against stock in fp64: outputs, all gradients, running statistics.

    What is compared with stock's error is the root mean square of the errors over all inputs.

    Args: stock: in the dtype to test (its parameters and `inputs`), not changed; autocast: run both under it;
    pooled: judge all parameters' gradients as one vector. In a deep network some of them are sums that almost
    cancel (a bias that the next batch norm nearly takes away again), of which no computation has many digits;
    bound: name in the table of tolerances.
    """
    dtype = autocast or inputs[0].dtype
    errors: dict[str, list[tuple[float, float]]] = {}
    for seed, x in enumerate(inputs):
        x = x.to(dtype).to(x.dtype)  # what the convolution sees is the same for all three
        for name, pair in _errors_of_one(stock, x, autocast, memory, backward, seed, dtype, pooled).items():
            errors.setdefault(name, []).append(pair)
    row = tolerance(bound, dtype)
    for name, pairs in errors.items():
        fused, base = (
            math.sqrt(sum(e * e for e in column) / len(pairs)) for column in zip(*pairs, strict=True)
        )
        if row.relative is not None:
            assert fused <= row.relative, (
                f"{name}: relative error {fused:.2e} over {row.relative:.0e} ({row.reason})"
            )
        if row.factor is not None:
            assert_not_worse_than_stock(fused, base, row.factor, row.floor, name)


def _errors_of_one(
    stock, x, autocast, memory, backward, seed, dtype, pooled
) -> dict[str, tuple[float, float]]:
    """Relative errors (fused, stock) against fp64, by name."""
    truth = copy.deepcopy(stock).double()
    fused = fused_resnet.fuse(copy.deepcopy(stock), memory=memory)
    assert fused_resnet.explain(fused).fused, "nothing was fused: the comparison would prove nothing"
    dout = None
    if backward:
        with torch.no_grad():
            shape = copy.deepcopy(truth)(x.double()).shape
        dout = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        dout = dout.to(dtype).to(x.dtype)
    want = run(truth, x.double(), None if dout is None else dout.double())
    got, base = run(fused, x, dout, autocast), run(copy.deepcopy(stock), x, dout, autocast)
    assert got.keys() == base.keys() == want.keys()
    assert got["out"].dtype == base["out"].dtype
    assert got["out"].stride() == base["out"].stride()
    if pooled:
        want, got, base = (_pool_gradients(r, stock) for r in (want, got, base))
    gradients = [want[n].norm().item() for n in want if n.endswith(".grad")]
    scale = max(gradients, default=1.0)
    errors = {}
    for name in want:
        if name.endswith("num_batches_tracked"):
            assert torch.equal(got[name], base[name])
        elif (
            want[name].norm() <= ZERO_GRADIENT[torch.float64] * scale
        ):  # a convolution's bias before batch norm
            assert absolute_error(got[name], want[name]) <= ZERO_GRADIENT[dtype] * scale, name
        else:
            errors[name] = relative_error(got[name], want[name]), relative_error(base[name], want[name])
    return errors


def _pool_gradients(results, module):
    names = [f"{n}.grad" for n, _ in module.named_parameters()]
    together = torch.cat([results[n].flatten() for n in names])
    return {n: t for n, t in results.items() if n not in names} | {"parameters.grad": together}
