"""One training step of a fused network against the same step of the stock one, in fp64."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from tests.tolerances import ZERO_GRADIENT, absolute_error, assert_close

DOUBLE = torch.float64


def step(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Forward and backward: outputs, gradients and buffers by name."""
    torch.manual_seed(1)  # of dropout
    model.zero_grad()
    x = x.clone().requires_grad_()
    outputs = tree_leaves(model(x))
    generator = torch.Generator().manual_seed(2)
    loss = sum((o * torch.randn(o.shape, generator=generator, dtype=o.dtype)).sum() for o in outputs)
    loss.backward()
    results = {f"out{i}": o.detach() for i, o in enumerate(outputs)} | {"x.grad": x.grad}
    results |= {f"{n}.grad": p.grad for n, p in model.named_parameters() if p.grad is not None}
    return results | {n: b.clone() for n, b in model.named_buffers()}


def assert_same_step(fused: nn.Module, stock: nn.Module, x: torch.Tensor) -> None:
    want, got = step(stock, x), step(fused, x)
    assert got.keys() == want.keys()
    scale = max((w.norm().item() for n, w in want.items() if n.endswith(".grad")), default=1.0)
    for name, w in want.items():
        if name.endswith(".grad") and w.norm() <= ZERO_GRADIENT[DOUBLE] * scale:
            assert absolute_error(got[name], w) <= ZERO_GRADIENT[DOUBLE] * scale, name
        else:
            assert_close(got[name].double(), w.double(), what=name)
