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

import fused_resnet
from fused_resnet.convert.module import FusedModule
from fused_resnet.models import CifarResNet
from tests.parity import ALL, DOUBLE, X, assert_same_step, make, stem_and_bottlenecks, units_run
from tests.zoo import FunctionalBlock


@pytest.fixture
def stock():
    return make()


@pytest.fixture
def fused(stock):
    return fused_resnet.fuse(copy.deepcopy(stock))


# ---- fuse and unfuse -----------------------------------------------------------------------------


def types(model: nn.Module) -> list[type]:
    return [type(m) for m in model.modules()]


def programs(model: nn.Module) -> list:
    return [
        (p.source, p.memory)
        for m in model.modules()
        if isinstance(m, FusedModule)
        for p in m._fused_programs.values()
    ]


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


# ---- copies --------------------------------------------------------------------------------------


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
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)
    ).double()
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


# ---- modes and parameters ------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "change",
    list(
        map(
            both,
            (
                freeze_a_batch_norm,
                freeze_all_batch_norms,
                eval_but_one,
                block_in_eval,
                freeze_some_parameters,
                freeze_all_but_the_head,
                other_momentum_and_eps,
                no_running_statistics,
                other_head,
                other_convolution,
            ),
        )
    ),
)
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


@pytest.mark.parametrize("memory", ["speed", "balanced", "min"])
def test_gradients_lie_as_their_parameters_do(stock, memory):
    """In dimensions of size 1, too: DistributedDataParallel warns where they do not."""
    model = fused_resnet.fuse(stock.to(memory_format=torch.channels_last), memory=memory)
    for _ in range(3):  # recorded, then replayed
        model.zero_grad()
        model(X.to(memory_format=torch.channels_last)).sum().backward()
        assert [p.grad.stride() for p in model.parameters()] == [p.stride() for p in model.parameters()]


def test_channels_last(stock, fused):
    fused.to(memory_format=torch.channels_last)
    x = X.to(memory_format=torch.channels_last)
    with torch.no_grad():
        out = copy.deepcopy(fused.layer1)(fused.conv1(x))
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert_same_step(fused, stock, x)


# ---- changes that only the stock code knows how to run -------------------------------------------


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
    model.layer2[0].downsample = nn.Conv2d(16, 32, 1, 2, dtype=DOUBLE)


def added_shortcut(model):
    model.layer1[0].downsample = nn.Conv2d(16, 16, 1, dtype=DOUBLE)


def extra_child(model):
    model.layer2[0].probe = nn.Identity()


def parametrized(model):
    parametrizations.weight_norm(model.layer2[0].conv1)


def pruned(model):
    prune.l1_unstructured(model.layer2[0].conv1, "weight", amount=0.5)


@pytest.mark.parametrize(
    "change",
    list(
        map(
            both,
            (
                gelu,
                group_norm,
                folded_batch_norm,
                lambda_convolution,
                longer_shortcut,
                other_shortcut,
                added_shortcut,
                extra_child,
                parametrized,
                pruned,
            ),
        )
    ),
)
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


@pytest.mark.parametrize(
    "name, value, fusible",
    [
        ("skip", False, False),
        ("_scale", 2.0, False),
        ("steps", [1], False),
        ("skip", torch.tensor(0), False),
        ("skip", 1, False),
        ("unused", 3, True),
        ("added_later", 3, True),
    ],
)
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
