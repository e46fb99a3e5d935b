"""torch.export, ONNX, AOTInductor and torch.jit.trace find the stock operations of a fused model."""

from __future__ import annotations

import copy
import functools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import fused_resnet
from fused_resnet import models
from fused_resnet.backends import cpu
from fused_resnet.nn import again
from tests.parity import units_run
from tests.support import perturb, run
from tests.tolerances import assert_close
from tests.zoo import BottleneckNet, package

NHWC = torch.channels_last
BATCH = torch.export.Dim("batch", min=1, max=64)
BATCHES = (1, 2, 5)  # that are compared


def torchvision(name: str) -> nn.Module:
    return getattr(package("torchvision.models"), name)()


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "bottlenecks": BottleneckNet,
    "cifar_resnet20": functools.partial(models.create, "cifar_resnet20", fused=False),
    "resnet18": functools.partial(torchvision, "resnet18"),
    "resnet50": functools.partial(torchvision, "resnet50"),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def make(name: str = "bottlenecks", memory: str = "balanced") -> nn.Module:
    """A fused network in eval mode, whose fused units run."""
    torch.manual_seed(0)
    stock = perturb(NETWORKS[name]()).eval().to(memory_format=NHWC)
    model = fused_resnet.fuse(stock, memory=memory)
    assert units_run(model, images(2)), "nothing fused runs: the comparison would prove nothing"
    return model


def images(n: int, size: int = 32) -> torch.Tensor:
    x = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(n))
    return x.to(memory_format=NHWC)


def export(model: nn.Module, x: torch.Tensor, strict: bool = False) -> torch.export.ExportedProgram:
    """Of any batch size."""
    return torch.export.export(model, (x,), dynamic_shapes=({0: BATCH},), strict=strict)


def stock_of(model: nn.Module) -> nn.Module:
    return fused_resnet.unfuse(copy.deepcopy(model))


def namespaces(graph: torch.fx.Graph) -> set[str]:
    """Of all operations: that of each op overload, the module of each Python function."""
    called = [n.target for n in graph.nodes if n.op == "call_function"]
    return {t.namespace if isinstance(t, torch._ops.OpOverload) else t.__module__ for t in called}


def assert_runs_as(call: Callable, model: nn.Module) -> None:
    """`call` gives what the fused model gives, for several batch sizes."""
    for n in BATCHES:
        with torch.no_grad():
            assert_close(call(images(n)), model(images(n)), what=f"batch of {n}")


# ---- torch.export --------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    ("name", "strict"),
    [*((name, False) for name in NETWORKS), *((name, True) for name in NETWORKS if name != "resnet50")],
)
def test_graph_is_the_stock_models(name, strict, training):
    model = make(name).train(training)
    program = export(model, images(3), strict)
    assert namespaces(program.graph) == {"aten"}
    assert str(program.graph) == str(export(stock_of(model), images(3), strict).graph)
    if not training:
        assert_runs_as(program.module(), model)


@pytest.mark.parametrize("memory", ["balanced", "min"])
@pytest.mark.parametrize("name", ["bottlenecks", "cifar_resnet20"])
def test_an_exported_training_graph_trains(name, memory):
    """In fp64 a step of the graph has the outputs, gradients and statistics of the fused model's."""
    model = make(name, memory).train().double()
    x = images(4).double()
    program = export(model, x)
    dout = torch.randn(4, model.fc.out_features, dtype=torch.float64)
    want, got = run(copy.deepcopy(model), x, dout), run(program.module(), x, dout)
    assert got.keys() == want.keys()
    for key, value in want.items():
        assert_close(got[key].double(), value.double(), what=key)


@pytest.mark.skipif(cpu.unavailable() is not None, reason="needs the C++ extension")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", ["bottlenecks", "cifar_resnet20"])
def test_calls_that_would_be_repeated_are_not_exported(name, mode):
    """Of a model that ran without gradients its units know recorded ops; the graph has none of them."""
    model = make(name)
    want = export(stock_of(model), images(3)).graph
    with mode():
        for _ in range(3):
            model(images(3))
        assert model.conv1 in again._calls
        inside = export(model, images(3))
    for program in (inside, export(model, images(3))):
        assert namespaces(program.graph) == {"aten"}
        assert str(program.graph) == str(want)
        assert_runs_as(program.module(), model)


@pytest.mark.filterwarnings("ignore:.*jit:DeprecationWarning")
def test_jit_trace():
    model = make()
    traced = torch.jit.trace(model, images(2))
    assert "fused_resnet::" not in str(traced.inlined_graph)
    assert_runs_as(traced, model)


# ---- ONNX ----------------------------------------------------------------------------------------


@pytest.fixture
def _no_torchscript(monkeypatch):
    """Fails where torch.jit would trace or script."""

    def refuse(*args, **kwargs):
        pytest.fail("went through torch.jit")

    for owner, name in ((torch.jit, "trace"), (torch.jit, "script"), (torch._C, "_create_graph_by_tracing")):
        monkeypatch.setattr(owner, name, refuse)


def onnx_file(model: nn.Module, folder: Path) -> Path:
    """The model with one input "images" of any batch size, and its weights in the same file."""
    pytest.importorskip("onnxscript")
    path = folder / "model.onnx"
    arguments = {"input_names": ["images"], "dynamic_shapes": ({0: BATCH},), "external_data": False}
    torch.onnx.export(model, (images(3),), path, dynamo=True, verbose=False, **arguments)
    return path


@pytest.mark.usefixtures("_no_torchscript")
@every_network
def test_onnx(name, tmp_path):
    """Standard operators only, with batch norms folded into convolutions; ONNX Runtime computes the same."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model = make(name)
    path = onnx_file(model, tmp_path)
    written = onnx.load(path)
    onnx.checker.check_model(written, full_check=True)
    assert {node.domain for node in written.graph.node} == {""}
    assert {opset.domain for opset in written.opset_import} == {""}
    assert not written.functions
    counts = Counter(node.op_type for node in written.graph.node)
    assert counts["Conv"] == sum(isinstance(m, nn.Conv2d) for m in model.modules())
    assert "BatchNormalization" not in counts
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert_runs_as(lambda x: torch.from_numpy(session.run(None, {"images": x.numpy()})[0]), model)


def test_onnx_of_an_exported_program(tmp_path):
    """The other way to the same nodes."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    model = make()
    program = torch.onnx.export(export(model, images(3)), dynamo=True, verbose=False)
    nodes = [node.op_type for node in program.model_proto.graph.node]
    assert nodes == [node.op_type for node in onnx.load(onnx_file(model, tmp_path)).graph.node]


# ---- where there is no fused_resnet ---------------------------------------------------------------

HIDE = "import sys; sys.modules['fused_resnet'] = None  # importing it raises\n"


def run_elsewhere(program: str, folder: Path) -> None:
    """Run a program in another process and in `folder`; there fused_resnet cannot be imported."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", HIDE + program]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


CALL = """
import torch
{load}
with torch.no_grad():
    torch.save([call(x) for x in torch.load("inputs.pt")], "outputs.pt")
"""


def assert_runs_elsewhere(load: str, folder: Path, model: nn.Module) -> None:
    """The `call` that the statements `load` make there gives what the fused model gives here."""
    inputs = [images(n) for n in BATCHES]
    torch.save(inputs, folder / "inputs.pt")
    run_elsewhere(CALL.format(load=load), folder)
    outputs = iter(torch.load(folder / "outputs.pt"))
    assert_runs_as(lambda x: next(outputs), model)


def test_elsewhere_has_no_package(tmp_path):
    with pytest.raises(AssertionError, match="import of fused_resnet halted"):
        run_elsewhere("import fused_resnet", tmp_path)


@pytest.mark.parametrize("name", ["cifar_resnet20", "resnet50"])
def test_a_saved_program_runs_elsewhere(name, tmp_path):
    model = make(name)
    torch.export.save(export(model, images(3)), tmp_path / "model.pt2")
    assert_runs_elsewhere("call = torch.export.load('model.pt2').module()", tmp_path, model)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar_resnet20", "resnet18"])
def test_a_compiled_package_runs_elsewhere(name, tmp_path):
    """AOTInductor's."""
    model = make(name)
    program = export(model, images(3))
    torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    assert_runs_elsewhere("call = torch._inductor.aoti_load_package('model.pt2')", tmp_path, model)


def test_a_state_dict_loads_into_the_stock_model_elsewhere(tmp_path):
    model = make("resnet18")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    load = "import torchvision; call = torchvision.models.resnet18().eval()\n"
    load += "call.load_state_dict(torch.load('weights.pt'))"
    assert_runs_elsewhere(load, tmp_path, model)
