"""Tries an installed fused_resnet: `python -I smoke.py [--require-extension]`.

Needs no more than the package does. To be run where no checkout is importable; exit status 0 if all is well.
"""

import copy
import importlib.metadata
import importlib.util
import subprocess
import sys
import sysconfig
import types
from pathlib import Path

import torch

import fused_resnet
from fused_resnet import _extension

IMPORTED = set(sys.modules)  # by torch and by fused_resnet
OPTIONAL = ("matplotlib", "onnx", "onnxruntime", "openvino", "pytest", "sklearn", "timm", "torchvision")
SITE = Path(sysconfig.get_path("platlib"))
TESTS = Path(__file__).resolve().parent.parent


def tolerances() -> types.ModuleType:
    """The tests' own table, from its file: what is importable here is the installed package alone."""
    spec = importlib.util.spec_from_file_location("tolerances", TESTS / "tolerances.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules["tolerances"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_installation(require_extension: bool) -> None:
    """Files, metadata, and the extension of this very torch."""
    package = Path(fused_resnet.__file__).parent
    assert package == SITE / "fused_resnet", f"imported from {package}, not from {SITE}"
    assert (package / "py.typed").is_file(), "no py.typed: type checkers ignore the package"
    assert importlib.metadata.version("fused_resnet") == fused_resnet.__version__
    assert importlib.metadata.metadata("fused_resnet")["License-Expression"] == "MIT"
    imported = IMPORTED.intersection(OPTIONAL)
    assert not imported, f"optional packages were imported: {sorted(imported)}"
    if require_extension:
        extension = _extension.load()
        assert extension is not None, _extension.why_missing()
        assert Path(extension.__file__).parent == package
        release = torch.__version__.partition("+")[0]
        assert _extension.build_info()["torch"] == release, _extension.build_info()
        built = [file.name for file in package.glob("_C_torch_*")]
        assert len(built) == 1, f"more than one extension was packed: {built}"


def network(x: torch.Tensor) -> torch.nn.Module:
    """A small ResNet with batch norms shifted, as by `away_from_kinks` of the tests: no ReLU is near 0."""
    torch.manual_seed(0)
    model = fused_resnet.models.CifarResNet(8).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.bias.copy_(torch.where(torch.arange(module.num_features) % 2 == 0, 6.0, -6.0))
                module.momentum = 1.0
        model(x)
    return model


def step(model: torch.nn.Module, x: torch.Tensor, dout: torch.Tensor) -> dict[str, torch.Tensor]:
    """A training step: output, gradients as one vector, running statistics; then the output in eval mode."""
    x = x.clone().requires_grad_()
    out = model.train()(x)
    out.backward(dout)
    gradients = torch.cat([t.grad.flatten() for t in (x, *model.parameters())])
    buffers = dict(model.named_buffers())
    with torch.no_grad():
        return {"out": out.detach(), "gradients": gradients, **buffers, "eval": model.eval()(x.detach())}


def check_arithmetic() -> None:
    """Every memory mode is as near to fp64 as stock is, to the tests' tolerance."""
    near = tolerances().assert_parity
    x = torch.randn(4, 3, 16, 16).to(memory_format=torch.channels_last)
    dout = torch.randn(4, 10)
    stock = network(x)
    base = step(copy.deepcopy(stock), x, dout)
    truth = step(copy.deepcopy(stock).double(), x.double(), dout.double())
    for memory in ("speed", "balanced", "min"):
        model = fused_resnet.fuse(copy.deepcopy(stock), memory=memory)
        assert len(fused_resnet.explain(model).fused) == 4, "expected the stem and three blocks"
        for name, got in step(model, x, dout).items():
            near(got, base[name], truth[name], torch.float32, 1.0, f"{memory}, {name}")


def check_commands() -> None:
    """The script beside this Python, and the package as a module."""
    script = str(Path(sysconfig.get_path("scripts"), "fused-resnet"))
    module = [sys.executable, "-I", "-m", "fused_resnet"]
    version = f"fused_resnet {fused_resnet.__version__}"
    for command, expected in (
        ([script, "--help"], "selftest"),
        ([script, "--version"], version),
        ([script, "selftest", "--help"], "--backend"),
        ([*module, "--version"], version),
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and expected in done.stdout, f"{command}: {done.stdout}{done.stderr}"


def main() -> None:
    check_installation("--require-extension" in sys.argv[1:])
    check_arithmetic()
    check_commands()
    print(f"fused_resnet {fused_resnet.__version__} works: {SITE}, torch {torch.__version__}")


if __name__ == "__main__":
    main()
