"""``fused-resnet doctor``: what is there, what is missing and what to do, and whether it computes right."""

from __future__ import annotations

import dataclasses
import importlib.util
import platform
import shutil
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
import typer
from rich.table import Table

from .. import _extension, backends
from .._version import __version__
from ..analysis import conditions
from ..analysis.printing import Printer

GOOD, WARNING, BAD = "good", "warning", "bad"
STYLES = {GOOD: "green", WARNING: "yellow", BAD: "bold red"}
LEAST_TORCH = (2, 10)
LEAST_CAPABILITY = (8, 0)
OPTIONAL = {
    "torchvision": "plans, examples and benchmarks of its networks",
    "timm": "plans of its networks",
    "matplotlib": "the demo, `bench plot`",
    "sklearn": "the demo's handwritten digits",
    "openvino": "a peer in benchmarks",
    "onnxruntime": "a peer in benchmarks",
    "onnxscript": "export to ONNX",
    "inplace_abn": "a peer in benchmarks",
    "apex": "a peer in benchmarks on a GPU",
}


@dataclass(frozen=True)
class Diagnosis:
    """state: good, warning (it works, something is slower or absent) or bad; advice: what to do, or empty."""

    subject: str
    state: str
    found: str
    advice: str = ""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the diagnoses as JSON.")] = False,
) -> None:
    """Versions, extension, backends, why one is unavailable and what to do; a training step beside stock.

    The exit status is 1 if something is bad. A warning is none: what is absent is done without.
    """
    printer = Printer(as_json)
    table = Table("", "", "found", "what to do", title="fused-resnet doctor")
    found = list(diagnoses())
    for d in found:
        table.add_row(d.subject, f"[{STYLES[d.state]}]{d.state}[/]", d.found, d.advice)
    printer.console.print(table)
    counts = {state: sum(d.state == state for d in found) for state in STYLES}
    printer.line(", ".join(f"{n} {state}" for state, n in counts.items()))
    printer.document(
        {"conditions": conditions(_device()), "diagnoses": [dataclasses.asdict(d) for d in found]}
    )
    if counts[BAD]:
        raise typer.Exit(1)


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def diagnoses() -> Iterator[Diagnosis]:
    yield Diagnosis("fused_resnet", GOOD, f"{__version__}, Python {platform.python_version()}")
    yield _torch()
    yield _gpu()
    yield from _extensions()
    yield from (_backend(name) for name in backends.BACKENDS)
    yield _packages()
    yield _computes()


def _torch() -> Diagnosis:
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs"
    found = f"{torch.__version__}, built {'with ' if torch.version.cuda else ''}{built}"
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < LEAST_TORCH:
        return Diagnosis("torch", BAD, found, f"install {'.'.join(map(str, LEAST_TORCH))} or later")
    return Diagnosis("torch", GOOD, found)


def _gpu() -> Diagnosis:
    if not torch.cuda.is_available():
        if torch.version.cuda and shutil.which("nvidia-smi"):
            return Diagnosis(
                "GPU", WARNING, "torch sees none, nvidia-smi is here", "compare driver and CUDA version"
            )
        return Diagnosis("GPU", GOOD, "none: the CPU's kernels run")
    name, capability = torch.cuda.get_device_name(), torch.cuda.get_device_capability()
    found = f"{name}, sm_{capability[0]}{capability[1]}"
    if capability < LEAST_CAPABILITY:
        advice = "our kernels need sm_80; the library's convolutions are used"
        return Diagnosis("GPU", WARNING, found, advice)
    return Diagnosis("GPU", GOOD, found)


def _extensions() -> Iterator[Diagnosis]:
    if why := _extension.why_missing():
        needed = "needs a C++ compiler, setuptools, ninja, pybind11"
        advice = f"in the source tree: {_extension.BUILD_COMMAND} ({needed})"
        yield Diagnosis("C++ extension", WARNING, why, advice)
        return
    info = _extension.build_info()
    engine = f", bf16 by {info['matrix_engine']}" if info.get("matrix_engine") else ""
    found = f"for torch {info['torch']}, {info['compiler']}, {info['cpu_instruction_set']}{engine}"
    yield Diagnosis("C++ extension", GOOD, found)
    built = ", ".join(f"sm_{a}" for a in info["cuda_architectures"] or ())
    if built:
        yield Diagnosis("CUDA C++ kernels", GOOD, f"{built}, nvcc {info['cuda']}")
    elif torch.version.cuda:
        major = torch.version.cuda.split(".")[0]
        advice = f"rebuild with an nvcc of CUDA {major} on the PATH; FUSED_RESNET_CUDA=1 tells why it fails"
        yield Diagnosis("CUDA C++ kernels", WARNING, "not in the extension", advice)


def _backend(name: str) -> Diagnosis:
    why = backends.unavailable(name)
    count = len(backends.BACKENDS[name].OPS)
    if why is None:
        return Diagnosis(f"backend {name}", GOOD, f"{count} ops")
    # a GPU's backend on a machine without one is no fault
    state = WARNING if name == "cpu" or torch.cuda.is_available() else GOOD
    return Diagnosis(f"backend {name}", state, f"unavailable: {why}", _advice(name))


def _advice(backend: str) -> str:
    if backend == "triton" and importlib.util.find_spec("triton") is None:
        return "pip install triton, or a CUDA build of torch, which brings it"
    if backend in ("triton", "cuda") and not torch.cuda.is_available():
        return "needs an NVIDIA GPU from sm_80 and a CUDA build of torch"
    return f"build the extension: {_extension.BUILD_COMMAND}"


def _packages() -> Diagnosis:
    absent = [name for name in OPTIONAL if importlib.util.find_spec(name) is None]
    if not absent:
        return Diagnosis("optional packages", GOOD, "all there")
    uses = "; ".join(f"{name}: {OPTIONAL[name]}" for name in absent)
    return Diagnosis("optional packages", GOOD, f"absent: {', '.join(absent)}", uses)


def _computes() -> Diagnosis:
    """Training steps of a bottleneck, stock and fused, against fp64."""
    subject = "a fused training step"
    try:
        stock, fused = (_guarded(step) for step in (lambda: _error(False), lambda: _error(True)))
    except Exception as error:
        advice = "run `fused-resnet selftest`, and report it with this output"
        return Diagnosis(subject, BAD, f"{type(error).__name__}: {error}".splitlines()[0], advice)
    found = f"error {fused:.0e} on {_device()}, stock's {stock:.0e}"
    # written so that NaN is bad, too; both err by roundings, which a GPU makes in tf32
    if fused <= max(4 * stock, 1e-5):
        return Diagnosis(subject, GOOD, found)
    return Diagnosis(subject, BAD, found, "run `fused-resnet selftest`, and report it with this output")


def _guarded(step: Callable[[], float]) -> float:
    with warnings.catch_warnings():  # that the extension is missing is told above
        warnings.simplefilter("ignore", RuntimeWarning)
        return step()


def _error(fused: bool) -> float:
    """Of output and gradients together, relative to their norm, against fp64."""
    from ..convert import fuse
    from ..models.blocks import Bottleneck

    def step(dtype: torch.dtype, device: str) -> torch.Tensor:
        torch.manual_seed(0)
        block = Bottleneck(64, 16)
        for norm in (block.bn1, block.bn2, block.bn3):
            torch.nn.init.constant_(norm.bias, 4.0)  # away from ReLU's kink, where a rounding decides
        block.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = torch.randn(4, 64, 14, 14).to(device, dtype, memory_format=torch.channels_last).requires_grad_()
        if fused and dtype != torch.float64:
            fuse(block)
        out = block(x)
        found = torch.autograd.grad(out.square().mean(), (x, *block.parameters()))
        return torch.cat([t.detach().double().cpu().flatten() for t in (out, *found)])

    truth = step(torch.float64, "cpu")
    return ((step(torch.float32, _device()) - truth).norm() / truth.norm()).item()
