"""Do our kernels, in Triton, CUDA C++ and C++ for CPUs, compute what they must on this machine? Checks.

On a GPU its kernels run on it. Without one, those of the CPU run, gpu_on_cpu executes the generated code of
the others on the CPU, for a few problems, and everything that only a GPU can show is listed as not checked.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import use_backend
from ..backends import cpu, engines, unavailable
from ..convert import fuse
from ..models.blocks import BasicBlock, Bottleneck
from ..planner import MEMORY_MODES
from . import cuda_emulation, kernel_truth, profiling
from .kernel_problems import PROBLEMS, Make, Problem, every_configuration, run

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
KERNELS = engines.OWN  # backends of our own kernels
ARCHITECTURES = 80, 90, 100
# One problem of every kind of kernel, for a brief run.
BRIEF = (
    *("bn_act_bwd_reduce-y", "conv_fprop_stats-3x3", "conv_dgrad_reduce-3x3-stride2", "conv_wgrad-1x1"),
    *("gram-relu", "folded_dgrad_reduce-relu", "conv_fprop_dual-relu"),
)


@dataclass(frozen=True)
class Finding:
    """One line of the report. passed: None where it could not be checked; detail: how far off, or why not."""

    check: str
    subject: str
    passed: bool | None
    detail: str


Check = Callable[[], Iterator[Finding]]
CPU_BOUND = 1e-5  # of an op in fp32: one or two passes, 1e-7 times its sums and the condition of its input


def kernels(device: str) -> tuple[str, ...]:
    """The backends whose kernels can be checked on `device`."""
    return (*KERNELS, engines.CPU) if device == "cpu" else KERNELS


def checks(device: str, brief: bool, backends: Sequence[str] = KERNELS) -> list[Check]:
    """The checks of `backends` for `device`: "cuda", or "cpu" to execute the code for `ARCHITECTURES`."""
    names = [n for n in PROBLEMS if n in BRIEF] if brief or device == "cpu" else list(PROBLEMS)
    problems = [PROBLEMS[name] for name in names]
    found: list[Check] = []
    for backend in backends:
        if why := why_not(backend, device):
            found.append(functools.partial(_absent, backend, why))
            continue
        made = _on_cpu(backend, problems) if device == "cpu" else _on_gpu(backend, problems, brief)
        found += [functools.partial(_of_backend, backend, check) for check in made]
    if device == "cpu":
        return [*found, unchecked] if set(backends) & set(KERNELS) else found
    chosen = (functools.partial(check, None) for check in (captured, traced))
    return found if brief else [*found, *chosen, benchmarks]


def why_not(backend: str, device: str) -> str | None:
    """Why the kernels of this backend cannot be checked on `device`, or None."""
    if device == "cuda" or backend == engines.CPU:
        return unavailable(backend)
    return why_not_emulated(backend)


def _absent(backend: str, why: str) -> Iterator[Finding]:
    yield Finding(backend, "everything", None, why)


def _of_backend(backend: str, check: Check) -> Iterator[Finding]:
    for finding in check():
        yield dataclasses.replace(finding, check=f"{backend} {finding.check}")


def _on_gpu(backend: str, problems: list[Problem], brief: bool) -> list[Check]:
    found: list[Check] = [
        functools.partial(parity, backend, problems, DTYPES, "cuda"),
        functools.partial(blocks, backend, "cuda"),
    ]
    more = captured, traced, sanitized, profiled
    return found if brief else [*found, *(functools.partial(check, backend) for check in more)]


def _on_cpu(backend: str, problems: list[Problem]) -> list[Check]:
    if backend == engines.CPU:
        return [
            functools.partial(_cpu_parity, problems),
            *(functools.partial(_cpu_blocks, memory) for memory in MEMORY_MODES),
        ]
    # the C++ sources are the same for all architectures
    architectures = ARCHITECTURES if backend == "triton" else ARCHITECTURES[:1]
    emulated = (functools.partial(_emulated, backend, arch, problems) for arch in architectures)
    return [*emulated, compiled] if backend == "triton" else [*emulated]


def _guarded(check: str, subject: str, body: Callable[[], str]) -> Finding:
    """A finding of `body`, which gives a detail, or raises where something is wrong."""
    try:
        return Finding(check, subject, True, body())
    except Exception as error:  # a kernel that faults is a finding; the checks after it still run
        text = str(error).strip().splitlines() or [""]
        return Finding(check, subject, False, f"{type(error).__name__}: {text[0]}"[:300])


def parity(
    backend: str, problems: Iterable[Problem], dtypes: dict[str, torch.dtype], device: str
) -> Iterator[Finding]:
    """Every problem in every launch configuration against fp64, twice: results must be equal bit for bit."""
    for problem in problems:
        for name, dtype in dtypes.items():
            body = functools.partial(_parity, backend, problem, dtype, device)
            yield _guarded("parity", f"{problem.name} {name}", body)


def _parity(backend: str, problem: Problem, dtype: torch.dtype, device: str) -> str:
    worst, runs = 0.0, 0
    for args in problem.arguments(Make(dtype)):
        there = [a.to(device) if isinstance(a, Tensor) else a for a in args]
        for configuration in every_configuration(problem, there, backend):
            results = configuration.run()
            if not all(map(_same_bits, results, configuration.run())):
                raise AssertionError(f"{configuration.chosen}: two runs differ")
            errors = kernel_truth.check(problem.op, args, [r.cpu() for r in results])
            worst, runs = max(worst, *errors.values()), runs + 1
            if not worst <= 1:
                raise AssertionError(f"{configuration.chosen}: errors in units of what is allowed: {errors}")
    return f"{runs} runs, worst error {worst:.2f} of what is allowed"


def _cpu_parity(problems: Iterable[Problem]) -> Iterator[Finding]:
    """Every problem that the CPU's kernels take, in fp32."""
    for problem in problems:
        yield _guarded("parity", f"{problem.name} fp32", functools.partial(_cpu_problem, problem))


def _cpu_problem(problem: Problem) -> str:
    """Norm-wise against the reference on the same numbers in fp64."""
    worst, runs = 0.0, 0
    for args in problem.arguments(Make(torch.float32)):
        if cpu.refuses(problem.op, tuple(args)) is not None:
            continue
        results = run(problem.op, args, engines.CPU)
        if not all(map(_same_bits, results, run(problem.op, args, engines.CPU))):
            raise AssertionError("two runs differ")
        truth = run(problem.op, [a.double() if isinstance(a, Tensor) else a for a in args], "reference")
        worst, runs = max(worst, *map(_error_of, results, truth)), runs + 1
        if not worst <= CPU_BOUND:
            raise AssertionError(f"relative error {worst:.1e}, at most {CPU_BOUND:.0e}")
    return f"{runs} runs, worst relative error {worst:.1e}" if runs else "left to the library"


def _error_of(got: Tensor, want: Tensor) -> float:
    return ((got.double() - want.double()).norm() / want.double().norm()).item()


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(_bytes(a), _bytes(b))


def _bytes(t: Tensor) -> Tensor:
    """In canonical strides: `contiguous` leaves those of dimensions of size 1 as they are."""
    return t.clone(memory_format=torch.contiguous_format).view(torch.uint8)


def _block(kind: str) -> tuple[nn.Module, int]:
    """A stock block and how many channels it reads."""

    def projection(stride: int, channels: int, out: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    made = {
        "basic, identity": lambda: (BasicBlock(64, 64), 64),
        "basic, projection": lambda: (BasicBlock(64, 128, 2, projection(2, 64, 128)), 64),
        "bottleneck, identity": lambda: (Bottleneck(64, 16), 64),
        "bottleneck, projection": lambda: (Bottleneck(64, 32, 2, projection(2, 64, 128)), 64),
    }
    return made[kind]()


BLOCKS = ("basic, identity", "basic, projection", "bottleneck, identity", "bottleneck, projection")


def _step(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, input gradient and parameter gradients of one training step."""
    x = x.detach().requires_grad_()
    out = module(x)
    weights = torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out)
    gradients = torch.autograd.grad(out, (x, *module.parameters()), weights.to(out.dtype))
    return [out.detach(), *gradients]


def _error(got: list[Tensor], want: list[Tensor]) -> float:
    """Error of everything together, relative to its norm."""
    off = sum((a.double() - b.double()).square().sum() for a, b in zip(got, want, strict=True))
    return (off / sum(b.double().square().sum() for b in want)).sqrt().item()  # type: ignore[union-attr]


def blocks(
    backend: str, device: str, kinds: Iterable[str] = BLOCKS, size: int = 14, batch: int = 4
) -> Iterator[Finding]:
    """Whole blocks in bf16, forward and backward: no further from fp64 than twice what stock is."""
    for kind in kinds:
        body = functools.partial(_compare_block, backend, kind, device, size, batch)
        yield _guarded("block", kind, body)


def _cpu_blocks(memory: str) -> Iterator[Finding]:
    """The same in fp32 by the CPU's kernels."""
    for kind in BLOCKS:
        body = functools.partial(_compare_block, engines.CPU, kind, "cpu", 14, 4, torch.float32, memory)
        yield _guarded(f"block, memory={memory!r}", kind, body)


def _compare_block(
    backend: str,
    kind: str,
    device: str,
    size: int,
    batch: int,
    dtype: torch.dtype = torch.bfloat16,
    memory: str = "balanced",
) -> str:
    torch.manual_seed(0)
    stock, channels = _block(kind)
    stock = stock.to(device, dtype).to(memory_format=torch.channels_last)
    # away from ReLU's kink, where a rounding decides about a whole gradient, in stock code as in ours
    for m in stock.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.constant_(m.bias, 4.0)
    x = torch.randn(batch, channels, size, size).to(device, dtype).to(memory_format=torch.channels_last)
    truth = _step(copy.deepcopy(stock).double(), x.double())
    with use_backend(backend):
        ours = _error(_step(fuse(copy.deepcopy(stock), memory=memory), x), truth)
    theirs = _error(_step(stock, x), truth)
    if not ours <= 2 * theirs:
        raise AssertionError(f"error {ours:.2e}, stock {theirs:.2e}")
    return f"error {ours:.2e}, stock {theirs:.2e}"


def _on(backend: str | None) -> contextlib.AbstractContextManager:
    """None: whichever was measured to be fastest."""
    return contextlib.nullcontext() if backend is None else use_backend(backend)


def captured(backend: str | None) -> Iterator[Finding]:
    """A CUDA graph of a training step: no kernel may make the host wait, and replays give the same bits."""
    with _on(backend):
        finding = _guarded("CUDA graph", "training step of a bottleneck", _capture)
    yield finding


def _capture() -> str:
    module, channels = _block("bottleneck, projection")
    module = fuse(module).to("cuda", torch.bfloat16).to(memory_format=torch.channels_last)
    x = torch.randn(8, channels, 28, 28, device="cuda", dtype=torch.bfloat16).to(
        memory_format=torch.channels_last
    )
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compiles and measures what has to be, before the capture
        eager = _step(module, x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        static = _step(module, x)
    graph.replay()
    torch.cuda.synchronize()
    if not all(map(_same_bits, eager, static)):
        raise AssertionError("a replay differs from the eager step")
    return "replay equals eager bit for bit"


def traced(backend: str | None) -> Iterator[Finding]:
    """torch.compile of a fused block."""
    with _on(backend):
        finding = _guarded("torch.compile", "training step of a bottleneck, fullgraph", _trace)
    yield finding


def _trace() -> str:
    module, channels = _block("bottleneck, identity")
    module = fuse(module).to("cuda", torch.bfloat16).to(memory_format=torch.channels_last)
    x = torch.randn(8, channels, 28, 28, device="cuda", dtype=torch.bfloat16).to(
        memory_format=torch.channels_last
    )
    eager = _step(module, x)  # first: measures engines, which a compiled graph takes as it finds them
    error = _error(_step(torch.compile(module, fullgraph=True), x), eager)  # type: ignore[arg-type]
    if not error <= 1e-3:
        raise AssertionError(f"differs from eager by {error:.2e}")
    return f"differs from eager by {error:.1e}"


def sanitized(backend: str) -> Iterator[Finding]:
    """The brief parity checks under NVIDIA's memory and race checkers."""
    tool = shutil.which("compute-sanitizer")
    for kind in ("memcheck", "racecheck", "initcheck", "synccheck"):
        if tool is None:
            yield Finding("compute-sanitizer", kind, None, "compute-sanitizer is not on the PATH")
            continue
        checked = [tool, "--tool", kind, "--error-exitcode", "1", sys.executable, "-m", "fused_resnet"]
        brief = ["selftest", "--device", "cuda", "--brief", "--backend", backend]
        body = functools.partial(_run, [*checked, *brief])
        yield _guarded("compute-sanitizer", kind, body)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(" | ".join((done.stdout + done.stderr).strip().splitlines()[-5:]))
    return "no error"


def profiled(backend: str) -> Iterator[Finding]:
    """What NVIDIA's profiler counts of a kernel of every kind: no check, figures for the report."""
    subject, tool = "bytes, occupancy, bank conflicts", shutil.which("ncu")
    if tool is None:
        yield Finding("ncu", subject, None, "ncu is not on the PATH")
        return
    try:
        for kernel, counted in profiling.profile(tool, backend).items():
            yield Finding("ncu", kernel, True, counted)
    except RuntimeError as error:  # often it is not permitted to count
        yield Finding("ncu", subject, None, str(error)[:300])


def benchmarks() -> Iterator[Finding]:
    """The benchmark suite; its results go into the report."""
    yield _guarded("benchmarks", "training and inference, bf16", _benchmark)


def _benchmark() -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results.json"
        where = ["--device", "cuda", "--dtype", "bf16", "--batch", "64", "--level", "block"]
        less = ["--rounds", "7", "--skip", "torch.compile max-autotune", "--output", str(path)]
        _run([sys.executable, "-m", "fused_resnet", "bench", "run", *where, *less])
        return path.read_text()


# ---- without a GPU


def _emulated(backend: str, arch: int, problems: list[Problem]) -> Iterator[Finding]:
    """The generated code for one architecture, executed on the CPU."""
    with _emulation(backend, arch):
        of_ops = parity(backend, problems, {"bf16": torch.bfloat16}, "cpu")
        made = (*of_ops, *blocks(backend, "cpu", BLOCKS[-1:], 5, 2))
    for finding in made:
        yield dataclasses.replace(finding, check=f"{finding.check}, code for sm_{arch} on the CPU")


def _emulation(backend: str, arch: int) -> contextlib.AbstractContextManager:
    if backend == "cuda":
        return cuda_emulation.emulate_cuda(arch=arch, seed=1)
    from gpu_on_cpu import emulate

    return emulate(arch, seed=1)


def compiled() -> Iterator[Finding]:
    """Registers, shared memory and instructions of a training step's kernels."""
    from .kernel_table import ARCHITECTURES, kernels, training_step

    for arch in ARCHITECTURES:
        yield _guarded("compile gates", f"sm_{arch}", functools.partial(_gates, kernels, training_step, arch))


def _gates(kernels: Any, training_step: Any, arch: int) -> str:
    found = kernels(arch, training_step("resnet18", torch.bfloat16, batch=2, size=64))
    if wrong := [f"{k.name} {k.variant}: {k.why_not}" for k in found if k.why_not]:
        raise AssertionError("; ".join(wrong))
    return f"{len(found)} kernels of ResNet-18's training step: no spills, within all limits"


def unchecked() -> Iterator[Finding]:
    """What only a GPU can show."""
    why = "needs an NVIDIA GPU from sm_80"
    for subject in (
        "the machine code that ptxas makes, on hardware",
        "every problem, dtype and configuration (`make verify` in a source checkout executes all their PTX)",
        "CUDA graphs, torch.compile with real kernels",
        "compute-sanitizer",
        "speed",
    ):
        yield Finding("not checked", subject, None, why)


def why_not_emulated(backend: str) -> str | None:
    """Why the backend's code cannot be executed here, or None."""
    for name in ("torchvision", "gpu_on_cpu", *(["triton"] if backend == "triton" else [])):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed"
    if backend == "cuda":
        return cuda_emulation.why_not() or (None if shutil.which("nvcc") else "nvcc is not on the PATH")
    with contextlib.suppress(ImportError):
        import gpu_on_cpu.triton  # noqa: F401

        return None
    return "gpu_on_cpu does not import"
