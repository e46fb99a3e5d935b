"""How exact the Gram-folded tail is: its errors against fp64 beside stock's on the same data."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fused_resnet.autograd import ChainSpec, ConvBNAct, ConvBNAddAct, Geometry, UnitSpec
from tests.tolerances import (
    assert_close,
    assert_not_worse_than_stock,
    assert_parity,
    relative_error,
    tolerance,
)

NHWC = torch.channels_last
NAMES = ("out", "dx", "dW", "dgamma", "dbeta")


class Tail(NamedTuple):
    """A 1x1 convolution, batch norm, residual and ReLU; projection: weight, gamma, beta of the shortcut."""

    x: Tensor
    weight: Tensor
    gamma: Tensor
    beta: Tensor
    residual: Tensor
    projection: tuple[Tensor, Tensor, Tensor] | None
    stride: int

    @property
    def parameters(self):
        return [self.weight, self.gamma, self.beta, *(self.projection or ())]

    def double(self):
        projection = None if self.projection is None else tuple(t.double() for t in self.projection)
        return Tail(*(t.double() for t in self[:5]), projection, self.stride)


def after_relu(x):
    return F.relu(x + 0.5)


def far_from_zero(x):
    """Means of up to a hundred deviations."""
    return x * 0.1 + torch.randn(1, x.shape[1], 1, 1, dtype=x.dtype).abs() * 5


def tail(dtype, c, k, distribution=after_relu, stride=1, projection=False, size=(3, 28, 28)):
    """Random data that `dtype` can represent, weights included, with parameters stored in fp32."""
    torch.manual_seed(0)

    def parameters():
        weight = (torch.randn(k, c, 1, 1) / c**0.5).to(dtype).float()
        return weight, torch.rand(k) + 0.5, torch.randn(k)

    n, h, w = size
    x = distribution(torch.randn(n, c, h, w, dtype=torch.float64))
    residual = torch.randn(n, k, -(-h // stride), -(-w // stride))
    x, residual = (t.to(dtype).contiguous(memory_format=NHWC) for t in (x, residual))
    return Tail(x, *parameters(), residual, parameters() if projection else None, stride)


def stock(t: Tail, relu=True, residual=True):
    def normalised(weight, gamma, beta):
        return F.batch_norm(
            F.conv2d(t.x, weight.to(t.x.dtype), None, t.stride), None, None, gamma, beta, True
        )

    out = normalised(t.weight, t.gamma, t.beta)
    if residual:
        out = out + (t.residual if t.projection is None else normalised(*t.projection))
    return F.relu(out) if relu else out


def fused(t: Tail, relu=True, residual=True, running=(None, None)):
    geometry = Geometry((t.stride, t.stride), (0, 0), (1, 1), 1)
    unit = UnitSpec(geometry, "batch", "relu" if relu else "identity", momentum=0.1, fold=True)
    params = (t.weight, None, t.gamma, t.beta, *running)
    if not residual:
        return ConvBNAct.apply(ChainSpec((unit,)), t.x, None, *params)
    if t.projection is None:
        return ConvBNAddAct.apply(ChainSpec((unit,), "tensor"), t.x, t.residual, *params)
    weight, gamma, beta = t.projection
    spec = ChainSpec((unit,), "projection", unit._replace(act="identity"))
    return ConvBNAddAct.apply(spec, t.x, None, *params, weight, None, gamma, beta, None, None)


def step(function, t: Tail, dout):
    """Output and gradients of x and of every parameter."""
    leaves = [t.x, *t.parameters]
    for leaf in leaves:
        leaf.requires_grad_()
    out = function(t)
    return [out.detach(), *torch.autograd.grad(out, leaves, dout)]


def gradient_away_from_kinks(t: Tail, margin):
    """An incoming gradient that is 0 where rounding alone decides what ReLU lets pass."""
    with torch.no_grad():
        before = stock(t.double(), relu=False)
    dout = torch.randn_like(before) * (before.abs() > margin)
    return dout.to(t.x.dtype).contiguous(memory_format=NHWC)


def compare(t: Tail, margin):
    """(name, fused, stock, fp64) of the output and every gradient."""
    dout = gradient_away_from_kinks(t, margin)
    results = step(fused, t, dout), step(stock, t, dout), step(stock, t.double(), dout.double())
    names = [*NAMES, *(f"projection {n}" for n in NAMES[2:])]
    return list(zip(names, *results, strict=False))


CASES = {
    "64": (64, 256, after_relu, 1, False),
    "128": (128, 512, after_relu, 1, False),
    "256": (256, 1024, after_relu, 1, False),
    "64-stride2": (64, 256, after_relu, 2, False),
    "64-projection-stride2": (64, 256, after_relu, 2, True),
    "64-far": (64, 256, far_from_zero, 1, False),
    "128-far": (128, 512, far_from_zero, 1, False),
    "64-far-projection-stride2": (64, 256, far_from_zero, 2, True),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@every_case
def test_bf16_is_no_less_exact_than_stock(case):
    row = tolerance("gram", torch.bfloat16)
    margin = 1.0 if case[2] is far_from_zero else 0.1
    for name, got, base, truth in compare(tail(torch.bfloat16, *case), margin):
        errors = relative_error(got, truth), relative_error(base, truth)
        assert_not_worse_than_stock(*errors, row.factor, row.floor, name)
        if name.endswith(("dW", "dgamma")):
            # from P and G in fp32: as exact as fp32 itself, where stock rounds y and dy on the way
            assert errors[0] < 1e-4 < errors[1], name


@every_case
def test_bf16_leaves_no_bias_per_channel(case):
    """The mean error of the pre-activation, in deviations; rounding y before batch norm would shift it."""
    t = tail(torch.bfloat16, *case)._replace(projection=None)
    with torch.no_grad():
        error = fused(t, False, False).double() - stock(t.double(), False, False)
        bias = error.mean((0, 2, 3)) / t.gamma.double()
    assert bias.abs().max().item() <= tolerance("gram channel mean", torch.bfloat16).relative


@every_case
def test_fp32(case):
    """Within 1e-4 of fp64, and at most twice as far from it as stock."""
    margin = 1e-2 if case[2] is far_from_zero else 1e-4
    for name, got, base, truth in compare(tail(torch.float32, *case), margin):
        assert_parity(got, base, truth, torch.float32, truth.norm().item(), name)


def test_fp64():
    for name, got, _, truth in compare(tail(torch.float32, 16, 64, stride=2, projection=True).double(), 1e-6):
        assert_close(got, truth, what=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_without_variance(dtype):
    """Constant inputs, weights of zero, weights that cancel: variance 0 up to a rounding of either sign."""
    t = tail(dtype, 64, 256)
    x, weight = t.x.clone(memory_format=torch.preserve_format), torch.zeros_like(t.weight)
    x[:, 0] = 3.0
    x[:, 2] = x[:, 1]
    weight[4:] = t.weight[4:]
    weight[0, 0], weight[1, 1], weight[1, 2], weight[3] = 0.75, 100.0, -100.0, 1e-20
    t = t._replace(x=x, weight=weight)
    running = torch.zeros(256), torch.ones(256)
    out, *gradients = step(lambda t: fused(t, running=running), t, torch.ones_like(t.residual))
    assert all(g.isfinite().all() for g in (out, *gradients, *running))
    assert all((running[1] >= 0.9 * (1 - 1e-6)).tolist())
    with torch.no_grad():
        want = stock(t.double())
    # what rounds to 1e-7 is multiplied by 1/sqrt(eps) = 316 where the variance is 0
    assert relative_error(out[:, :4], want[:, :4]) < max(1e-3, tolerance("op", dtype).relative)


@pytest.mark.parametrize("distribution", [after_relu, far_from_zero])
def test_running_statistics(distribution):
    """In fp32 as near to fp64 as stock's."""
    t = tail(torch.float32, 64, 256, distribution)
    results = []
    for batch in (t, t.double()):
        kind = batch.x.dtype
        results.append((torch.zeros(256, dtype=kind), torch.ones(256, dtype=kind)))
        y = F.conv2d(batch.x, batch.weight)
        F.batch_norm(y, *results[-1], batch.gamma, batch.beta, True, 0.1)
    mine = torch.zeros(256), torch.ones(256)
    with torch.no_grad():
        fused(t, running=mine)
    for name, got, base, truth in zip(("mean", "var"), mine, *results, strict=True):
        assert_parity(got, base, truth, torch.float32, 1.0, name)


@pytest.mark.parametrize("size", [(1, 1, 2), (2, 3, 1), (1, 16, 16), (1, 17, 31)])
def test_any_number_of_rows(size):
    """Fewer rows than channels, and row counts around the tiles of the sums."""
    t = tail(torch.float32, 20, 24, size=size)
    for name, got, base, truth in compare(t, 1e-3):
        scale = max(1.0, truth.norm().item())
        if size[0] * size[1] * size[2] > 20:
            assert_parity(got, base, truth, torch.float32, scale, name)
        assert got.isfinite().all(), name
