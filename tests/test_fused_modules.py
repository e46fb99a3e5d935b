"""What else a user does to a model after `fuse`: it goes on as if nothing had happened."""

from __future__ import annotations

import copy
import importlib
import inspect
import io
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

import fused_resnet
from fused_resnet.convert.module import FusedModule
from fused_resnet.models import Bottleneck, CifarResNet, ResNet
from fused_resnet.nn import record
from tests.parity import DOUBLE, assert_same_step
from tests.support import perturb
from tests.zoo import FunctionalBlock, OptionalResidual, without_wide_stages

X = torch.randn(2, 3, 16, 16, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))


def make(shortcut="B") -> nn.Module:
    torch.manual_seed(0)
    return perturb(CifarResNet(8, shortcut=shortcut)).double()


def stem_and_bottlenecks() -> nn.Module:
    torch.manual_seed(0)
    model = without_wide_stages(ResNet(Bottleneck, (2, 1, 1, 1)), Bottleneck.expansion)
    return perturb(model).double()


@pytest.fixture
def stock():
    return make()


@pytest.fixture
def fused(stock):
    return fused_resnet.fuse(copy.deepcopy(stock))


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


# ---- fuse and unfuse ----------------------------------------------------------------------------------------------


def types(model: nn.Module) -> list[type]:
    return [type(m) for m in model.modules()]


def programs(model: nn.Module) -> list:
    return [(p.source, p.memory) for m in model.modules() if isinstance(m, FusedModule)
            for p in m._fused_programs.values()]


def test_fusing_twice_is_fusing_once(fused):
    before, made = types(fused), programs(fused)
    assert fused_resnet.fuse(fused) is fused
    assert types(fused) == before
    assert programs(fused) == made


def test_fuse_after_unfuse(stock, fused):
    before = types(fused)
    assert types(fused_resnet.unfuse(fused)) == types(stock)
    assert units_run(fused, X) == []
    assert types(fused_resnet.fuse(fused)) == before
    assert units_run(fused, X) == ALL


def test_unfuse_of_a_stock_model_does_nothing(stock):
    before = types(stock)
    assert types(fused_resnet.unfuse(stock)) == before


@pytest.mark.parametrize("memory", ["speed", "min"])
def test_fusing_again_with_another_memory(stock, fused, memory):
    fused_resnet.fuse(fused, memory=memory)
    assert {m for _, m in programs(fused)} == {memory}
    assert_same_step(fused, stock, X)


def test_fusing_again_after_the_structure_changed(stock, fused):
    for model in (stock, fused):
        model.layer1[0].bn1 = nn.Identity()
        model.layer2[0].relu = nn.GELU()
    fused_resnet.fuse(fused)
    assert type(fused.layer2[0]) is type(stock.layer2[0])
    assert units_run(fused, X) == ["conv_bn_act", "basic_block", "basic_block"]
    assert_same_step(fused, stock, X)


@pytest.mark.parametrize("already", [False, True], ids=["stock", "fused"])
def test_failure_leaves_the_model_as_it_was(stock, monkeypatch, already):
    if already:
        fused_resnet.fuse(stock)
    before, made, calls = types(stock), programs(stock), []

    def failing(*args):
        calls.append(args)
        if len(calls) == 3:
            raise MemoryError
        return rewrite(*args)

    fuse_module = importlib.import_module("fused_resnet.convert.fuse")
    rewrite = fuse_module.rewrite
    monkeypatch.setattr(fuse_module, "rewrite", failing)
    with pytest.raises(MemoryError):
        fused_resnet.fuse(stock, memory="min")
    assert types(stock) == before
    assert programs(stock) == made


def test_looks_like_its_stock_class(stock, fused):
    block = fused.layer1[0]
    assert isinstance(block, type(stock.layer1[0]))
    assert inspect.signature(block.forward) == inspect.signature(stock.layer1[0].forward)
    assert type(block).__doc__ == type(stock.layer1[0]).__doc__
    assert type(block).__name__ == "FusedBasicBlock"


def test_wrappers_content_is_fused(stock):
    wrapper = nn.DataParallel(make())
    fused_resnet.fuse(wrapper)
    assert type(wrapper) is nn.DataParallel
    assert units_run(wrapper, X) == ALL
    assert_same_step(wrapper.module, stock, X)


# ---- copies -------------------------------------------------------------------------------------------------------


def test_optimizer_made_before(stock):
    model = copy.deepcopy(stock)
    optimizers = [torch.optim.SGD(m.parameters(), 0.1, momentum=0.9) for m in (model, stock)]
    fused_resnet.fuse(model)
    for _ in range(2):
        assert_same_step(model, stock, X)
        for optimizer in optimizers:
            optimizer.step()


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))


def through_file(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def through_state_dict(model):
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = fused_resnet.fuse(CifarResNet(8, shortcut="B").double(), memory="min")
    other.load_state_dict(torch.load(file, weights_only=True))
    return other


@pytest.mark.parametrize("duplicate", [copy.deepcopy, through_pickle, through_file, through_state_dict])
def test_copies(stock, duplicate):
    model = fused_resnet.fuse(copy.deepcopy(stock), memory="min")
    other = duplicate(model)
    assert types(other) == types(model)
    assert {m for _, m in programs(other)} == {"min"}
    assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert units_run(other, X) == ALL
    assert_same_step(other, stock, X)


def test_pickle_in_another_process(fused, tmp_path):
    """Its classes are made as it is loaded; nothing of this process is needed."""
    fused.eval()
    with torch.no_grad():
        torch.save((fused, X, fused(X)), tmp_path / "model.pt")
    code = (
        "import sys, torch\n"
        "model, x, want = torch.load(sys.argv[1], weights_only=False)\n"
        "assert type(model.layer1[0]).__name__ == 'FusedBasicBlock'\n"
        "with torch.no_grad(): assert torch.allclose(model(x), want, rtol=1e-12)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.pt")], check=True)


def test_averaged_model(stock, fused):
    averages = []
    for model in (stock, fused):
        average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
        with torch.no_grad():
            model.conv1.weight.mul_(2)
        average.update_parameters(model)
        averages.append(average)
    assert units_run(averages[1], X) == ALL
    assert_same_step(averages[1], averages[0], X)


def test_slice_of_a_sequential():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)).double()
    fused = fused_resnet.fuse(copy.deepcopy(net))
    part = fused[:3]
    assert units_run(fused, X) == ["conv_bn_act", "conv_bn_act"]
    assert_same_step(part, net[:3], X)
    assert units_run(fused_resnet.fuse(part), X) == ["conv_bn_act"]
    assert type(fused_resnet.unfuse(part)) is nn.Sequential


def test_data_parallel_replicas(stock, fused):
    replica = fused._replicate_for_data_parallel()
    for name, child in fused.named_children():
        replica._modules[name] = child
    assert units_run(replica, X) == ALL
    parallel = nn.DataParallel(fused)
    assert_same_step(parallel.module, stock, X)


# ---- modes and parameters -----------------------------------------------------------------------------------------


def both(change):
    """A change of a model, as a test parameter with a readable name."""
    return pytest.param(change, id=change.__name__)


def freeze_a_batch_norm(model):
    model.layer1[0].bn1.eval()


def freeze_all_batch_norms(model):
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.eval()


def eval_but_one(model):
    model.eval()
    model.layer2[0].bn2.train()


def block_in_eval(model):
    model.layer2[0].eval()


def freeze_some_parameters(model):
    model.conv1.requires_grad_(False)
    model.layer1.requires_grad_(False)
    model.layer2[0].bn1.weight.requires_grad_(False)


def freeze_all_but_the_head(model):
    model.requires_grad_(False)
    model.fc.requires_grad_(True)


def other_momentum_and_eps(model):
    for i, m in enumerate(m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        m.momentum, m.eps = (None, 1e-3) if i % 2 else (0.3, 1e-4)


def no_running_statistics(model):
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.track_running_stats = False


def other_head(model):
    model.fc = nn.Linear(64, 3, dtype=DOUBLE)
    nn.init.constant_(model.fc.weight, 0.1)


def other_convolution(model):
    block = model.layer1[0]
    block.conv1 = nn.Conv2d(16, 16, 5, padding=2, bias=True, dtype=DOUBLE)
    nn.init.normal_(block.conv1.weight, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("change", list(map(both, (
    freeze_a_batch_norm, freeze_all_batch_norms, eval_but_one, block_in_eval, freeze_some_parameters,
    freeze_all_but_the_head, other_momentum_and_eps, no_running_statistics, other_head, other_convolution,
))))
def test_changes_that_stay_fused(stock, fused, change):
    for model in (stock, fused):
        torch.manual_seed(5)
        change(model)
    assert units_run(fused, X) == ALL
    assert_same_step(fused, stock, X)
    assert_same_step(fused, stock, X)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("memory", ["speed", "balanced", "min"])
def test_gradients_share_no_memory(memory, training):
    """Gradient clipping and unscaling change every gradient in place, each once."""
    model = fused_resnet.fuse(stem_and_bottlenecks(), memory=memory).train(training)
    model(X).sum().backward()
    for p in model.parameters():
        p.grad.zero_()
        p.grad.add_(1)
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    for p in model.parameters():
        p.grad.mul_(2)
    assert all(torch.equal(p.grad, 2 * torch.ones_like(p)) for p in model.parameters())


def test_requires_grad_of_nothing(stock, fused):
    fused.requires_grad_(False)
    out = fused(X)
    assert not out.requires_grad
    assert torch.allclose(out, stock(X), rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_casts(fused, dtype):
    fused.to(dtype)
    x = X.to(dtype)
    out = fused(x)
    assert out.dtype == dtype and out.isfinite().all()
    out.sum().backward()
    assert all(p.grad.dtype == dtype for p in fused.parameters())
    assert units_run(fused.double(), X) == ALL


def test_channels_last(stock, fused):
    fused.to(memory_format=torch.channels_last)
    x = X.to(memory_format=torch.channels_last)
    with torch.no_grad():
        out = copy.deepcopy(fused.layer1)(fused.conv1(x))
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert_same_step(fused, stock, x)


# ---- changes that only the stock code knows how to run ------------------------------------------------------------


def gelu(model):
    model.layer2[0].relu = nn.GELU()


def group_norm(model):
    model.layer2[0].bn2 = nn.GroupNorm(4, 32, dtype=DOUBLE)


def folded_batch_norm(model):
    model.layer2[0].bn1 = nn.Identity()


def lambda_convolution(model):
    model.layer2[0].conv2 = nn.Sequential(nn.Conv2d(32, 32, 1, dtype=DOUBLE))


def longer_shortcut(model):
    model.layer2[0].downsample.append(nn.Tanh())


def other_shortcut(model):
    model.layer2[0].downsample = nn.AvgPool2d(3, 2, 1) if False else nn.Conv2d(16, 32, 1, 2, dtype=DOUBLE)


def no_shortcut(model):
    block = model.layer1[0]
    block.downsample = nn.Conv2d(16, 16, 1, dtype=DOUBLE)


def extra_child(model):
    model.layer2[0].probe = nn.Identity()


def parametrized(model):
    parametrizations.weight_norm(model.layer2[0].conv1)


def pruned(model):
    prune.l1_unstructured(model.layer2[0].conv1, "weight", amount=0.5)


@pytest.mark.parametrize("change", list(map(both, (
    gelu, group_norm, folded_batch_norm, lambda_convolution, longer_shortcut, other_shortcut, no_shortcut, extra_child,
    parametrized, pruned,
))))
def test_changes_that_fall_back_to_stock(stock, fused, change):
    for model in (stock, fused):
        torch.manual_seed(5)
        change(model)
    assert len(units_run(fused, X)) == 3
    assert_same_step(fused, stock, X)


def test_other_pool_in_the_stem():
    stock = stem_and_bottlenecks()
    fused = fused_resnet.fuse(copy.deepcopy(stock))
    assert len(units_run(fused, X)) == 4
    for change in ("ceil_mode", "kernel_size"):
        for model in (stock, fused):
            setattr(model.maxpool, change, {"ceil_mode": True, "kernel_size": 2}[change])
        assert_same_step(fused, stock, X)
    assert len(units_run(fused, X)) == 3
    for model in (stock, fused):
        model.maxpool = nn.AvgPool2d(2)
    assert_same_step(fused, stock, X)


class Switchable(FunctionalBlock):
    """Its control flow depends on plain attributes."""

    def __init__(self):
        super().__init__(3, 3)
        self.skip, self._scale, self.steps, self.unused = True, 1.0, [1, 2], 0

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) if len(self.steps) == 2 else self.bn2(out)
        if self.skip:
            out = out + x
        out = F.relu(out)
        return out * self._scale if self._scale != 1.0 else out


@pytest.mark.parametrize("name, value, fusible", [
    ("skip", False, False), ("_scale", 2.0, False), ("steps", [1], False), ("skip", torch.tensor(0), False),
    ("skip", 1, False), ("unused", 3, True), ("added_later", 3, True),
])
def test_attributes_that_the_forward_reads(name, value, fusible):
    stock = Switchable().double()
    fused = fused_resnet.fuse(copy.deepcopy(stock))
    assert units_run(fused, X) == ["basic_block"]
    for model in (stock, fused):
        setattr(model, name, value)
    assert bool(units_run(fused, X)) == fusible
    assert_same_step(fused, stock, X)


def test_attributes_changed_in_place():
    fused = fused_resnet.fuse(Switchable().double())
    other = copy.deepcopy(fused)
    fused.steps.append(3)
    assert units_run(fused, X) == []
    assert units_run(other, X) == ["basic_block"]


def test_sequential_changed_in_place(stock, fused):
    net, other = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double() for _ in range(2))
    other.load_state_dict(net.state_dict())
    fused_resnet.fuse(other)
    for model in (net, other):
        model.append(nn.Tanh())
    assert_same_step(other, net, X)


# ---- hooks --------------------------------------------------------------------------------------------------------


INNER = ["conv1", "layer2.0.conv1", "layer2.0.bn2", "layer2.0.relu", "layer2.0.downsample", "layer2.0.downsample.1"]


@pytest.mark.parametrize("path", INNER)
@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
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
            model.layer2[0].relu.inplace = False  # in place, torch refuses such a hook after an addition in place
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


# ---- calls --------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("residual", [
    torch.randn(2, 4, 16, 16, dtype=DOUBLE), torch.randn(4, 1, 1, dtype=DOUBLE), torch.randn(2, 1, 16, 16, dtype=DOUBLE),
    torch.ones((), dtype=torch.int64), 0.5, torch.randn(2, 4, 16, 16),
], ids=["full", "vector", "map", "integer", "number", "fp32"])
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
