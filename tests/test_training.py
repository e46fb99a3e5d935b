"""Training, stock and fused: the same curves, the same checkpoints, less memory."""

from __future__ import annotations

import copy
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fused_resnet
from fused_resnet.analysis import saved_activation_bytes

pytest.importorskip("sklearn")
from fused_resnet.analysis.digits import load

STEPS = 20
MEMORY = ("balanced", "min")


class Plan(NamedTuple):
    """How the two networks train, and by how much their losses (nats) may differ at any step."""

    dtype: torch.dtype
    image: int
    batch: int
    learning_rate: float
    gap: float


PLANS = {
    # The rate at which these networks are trained, warm-up included. Measured: 5e-13.
    "fp64": Plan(torch.float64, image=16, batch=32, learning_rate=0.1, gap=1e-9),
    # A rounding that moves a value over a ReLU's kink changes gradients by far more than the rounding, and
    # training feeds on it: at rate 0.1 stock in NCHW is 0.1 away from stock in channels_last after 20 steps.
    # Measured at this rate: 1e-4.
    "fp32": Plan(torch.float32, image=32, batch=64, learning_rate=2e-4, gap=1e-3),
}


def stock_model(plan: Plan) -> nn.Module:
    torch.manual_seed(0)
    model = fused_resnet.models.create("cifar_resnet20", fused=False, shortcut="A")
    return model.to(plan.dtype).to(memory_format=torch.channels_last)


def train(model: nn.Module, plan: Plan) -> list[float]:
    """Losses of the first steps on the digits, with a linear warm-up."""
    digits = load(plan.image)
    optimizer = torch.optim.SGD(model.parameters(), lr=plan.learning_rate, momentum=0.9)
    order = torch.randperm(len(digits.train_labels), generator=torch.Generator().manual_seed(0))
    losses = []
    for step, chosen in enumerate(order.split(plan.batch)[:STEPS]):
        optimizer.param_groups[0]["lr"] = plan.learning_rate * min(1.0, (step + 1) / 10)
        images = digits.train_images[chosen].to(plan.dtype).contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), digits.train_labels[chosen])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


class Trained(NamedTuple):
    plan: Plan
    losses: list[float]
    state: dict[str, Tensor]


@pytest.fixture(scope="module", params=PLANS)
def stock(request) -> Trained:
    plan = PLANS[request.param]
    model = stock_model(plan)
    return Trained(plan, train(model, plan), model.state_dict())


@pytest.mark.parametrize("memory", MEMORY)
def test_twenty_steps_follow_the_stock_curve(stock: Trained, memory: str) -> None:
    plan, losses, state = stock
    assert len(losses) == STEPS
    assert losses[-1] < losses[0] - 0.1  # it learns: no flat curves
    model = fused_resnet.fuse(stock_model(plan), memory=memory)
    gaps = [abs(a - b) for a, b in zip(losses, train(model, plan), strict=True)]
    print(f"{plan.dtype}, memory={memory}: largest gap of {STEPS} losses {max(gaps):.1e}")
    assert max(gaps) <= plan.gap

    images = load(plan.image).test_images[:64].to(plan.dtype).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        before = model.eval()(images)
        after = fused_resnet.unfuse(model)(images)
    assert [type(m) for m in model.modules()] == [type(m) for m in stock_model(plan).modules()]
    assert [(k, v.shape) for k, v in model.state_dict().items()] == [(k, v.shape) for k, v in state.items()]
    assert model.state_dict()["bn1.num_batches_tracked"] == STEPS
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def resnet50() -> tuple[nn.Module, Tensor, int]:
    """A small image: the ratio hardly depends on it, the time does."""
    torch.manual_seed(0)
    model = fused_resnet.models.create("resnet50", fused=False).to(memory_format=torch.channels_last)
    images = torch.randn(8, 3, 112, 112).contiguous(memory_format=torch.channels_last)
    return model, images, saved_activation_bytes(model, images)


@pytest.mark.parametrize(("memory", "bound"), [("balanced", 0.60), ("min", 0.35)])
def test_activation_memory_of_resnet50(resnet50, memory: str, bound: float) -> None:
    stock, images, expected = resnet50
    fused = fused_resnet.fuse(copy.deepcopy(stock), memory=memory)
    kept = saved_activation_bytes(fused, images)
    print(f"kept for backward, memory={memory}: {kept / 2**20:.1f} of {expected / 2**20:.1f} MiB")
    print(f"ratio: {kept / expected:.3f}")
    assert kept <= bound * expected


def test_kept_bytes_are_those_of_a_known_layer() -> None:
    """relu(conv(x)) keeps x and relu's output; each once, the weight not at all."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    x = torch.randn(2, 3, 16, 16)
    assert saved_activation_bytes(model, x) == 4 * (x.numel() + 2 * 8 * 16 * 16)


def test_measuring_memory_changes_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    fused_resnet.fuse(model)
    before = copy.deepcopy(model.state_dict())
    saved_activation_bytes(model, torch.randn(2, 3, 8, 8), loss=lambda out: out.sum())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(p.grad is None for p in model.parameters())
