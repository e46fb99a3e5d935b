"""Small fp64 networks, and one training step of a fused one against the same step of the stock one."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from fused_resnet.models import Bottleneck, CifarResNet, ResNet
from fused_resnet.nn import record
from tests.support import perturb
from tests.tolerances import ZERO_GRADIENT, absolute_error, assert_close
from tests.zoo import without_wide_stages

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


X = torch.randn(2, 3, 16, 16, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))


def make(shortcut="B") -> nn.Module:
    torch.manual_seed(0)
    return perturb(CifarResNet(8, shortcut=shortcut)).double()


def stem_and_bottlenecks() -> nn.Module:
    torch.manual_seed(0)
    model = without_wide_stages(ResNet(Bottleneck, (2, 1, 1, 1)), Bottleneck.expansion)
    return perturb(model).double()


def units_run(model: nn.Module, *args, **kwargs) -> list[str]:
    """Kinds of the fused units that run in one call, after which the model is as before."""
    seen: list[str] = []
    buffers = [(b, b.clone()) for b in model.buffers()]
    with record(lambda unit, *_: seen.append(unit.kind)), torch.no_grad():
        model(*args, **kwargs)
        for buffer, before in buffers:
            buffer.copy_(before)
    return seen


ALL = ["conv_bn_act", "basic_block", "basic_block", "basic_block"]
