"""`fuse`, `unfuse` and `explain` on networks of many kinds: what is found, and that it computes the same."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fused_resnet
from fused_resnet import models
from tests.parity import DOUBLE, assert_same_step
from tests.support import perturb
from tests.zoo import CASES, FunctionalBlock, package


def kinds(explanation: fused_resnet.Explanation) -> Counter[str]:
    return Counter(f"{row.kind}/{row.shortcut}" for row in explanation.fused)


def reasons(model: nn.Module) -> dict[str, str]:
    return {row.path: row.reason for row in fused_resnet.explain(model).left}


# ---- networks ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def pair(case):
    """The network in fp64, and fused; compared in training first and in eval mode then."""
    torch.manual_seed(0)
    stock = perturb(case.make()).double()
    return stock, fused_resnet.fuse(copy.deepcopy(stock))


def test_units_found_and_reasons(case, pair):
    explanation = fused_resnet.explain(pair[1])
    assert kinds(explanation) == case.kinds
    left = {row.path: row.reason for row in explanation.left}
    for path, reason in case.left.items():
        assert reason in left[path]
    convolutions = {n for n, m in pair[1].named_modules() if isinstance(m, nn.Conv2d)}
    absorbed = {n for row in explanation.fused for n in row.modules}
    assert convolutions == (convolutions & absorbed) | left.keys()
    assert not absorbed & left.keys()
    assert str(explanation)


def test_state_and_objects_stay(case):
    model = case.make()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    types = {n: type(m) for n, m in model.named_modules()}
    objects = [id(t) for t in (*model.parameters(), *model.buffers(), *model.modules())]
    fused_resnet.fuse(model)
    now = model.state_dict()
    assert list(now) == list(state)
    assert all(torch.equal(now[k], state[k]) for k in state)
    assert [id(t) for t in (*model.parameters(), *model.buffers(), *model.modules())] == objects
    assert all(isinstance(m, types[n]) for n, m in model.named_modules())
    assert fused_resnet.unfuse(model) is model
    assert {n: type(m) for n, m in model.named_modules()} == types
    assert "_fused_programs" not in {k for m in model.modules() for k in vars(m)}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_computes_the_same(case, pair, training):
    x = torch.randn(case.shape, dtype=DOUBLE)
    stock, fused = (model.train(training) for model in pair)
    assert_same_step(fused, stock, x)


FULL = {
    "resnet18": {"conv_bn_act_maxpool/": 1, "basic_block/identity": 5, "basic_block/projection": 3},
    "resnet50": {"conv_bn_act_maxpool/": 1, "bottleneck/identity": 12, "bottleneck/projection": 4},
    "resnext50_32x4d": {"conv_bn_act_maxpool/": 1, "bottleneck/identity": 12, "bottleneck/projection": 4},
    "wide_resnet50_2": {"conv_bn_act_maxpool/": 1, "bottleneck/identity": 12, "bottleneck/projection": 4},
}


@pytest.mark.parametrize("library", ["torchvision.models", "timm", "fused_resnet.models"])
@pytest.mark.parametrize("name", FULL)
def test_full_networks(name, library):
    make = package("timm").create_model if library == "timm" else getattr(package(library), name)
    with torch.device("meta"):
        model = make(name) if library == "timm" else make()
    explanation = fused_resnet.explain(fused_resnet.fuse(model))
    found = kinds(explanation)
    if library == "timm" and name == "resnet18":
        assert sum(found.values()) == 9
    else:
        assert found == FULL[name]
    assert not explanation.left


# ---- what is left alone, and why -----------------------------------------------------------------


class Chain(nn.Module):
    """conv→bn→activation, with one of them changed."""

    def __init__(self, conv=None, bn=None, act=None):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1) if conv is None else conv
        self.bn = nn.BatchNorm2d(4) if bn is None else bn
        self.act = nn.ReLU() if act is None else act

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


def hooked(module):
    module.register_forward_hook(lambda *_: None)
    return module


def gradient_hooked(module):
    module.register_full_backward_hook(lambda *_: None)
    return module


def monkeypatched(module):
    module.forward = module.forward
    return module


class OwnConv(nn.Conv2d):
    pass


CHANGED = {
    "gelu": (Chain(act=nn.GELU()), "followed by act (GELU)"),
    "leaky": (Chain(act=nn.LeakyReLU(inplace=True)), "followed by act (LeakyReLU)"),
    "relu_subclass": (Chain(act=type("OwnReLU", (nn.ReLU,), {})()), "followed by act (OwnReLU)"),
    "group_norm": (Chain(bn=nn.GroupNorm(2, 4)), "followed by bn (GroupNorm)"),
    "bn_subclass": (Chain(bn=type("OwnBN", (nn.BatchNorm2d,), {})(4)), "followed by bn (OwnBN"),
    "conv_subclass": (Chain(OwnConv(4, 4, 1)), "a OwnConv, not exactly nn.Conv2d"),
    "padding_mode": (Chain(nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")), "padding_mode='reflect'"),
    "padding_same": (Chain(nn.Conv2d(4, 4, 3, padding="same")), "padding='same'"),
    "conv_hook": (Chain(hooked(nn.Conv2d(4, 4, 1))), "forward hooks"),
    "bn_hook": (Chain(bn=hooked(nn.BatchNorm2d(4))), "its batch norm: forward hooks"),
    "bn_gradient_hook": (Chain(bn=gradient_hooked(nn.BatchNorm2d(4))), "its batch norm: backward hooks"),
    "relu_hook": (Chain(act=hooked(nn.ReLU())), "followed by act (ReLU: forward hooks)"),
    "own_forward": (Chain(monkeypatched(nn.Conv2d(4, 4, 1))), "a forward of its own"),
    "parametrized": (Chain(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1))), "parametrized"),
    "spectral": (Chain(nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1))), "parametrized"),
    "old_weight_norm": (Chain(nn.utils.weight_norm(nn.Conv2d(4, 4, 1))), "forward hooks"),
    "lazy": (Chain(nn.LazyConv2d(4, 1)), "a LazyConv2d"),
    "lazy_bn": (Chain(bn=nn.LazyBatchNorm2d()), "followed by bn (LazyBatchNorm2d)"),
    "transposed": (Chain(nn.ConvTranspose2d(4, 4, 1)), "a ConvTranspose2d"),
    "identity_hook": (Chain(bn=hooked(nn.Identity())), "followed by bn (Identity)"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_changed_layers_are_left_alone(name):
    model, reason = CHANGED[name]
    explanation = fused_resnet.explain(fused_resnet.fuse(model))
    assert not explanation.fused
    assert type(model) is Chain
    assert reason in explanation.left[0].reason


class OwnForward(nn.Module):
    """A chain whose forward does something that a graph would lose; `forward` is set by each test."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.conv2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.seen: list = []
        self.register_buffer("count", torch.zeros(()))

    def main(self, x):
        return F.relu(self.bn(self.conv(x)))


def type_test(self, x):
    return self.main(x) if isinstance(x, torch.Tensor) else x


def no_grad(self, x):
    with torch.no_grad():
        return self.main(x)


def autocast(self, x):
    with torch.autocast("cpu", enabled=False):
        return self.main(x)


def sets_attribute(self, x):
    self.last = self.main(x)
    return self.last


def appends(self, x):
    self.seen.append(self.main(x))
    return self.seen[-1]


def sets_childs_attribute(self, x):
    self.conv.last = x
    return self.main(x)


def counts(self, x):
    self.count += 1
    return self.main(x)


def draws(self, x):
    return x if torch.rand(()) < 0.5 else self.main(x)


def draws_in_python(self, x):
    import random

    return x if random.random() < 0.5 else self.main(x)


def looks_at_values(self, x):
    return self.main(x) if x.sum() > 0 else x


def looks_at_shapes(self, x):
    return self.main(x) if x.shape[0] > 1 else x


def any_arguments(self, *xs):
    return self.main(xs[0])


def in_a_helper(self, x):
    return next(self.main(y) if torch.is_tensor(y) else y for y in [x])


UNTRACEABLE = {
    type_test: "uses isinstance",
    no_grad: "uses no_grad",
    torch.no_grad()(Chain.forward): "forward is decorated",
    autocast: "uses autocast",
    sets_attribute: "its forward sets attributes: last",
    appends: "its forward sets attributes: seen",
    sets_childs_attribute: "its forward sets attributes: conv.last",
    counts: "on tensors that do not come from its input",
    draws: "on tensors that do not come from its input",
    draws_in_python: "uses random",
    looks_at_values: "its forward cannot be traced",
    looks_at_shapes: "its forward cannot be traced",
    any_arguments: "takes any number of arguments",
    in_a_helper: "uses is_tensor",
}


@pytest.mark.parametrize("forward", UNTRACEABLE, ids=lambda f: f.__name__)
def test_forwards_that_cannot_be_read_are_left_alone(forward):
    model = type("Model", (OwnForward,), {"forward": forward})()
    state = torch.random.get_rng_state()
    fused_resnet.fuse(model)
    assert type(model).__name__ == "Model"
    assert UNTRACEABLE[forward] in reasons(model)["conv"]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert (
        model.seen == []
        and model.count == 0
        and not hasattr(model, "last")
        and not hasattr(model.conv, "last")
    )


def test_super_calls_are_read_too():
    class Base(OwnForward):
        def forward(self, x):
            return type_test(self, x) if isinstance(x, torch.Tensor) else x

    class Derived(Base):
        def forward(self, x):
            return super().forward(x)

    model = fused_resnet.fuse(Derived())
    assert "uses isinstance" in reasons(model)["conv"]


def block_with(**children) -> nn.Module:
    """A residual block with some children replaced."""
    block = FunctionalBlock(8, 8)
    for name, child in children.items():
        setattr(block, name, child)
    return block


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels=8):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


BLOCKS = {
    "gate": (
        block_with(bn2=nn.Sequential(nn.BatchNorm2d(8), Gate())),
        "bn2 (Sequential) before the addition",
    ),
    "padding_mode": (
        block_with(conv1=nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")),
        "conv1 (Conv2d: padding_mode='circular') inside the block",
    ),
    "group_norm": (block_with(bn1=nn.GroupNorm(2, 8)), "bn1 (GroupNorm) inside the block"),
    "hook": (
        block_with(bn2=hooked(nn.BatchNorm2d(8))),
        "bn2 (BatchNorm2d: forward hooks) before the addition",
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_with_something_else_inside_stay_whole(name):
    """Nothing of such a block is fused; the modules around it are."""
    block, reason = BLOCKS[name]
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), block)
    explanation = fused_resnet.explain(fused_resnet.fuse(net))
    assert kinds(explanation) == {"conv_bn_act/": 1}
    assert all(type(m).__module__ != "fused_resnet.convert.module" for m in block.modules())
    why = {r.path: r.reason for r in explanation.left}
    assert reason in why["2.conv2"]
    assert why.keys() == {f"2.{n}" for n, m in block.named_modules() if isinstance(m, nn.Conv2d)}


class SharedConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = Chain()
        self.b = Chain(conv=self.a.conv)

    def forward(self, x):
        return self.b(self.a(x))


class CalledTwice(Chain):
    def forward(self, x):
        return self.act(self.bn(self.conv(self.act(self.bn(self.conv(x))))))


class UsedTwice(Chain):
    def forward(self, x):
        y = self.conv(x)
        return self.act(self.bn(y)) * y.mean()


class Uncalled(Chain):
    def forward(self, x):
        return F.relu(F.conv2d(x, self.conv.weight, padding=1))


class OverwrittenInput(Chain):
    """What the convolution reads is written to before the activation, where the fused unit would read it."""

    def forward(self, x):
        y = self.conv(x)
        x.mul_(2)
        return self.act(self.bn(y)) + x


def test_sharing_and_other_uses_are_told():
    assert "shared between several places" in reasons(fused_resnet.fuse(SharedConv()))["a.conv"]
    assert "called more than once" in reasons(fused_resnet.fuse(CalledTwice()))["conv"]
    assert "its output is used 2 times" in reasons(fused_resnet.fuse(UsedTwice()))["conv"]
    assert reasons(fused_resnet.fuse(Uncalled()))["conv"] == "no module's forward calls it"


def test_input_overwritten_in_between():
    model = OverwrittenInput().double().eval()
    fused = fused_resnet.fuse(copy.deepcopy(model))
    assert not fused_resnet.explain(fused).fused
    x = torch.randn(2, 4, 3, 3, dtype=DOUBLE)
    with torch.no_grad():
        assert torch.equal(fused(x.clone()), model(x.clone()))


def test_code_that_is_not_python_source_is_left_alone():
    scripted = torch.jit.script(Chain())
    graph = torch.fx.symbolic_trace(Chain())
    for model, reason in (
        (scripted, "a RecursiveScriptModule"),
        (graph, "a GraphModule, whose code is not Python"),
    ):
        before = type(model)
        assert type(fused_resnet.fuse(model)) is before
        assert reason in reasons(model)["conv"]
    replaced = Chain()
    replaced.forward = lambda x: replaced.act(replaced.bn(replaced.conv(x)))
    assert "its forward was replaced" in reasons(fused_resnet.fuse(replaced))["conv"]


@pytest.mark.filterwarnings("ignore:.*quantiz:DeprecationWarning")
def test_quantised_modules_are_left_alone():
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("no quantised CPU kernels here")
    quantised = torch.ao.nn.quantized.Conv2d(4, 4, 1)
    model = fused_resnet.fuse(Chain(conv=quantised))
    assert not fused_resnet.explain(model).fused
    assert "not exactly nn.Conv2d" in reasons(model)["conv"]


# ---- explain -------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_explain_changes_nothing(training):
    model = fused_resnet.fuse(models.ResNet(models.Bottleneck, (1, 1, 1, 1))).train(training)
    model.layer2.eval()
    model.bn1.momentum = None
    state = copy.deepcopy(model.state_dict())
    flags = [m.training for m in model.modules()]
    types = [type(m) for m in model.modules()]
    x = torch.randn(2, 3, 64, 64)
    random, python = torch.random.get_rng_state(), [dict(vars(m)) for m in model.modules()]
    explanation = fused_resnet.explain(model, x)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == flags
    assert [type(m) for m in model.modules()] == types
    assert [dict(vars(m)) for m in model.modules()] == python
    assert torch.equal(torch.random.get_rng_state(), random)
    assert [run.path for run in explanation.runs] == [
        "(root)",
        "layer1.0",
        "layer2.0",
        "layer3.0",
        "layer4.0",
    ]
    statistics = [run.statistics for run in explanation.runs]
    assert statistics == (["batch", "batch", "frozen", "batch", "batch"] if training else ["frozen"] * 5)
    assert any(any(run.folded) for run in explanation.runs) == training
    assert explanation.backends
    text = str(explanation)
    assert "bottleneck" in text and "GMAC" in text and "ops:" in text


def test_explain_prints_names_once_and_narrowly():
    text = str(fused_resnet.explain(fused_resnet.fuse(FunctionalBlock(8, 16, 2))))
    assert "conv1 bn1 conv2 bn2 shortcut.0 shortcut.1" in text
    net = fused_resnet.fuse(nn.Sequential(FunctionalBlock(3, 8), nn.Conv2d(8, 8, 1)))
    text = str(fused_resnet.explain(net))
    assert "0.conv1" not in text
    assert "no activation behind it" in text
    assert max(map(len, text.splitlines())) <= 120


def test_explain_before_fuse():
    model = FunctionalBlock(8, 8)
    explanation = fused_resnet.explain(model)
    assert not explanation.fused
    assert all("not fused yet: fuse() makes it part of a basic_block" in r.reason for r in explanation.left)
    assert len(explanation.left) == 2
    assert type(model) is FunctionalBlock


def test_explain_of_a_forward_that_keeps_tensors():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.kept = Chain(), []

        def forward(self, x):
            self.kept.append(self.body(x))
            self.last = self.kept[-1]
            return self.last

    model = fused_resnet.fuse(Keeps())
    assert len(fused_resnet.explain(model, torch.randn(2, 4, 3, 3)).runs) == 1
    assert model.kept == [] and not hasattr(model, "last")


def test_arguments_are_checked():
    for function in (fused_resnet.fuse, fused_resnet.unfuse, fused_resnet.explain):
        with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got int"):
            function(3)
    with pytest.raises(ValueError, match=r"memory: expected one of .*, got 'fast'"):
        fused_resnet.fuse(Chain(), memory="fast")
    with pytest.raises(TypeError, match=r"input: expected a tensor, got tuple"):
        fused_resnet.explain(Chain(), (1, 3))
