"""Fused models under torch.compile and on fake and meta tensors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import fused_resnet
from fused_resnet.models import cifar_resnet20
from tests.support import away_from_kinks, compare, perturb
from tests.tolerances import assert_close, relative_error
from tests.zoo import BottleneckNet, FunctionalBlock, package


@pytest.fixture(autouse=True)
def _no_leftovers():
    torch.compiler.reset()


def make(memory: str = "balanced") -> nn.Module:
    torch.manual_seed(0)
    return fused_resnet.fuse(perturb(BottleneckNet()), memory=memory)


def block() -> nn.Module:
    torch.manual_seed(0)
    return fused_resnet.fuse(FunctionalBlock(3, 4, 2))


def images(n: int = 2, size: int = 16, layout: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
    made = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(n))
    return made.to(memory_format=layout)


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


# ---- torch.compile -------------------------------------------------------------------------------


LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)


@LAYOUTS
@pytest.mark.parametrize("memory", ["balanced", "min"])
def test_training_step(memory, layout):
    eager, model = make(memory), make(memory)
    call, x = compiled(model), images(layout=layout)
    for _ in range(2):
        assert_same(step(call, model, x), step(eager, eager, x), 1e-5)
        for m in (eager, model):
            m.zero_grad()


def test_cifar_resnet20_compiles_whole():
    torch.manual_seed(0)
    model = cifar_resnet20()
    eager = copy.deepcopy(model)
    assert_same(step(compiled(model), model, images(2, 32)), step(eager, eager, images(2, 32)), 1e-4)


@pytest.mark.slow
def test_inductor():
    """Inductor fuses what is around the units in its own way."""
    eager, model = make(), make()
    assert_same(step(compiled(model, "inductor"), model, images()), step(eager, eager, images()), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["balanced", "min"])
def test_inductor_on_torchvisions_resnet50(memory, monkeypatch):
    """Whole, in training and in eval mode, as close to fp64 as an uncompiled fused model has to be."""
    fuse = fused_resnet.fuse

    def fuse_and_compile(model: nn.Module, memory: str) -> nn.Module:
        fuse(model, memory=memory).compile(fullgraph=True)
        return model

    monkeypatch.setattr(fused_resnet, "fuse", fuse_and_compile)
    x = images(4, 64).to(memory_format=torch.channels_last)
    stock = perturb(package("torchvision.models").resnet50(num_classes=10))
    stock = away_from_kinks(stock.to(memory_format=torch.channels_last), x)
    compare(stock, [x], memory=memory, pooled=True)
    compare(stock.eval(), [x], memory=memory, backward=False)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("make", [make, cifar_resnet20], ids=["bottlenecks", "cifar_resnet20"])
def test_no_graph_breaks(make, training):
    model = make().train(training)
    found = torch._dynamo.explain(model)(images(2, 32))
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons


@LAYOUTS
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_eval(grad, layout):
    model, x = make().eval(), images(layout=layout)
    with torch.set_grad_enabled(grad):
        assert_close(compiled(model)(x), model(x))


def test_autocast():
    eager, model = make(), make()
    call = compiled(model)
    results = []
    for forward, module in ((call, model), (eager, eager)):
        with torch.autocast("cpu", torch.bfloat16):
            results.append(step(forward, module, images()))
    assert results[0]["out"].dtype == torch.bfloat16
    assert results[0]["conv1.weight.grad"].dtype == torch.float32
    assert_same(*results, 1e-6)  # the same operations on the same numbers


@pytest.mark.parametrize("dynamic", [None, True])
def test_other_batch_sizes(dynamic):
    """The second size makes the graph dynamic, where it was not from the start."""
    model, eager = block(), block()
    call = compiled(model, dynamic=dynamic)
    for x in (images(2), images(3), images(5))[: 2 if dynamic else 3]:
        for m in (eager, model):
            m.zero_grad()
        assert_same(step(call, model, x), step(eager, eager, x), 1e-5)


def test_hook_added_after_compiling():
    model = block()
    want = compiled(model)(images())
    seen = []
    model.conv1.register_forward_hook(lambda *_: seen.append(1))
    torch.compiler.reset()  # torch.compile takes no hooks that come later, whatever the model
    assert_close(torch.compile(model, backend="aot_eager")(images()), want)
    assert seen == [1]


def test_fusing_a_compiled_model():
    model = fused_resnet.unfuse(block())
    call = torch.compile(model, backend="aot_eager")
    assert fused_resnet.explain(fused_resnet.fuse(call)).fused
    eager = copy.deepcopy(model)
    assert_same(step(call, model, images()), step(eager, eager, images()), 1e-5)


# ---- without values ------------------------------------------------------------------------------


def gradients_on(device: str, model: nn.Module, x: torch.Tensor) -> None:
    out = model(x)
    assert out.shape[0] == x.shape[0] and out.device.type == device
    out.sum().backward()
    for p in model.parameters():
        assert p.grad.shape == p.shape and p.grad.device.type == device


def test_meta_tensors():
    gradients_on("meta", make().to("meta"), images().to("meta"))
    with torch.no_grad():
        assert make().to("meta").eval()(images().to("meta")).is_meta


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("memory", ["balanced", "min"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_fake_tensors(memory, device, layout):
    """Also where no GPU is: shapes of a CUDA run can be had anywhere."""
    if device == "cuda" and not torch.backends.cuda.is_built():
        pytest.skip("torch without CUDA")
    with FakeTensorMode():
        with torch.device(device):
            model = fused_resnet.fuse(BottleneckNet(), memory=memory)
        x = torch.empty(2, 3, 16, 16, device=device).to(memory_format=layout)
        if device == "cuda" and not torch.cuda.is_available():  # autograd's engine asks for the device
            assert model(x).shape == (2, 4)
        else:
            gradients_on(device, model, x)


def test_fake_tensors_in_autocast():
    """Without gradients weights in bf16 are kept from call to call, and told apart by their values."""
    model = make().eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        fused_resnet.explain(model, images().to(memory_format=torch.channels_last))
        assert_close(model(images()), fused_resnet.unfuse(copy.deepcopy(model))(images()), "op")
