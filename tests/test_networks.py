"""Whole networks, fused against stock."""

import copy

import pytest
import torch

import fused_resnet
from fused_resnet import models
from tests.support import away_from_kinks, compare, perturb

NHWC = torch.channels_last
# this package's networks have torchvision's modules and state_dict, so these run with no torchvision as well
TORCHVISION = ("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2")


def images(batch, size, dtype, seed=0):
    x = torch.randn(batch, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x.to(dtype).contiguous(memory_format=NHWC)


def build(name, source, dtype):
    torch.manual_seed(0)
    if source == "torchvision":
        model = getattr(pytest.importorskip("torchvision.models"), name)(num_classes=10)
    else:
        model = models.create(name, fused=False, num_classes=10)
    return perturb(model).to(dtype).to(memory_format=NHWC)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_fp64(name):
    model = build(name, "torchvision", torch.float64)
    compare(model, [images(2, 64, torch.float64)])
    compare(model.eval(), [images(1, 64, torch.float64)])


@pytest.mark.parametrize("memory", ["speed", "min"])
def test_resnet50_memory_modes_fp64(memory):
    compare(build("resnet50", "own", torch.float64), [images(2, 64, torch.float64)], memory=memory)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_fp32(name):
    inputs = [images(4, 64, torch.float32)]
    model = away_from_kinks(build(name, "own", torch.float32), inputs[0])
    compare(model, inputs, pooled=True)
    compare(model.eval(), inputs, pooled=True)


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_plain20", "wrn_28_10"])
def test_cifar_networks_fp64(name):
    torch.manual_seed(0)
    options = {"dropout": 0.0} if name == "wrn_28_10" else {}
    model = perturb(models.create(name, fused=False, **options)).double().to(memory_format=NHWC)
    compare(model, [images(2, 32 if name != "wrn_28_10" else 16, torch.float64)])


@pytest.mark.parametrize(("groups", "width"), ((1, 16), (4, 6)))
def test_cifar_bottlenecks_fp64(groups, width):
    torch.manual_seed(0)
    model = models.CifarResNet(
        11, block=models.Bottleneck, shortcut="B", groups=groups, width_per_group=width
    )
    compare(perturb(model).double().to(memory_format=NHWC), [images(2, 16, torch.float64)])


def test_train_then_unfuse():
    """State_dict identical in keys, shapes and values after fuse, a training step, unfuse."""
    model = build("resnet18", "own", torch.float64)
    twin = copy.deepcopy(model)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (model, twin)]
    fused_resnet.fuse(model)
    x = images(4, 64, torch.float64)
    for m, optimizer in zip((model, twin), optimizers, strict=True):
        for _ in range(2):
            optimizer.zero_grad()
            m(x).square().mean().backward()
            optimizer.step()
    fused_resnet.unfuse(model)
    assert [type(m) for m in model.modules()] == [type(m) for m in twin.modules()]
    state, want = model.state_dict(), twin.state_dict()
    assert list(state) == list(want)
    for name, t in want.items():
        assert state[name].shape == t.shape
        torch.testing.assert_close(state[name], t, rtol=1e-9, atol=1e-11)
