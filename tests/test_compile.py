"""Fused models under torch.compile, fake and meta tensors, torch.export and torch.jit.trace."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import fused_resnet
from fused_resnet.models import Bottleneck, CifarResNet, cifar_resnet20
from tests.support import perturb
from tests.tolerances import assert_close, relative_error
from tests.zoo import package


class BottleneckNet(nn.Module):
    """Stem, a projection and an identity block that fold, head: every kind of unit in few layers."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        downsample = nn.Sequential(nn.Conv2d(8, 32, 1, stride=2, bias=False), nn.BatchNorm2d(32))
        self.layer1 = nn.Sequential(Bottleneck(8, 8, 2, downsample), Bottleneck(32, 8))
        self.fc = nn.Linear(32, 4)

    def forward(self, x):
        x = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))


NETS = {"basic": lambda: CifarResNet(8, shortcut="A"), "bottleneck": BottleneckNet}


@pytest.fixture(params=NETS)
def name(request):
    return request.param


@pytest.fixture(autouse=True)
def _no_leftovers():
    torch.compiler.reset()


def make(name: str, memory: str = "balanced") -> nn.Module:
    torch.manual_seed(0)
    return fused_resnet.fuse(perturb(NETS[name]()), memory=memory)


def images(n: int = 2, size: int = 16) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(n))


def step(call, model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """One training step of `model`, called through `call`: output, gradients, running statistics."""
    x = x.clone().requires_grad_()
    out = call(x)
    out.float().square().sum().backward()
    results = {"out": out.detach(), "x.grad": x.grad}
    results |= {f"{n}.grad": p.grad for n, p in model.named_parameters()}
    return results | {n: b.clone() for n, b in model.named_buffers()}


def assert_same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor], bound: float) -> None:
    assert got.keys() == want.keys()
    for n, w in want.items():
        assert relative_error(got[n], w) <= bound, n


def compiled(model: nn.Module, backend: str = "aot_eager", **options):
    return torch.compile(model, fullgraph=True, backend=backend, **options)


# ---- torch.compile ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["balanced", "min"])
def test_training_step(name, memory):
    eager, model = make(name, memory), make(name, memory)
    call = compiled(model)
    for _ in range(2):
        assert_same(step(call, model, images()), step(eager, eager, images()), 1e-5)
        for m in (eager, model):
            m.zero_grad()


def test_cifar_resnet20_compiles_whole():
    torch.manual_seed(0)
    model = cifar_resnet20()
    eager = copy.deepcopy(model)
    assert_same(step(compiled(model), model, images(2, 32)), step(eager, eager, images(2, 32)), 1e-4)


@pytest.mark.slow
def test_inductor(name):
    """Inductor fuses what is around the units in its own way."""
    eager, model = make(name), make(name)
    assert_same(step(compiled(model, "inductor"), model, images()), step(eager, eager, images()), 1e-4)


@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_eval(name, grad):
    model = make(name).eval()
    with torch.set_grad_enabled(grad):
        assert_close(compiled(model)(images()), model(images()))


def test_autocast(name):
    eager, model = make(name), make(name)
    call = compiled(model)
    results = []
    for forward, module in ((call, model), (eager, eager)):
        with torch.autocast("cpu", torch.bfloat16):
            results.append(step(forward, module, images()))
    assert results[0]["out"].dtype == torch.bfloat16
    assert results[0]["conv1.weight.grad"].dtype == torch.float32
    assert_same(*results, 1e-6)  # the same operations on the same numbers


def test_other_batch_and_image_sizes(name):
    """The second shape makes the graph dynamic."""
    eager, model = make(name), make(name)
    call = compiled(model)
    for x in (images(2), images(3), images(4), images(4, 20)):
        for m in (eager, model):
            m.zero_grad()
        assert_same(step(call, model, x), step(eager, eager, x), 1e-5)


def test_dynamic_from_the_start(name):
    eager, model = make(name), make(name)
    assert_same(step(compiled(model, dynamic=True), model, images()), step(eager, eager, images()), 1e-5)


def test_hook_added_after_compiling(name):
    model = make(name)
    call = compiled(model)
    want = call(images())
    seen = []
    model.layer1[0].conv1.register_forward_hook(lambda *_: seen.append(1))
    torch.compiler.reset()  # as for any model: torch.compile takes no hooks that come later
    call = torch.compile(model, backend="aot_eager")
    assert_close(call(images()), want)
    assert seen == [1]


def test_fusing_a_compiled_model():
    model = make("basic")
    call = torch.compile(fused_resnet.unfuse(model), backend="aot_eager")
    fused_resnet.fuse(call)
    assert fused_resnet.explain(model).fused
    eager = copy.deepcopy(model)
    assert_same(step(call, model, images()), step(eager, eager, images()), 1e-5)


# ---- without values -----------------------------------------------------------------------------------------------


def gradients_on(device: str, model: nn.Module, x: torch.Tensor) -> None:
    out = model(x)
    assert out.shape[0] == x.shape[0] and out.device.type == device
    out.sum().backward()
    for p in model.parameters():
        assert p.grad.shape == p.shape and p.grad.device.type == device


def test_meta_tensors(name):
    gradients_on("meta", make(name).to("meta"), images().to("meta"))
    with torch.no_grad():
        assert make(name).to("meta").eval()(images().to("meta")).is_meta


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("memory", ["balanced", "min"])
def test_fake_tensors(name, memory, device):
    """Also where no GPU is: shapes of a CUDA run can be had anywhere."""
    with FakeTensorMode():
        with torch.device(device):
            model = fused_resnet.fuse(NETS[name](), memory=memory)
        gradients_on(device, model, torch.empty(2, 3, 16, 16, device=device))
        gradients_on(device, model.to(memory_format=torch.channels_last), torch.empty(4, 3, 16, 16, device=device))


# ---- stock operations where others look at them -------------------------------------------------------------------


def operations(graph: torch.fx.Graph) -> set[str]:
    return {n.target.namespace for n in graph.nodes if isinstance(n.target, torch._ops.OpOverload)}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_export_gives_standard_operations(name, strict, training):
    model = make(name).train(training)
    program = torch.export.export(model, (images(),), strict=strict)
    assert operations(program.graph) == {"aten"}
    stock = torch.export.export(fused_resnet.unfuse(copy.deepcopy(model)), (images(),), strict=strict)
    assert [n.target for n in program.graph.nodes] == [n.target for n in stock.graph.nodes]
    if not training:
        with torch.no_grad():
            assert_close(program.module()(images()), model(images()))


def test_export_of_dynamic_batches(name):
    model = make(name).eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (images(3),), dynamic_shapes=({0: batch},))
    with torch.no_grad():
        assert_close(program.module()(images(5)), model(images(5)))


@pytest.mark.filterwarnings("ignore:.*jit:DeprecationWarning")
def test_jit_trace(name):
    model = make(name).eval()
    traced = torch.jit.trace(model, images())
    assert "fused_resnet::" not in str(traced.inlined_graph)
    with torch.no_grad():
        assert_close(traced(images(3)), model(images(3)))


def test_torchvision_compiles_whole():
    resnet = package("torchvision.models.resnet")
    torch.manual_seed(0)
    model = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=4)
    model.layer3, model.layer4, model.fc = nn.Identity(), nn.Identity(), nn.Linear(128, 4)
    eager = fused_resnet.fuse(copy.deepcopy(model))
    call = compiled(fused_resnet.fuse(model))
    assert_same(step(call, model, images(2, 32)), step(eager, eager, images(2, 32)), 1e-4)
