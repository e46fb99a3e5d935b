"""Hooks on fused models, and the many ways to call them."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import fused_resnet
from tests.parity import ALL, DOUBLE, X, assert_same_step, make, units_run
from tests.support import perturb
from tests.zoo import FunctionalBlock, OptionalResidual


@pytest.fixture
def stock():
    return make()


@pytest.fixture
def fused(stock):
    return fused_resnet.fuse(copy.deepcopy(stock))


# ---- hooks ---------------------------------------------------------------------------------------


INNER = [
    "conv1",
    "layer2.0.conv1",
    "layer2.0.bn2",
    "layer2.0.relu",
    "layer2.0.downsample",
    "layer2.0.downsample.1",
]


@pytest.mark.parametrize("path", INNER)
@pytest.mark.parametrize(
    "kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"]
)
def test_hooks_on_inner_modules_fire(stock, fused, path, kind):
    """They see what they see in the stock model, as often, and may change it."""
    if path.endswith("bn2") and kind.startswith("full"):
        pytest.skip("torch refuses such a hook before an addition in place")
    seen: dict[bool, list] = {True: [], False: []}
    handles = []
    for model in (stock, fused):

        def hook(module, *values, fired=seen[model is fused]):
            fired.extend(v for value in values for v in (value if isinstance(value, tuple) else (value,)))

        handles.append(getattr(model.get_submodule(path), f"register_{kind}")(hook))
    if path.endswith("relu") and kind.startswith("full"):
        for model in (stock, fused):
            model.layer2[
                0
            ].relu.inplace = False  # in place, torch refuses such a hook after an addition in place
    assert len(units_run(fused, X)) == 3
    seen[True].clear()
    assert_same_step(fused, stock, X)
    assert len(seen[True]) == len(seen[False]) > 0
    for got, want in zip(seen[True], seen[False], strict=True):
        assert torch.allclose(got, want, rtol=1e-9, atol=1e-12)
    for handle in handles:
        handle.remove()
    assert units_run(fused, X) == ALL


def test_hook_that_changes_the_output(stock, fused):
    for model in (stock, fused):
        model.layer1[0].bn1.register_forward_hook(lambda module, args, out: out * 2)
    assert_same_step(fused, stock, X)


def test_hooks_on_blocks_fire(stock, fused):
    seen = []
    fused.layer1[0].register_forward_hook(lambda module, args, out: seen.append(out))
    fused.layer1[0].register_full_backward_hook(lambda module, *grads: seen.append(grads))
    fused.register_forward_pre_hook(lambda module, args: seen.append(args))
    assert units_run(fused, X) == ALL
    seen.clear()
    assert_same_step(fused, stock, X)
    assert len(seen) == 3


def test_hooks_on_all_modules_fire(stock, fused):
    names = {id(m): n for model in (stock, fused) for n, m in model.named_modules()}
    seen: list[str] = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(names[id(m)]))
    try:
        with torch.no_grad():
            stock(X)
            want = list(seen)
            seen.clear()
            fused(X)
    finally:
        handle.remove()
    assert seen == want
    assert units_run(fused, X) == ALL


class WithOption(FunctionalBlock):
    def __init__(self):
        super().__init__(3, 3)
        self.option = nn.Identity()

    def forward(self, x):
        out = self.option(F.relu(self.bn1(self.conv1(x))))
        out = self.bn2(self.conv2(out))
        out += x
        return F.relu(out)


def test_options_switched_on_later():
    stock = WithOption().double()
    fused = fused_resnet.fuse(copy.deepcopy(stock))
    assert units_run(fused, X) == ["basic_block"]
    fired = []
    handle = fused.option.register_forward_hook(lambda *_: fired.append(1))
    assert_same_step(fused, stock, X)
    assert fired == [1]
    handle.remove()
    assert units_run(fused, X) == ["basic_block"]
    for model in (stock, fused):
        model.option = nn.Tanh()
    assert_same_step(fused, stock, X)


# ---- calls ---------------------------------------------------------------------------------------


def test_keyword_calls(stock, fused):
    with torch.no_grad():
        assert torch.allclose(fused(x=X), stock(X), rtol=1e-12)
    assert units_run(fused.layer1[0], x=torch.randn(1, 16, 4, 4, dtype=DOUBLE)) == ["basic_block"]


def test_wrong_calls_raise_as_stock_does(stock, fused):
    for args, kwargs in (((), {}), ((X, X), {}), ((X,), {"y": X}), ((X,), {"x": X})):
        with pytest.raises(TypeError) as want:
            stock(*args, **kwargs)
        with pytest.raises(TypeError) as got:
            fused(*args, **kwargs)
        assert str(got.value) == str(want.value)


def test_optional_arguments():
    stock = perturb(OptionalResidual()).double()
    fused = fused_resnet.fuse(copy.deepcopy(stock))
    x, residual = torch.randn(2, 1, 2, 8, 4, 4, dtype=DOUBLE).unbind(0)
    x, residual = x[0], residual[0]
    assert units_run(fused, x) == ["basic_block"]
    assert units_run(fused, x, residual) == []
    for args, kwargs in (((x,), {}), ((x, residual), {}), ((x,), {"residual": residual}), ((x, None), {})):
        assert torch.allclose(fused(*args, **kwargs), stock(*args, **kwargs), rtol=1e-10, atol=1e-12)


class Adds(nn.Module):
    """A residual that comes from outside and may have another shape."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x, residual):
        return F.relu(self.bn(self.conv(x)) + residual)


@pytest.mark.parametrize(
    "residual",
    [
        torch.randn(2, 4, 16, 16, dtype=DOUBLE),
        torch.randn(4, 1, 1, dtype=DOUBLE),
        torch.randn(2, 1, 16, 16, dtype=DOUBLE),
        torch.ones((), dtype=torch.int64),
        0.5,
        torch.randn(2, 4, 16, 16),
    ],
    ids=["full", "vector", "map", "integer", "number", "fp32"],
)
def test_residuals_that_broadcast(residual):
    stock = Adds().double()
    fused = fused_resnet.fuse(copy.deepcopy(stock))
    full = isinstance(residual, torch.Tensor) and residual.dim() == 4 and residual.shape[1] == 4
    assert bool(units_run(fused, X, residual)) == (full and residual.dtype == DOUBLE)
    assert torch.allclose(fused(X, residual), stock(X, residual), rtol=1e-10, atol=1e-12)
    with pytest.raises(ValueError, match=r"residual: expected shape"):
        fused(X, torch.randn(2, 3, 16, 16, dtype=DOUBLE))


class Widens(nn.Module):
    """One channel, which the addition broadcasts."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        out += x
        return F.relu(out)


def test_identity_shortcut_that_broadcasts():
    stock = perturb(Widens()).double()
    assert_same_step(fused_resnet.fuse(copy.deepcopy(stock)), stock, X[:, :1])


def test_unbatched_and_empty_inputs():
    stock = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double()
    fused = fused_resnet.fuse(copy.deepcopy(stock))
    assert torch.equal(fused(X[0]), stock(X[0]))
    assert fused(X[:0]).shape == stock(X[:0]).shape


def test_features_called_directly():
    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.features(x).mean((2, 3)))

    stock = Classifier().double()
    fused = fused_resnet.fuse(copy.deepcopy(stock))
    assert units_run(fused, X) == units_run(fused.features, X) == ["conv_bn_act_maxpool"]
    assert_same_step(fused.features, stock.features, X)


def test_symbolic_trace_gives_stock_operations(stock, fused):
    for path in ("", "layer1", "layer1.0"):
        got, want = (torch.fx.symbolic_trace(m.get_submodule(path)) for m in (fused, stock))
        assert got.code == want.code
    assert torch.allclose(torch.fx.symbolic_trace(fused)(X), stock(X), rtol=1e-12)


def test_checkpointed_blocks(stock, fused):
    for model in (stock, fused):
        block = model.layer2[0]
        call = type(block).__call__
        model.layer2 = nn.Sequential()
        model.layer2.add_module("0", Checkpointed(block, call))
    assert_same_step(fused, stock, X)


class Checkpointed(nn.Module):
    def __init__(self, block, call):
        super().__init__()
        self.block, self.call = block, call

    def forward(self, x):
        return checkpoint(self.block, x, use_reentrant=False)


def test_function_transforms(stock, fused):
    """torch.func and forward-mode AD see stock operations."""
    stock.eval(), fused.eval()
    results = []
    for model in (stock, fused):
        parameters = dict(model.named_parameters())

        def loss(parameters, x, model=model):
            return torch.func.functional_call(model, parameters, (x[None],)).square().sum()

        per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, X)
        _, tangent = torch.func.jvp(model, (X,), (torch.ones_like(X),))
        results.append([*per_sample.values(), tangent])
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(X, torch.ones_like(X))
            results[-1].append(torch.autograd.forward_ad.unpack_dual(model(dual)).tangent)
    for want, got in zip(*results, strict=True):
        assert torch.allclose(got, want, rtol=1e-9, atol=1e-12)


def test_sync_batch_norm_converted_later(stock, fused):
    """On one process it is a batch norm; the conversion replaces the blocks' children."""
    fused = nn.SyncBatchNorm.convert_sync_batchnorm(fused)
    assert type(fused.layer1[0].bn1) is nn.SyncBatchNorm
    assert units_run(fused, X) == ALL
    assert_same_step(fused, stock, X)
