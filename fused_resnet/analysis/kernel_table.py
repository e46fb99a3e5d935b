"""What every Triton kernel costs on every architecture, as its compiler says: nothing is run or timed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from ..backends import use_backend
from ..convert import fuse
from .kernel_problems import PROBLEMS, Make, every_configuration
from .traffic import model
from .traffic import training_step as step

ARCHITECTURES = (80, 90, 100, 120)
GEMMS = frozenset(("conv_fprop", "conv_fprop_dual", "conv_dgrad", "folded_dgrad", "conv_wgrad", "gram"))
_TILE = ("BLOCK_M", "BLOCK_N", "BLOCK_C", "BLOCK_K")


@dataclass(frozen=True)
class Kernel:
    """One kernel as compiled for one architecture.

    Attributes:
        name: of the kernel; variant: its compile-time arguments in short.
        registers: per thread; spills: instructions that move registers to local memory and back.
        shared: bytes per block; occupancy: share of a multiprocessor's threads that fit, a bound.
        tensor_core: tensor-core instructions; wide: 16-byte accesses to global memory, of `accesses`.
        seconds: to compile it here.
        why_not: what is wrong with it, "" if nothing.
    """

    arch: int
    name: str
    variant: str
    warps: int
    registers: int
    spills: int
    shared: int
    occupancy: float
    tensor_core: int
    wide: int
    accesses: int
    seconds: float
    why_not: str


def kernels(arch: int, work: Callable[[], Any]) -> list[Kernel]:
    """The distinct kernels that `work` launches, compiled for `arch` and not executed.

    Args: arch: compute capability times ten; work: runs ops on CPU tensors.
    Raises: ModuleNotFoundError without gpu_on_cpu.
    """
    from gpu_on_cpu import emulate

    with _compile_times() as seconds, emulate(arch, execute=False) as records, use_backend("triton"):
        work()
    distinct = {record.ptx: record for record in records}
    made = [_kernel(record, seconds.get(record.metadata.hash, 0.0)) for record in distinct.values()]
    return sorted(made, key=lambda k: (k.name, k.variant))


@contextlib.contextmanager
def _compile_times() -> Iterator[dict[str, float]]:
    """Seconds by hash of every compilation inside; none is taken from Triton's cache on disk."""
    from triton import knobs

    seconds: dict[str, float] = {}

    def listen(*, metadata: dict[str, Any], times: Any, **_: Any) -> None:
        seconds[metadata["hash"]] = times.total / 1e6

    with knobs.compilation.scope():
        knobs.compilation.listener = listen
        knobs.compilation.always_compile = True
        yield seconds


def _kernel(record: Any, seconds: float) -> Kernel:
    r = record.resources()
    wide = sum(n for name, n in r.instructions.items() if _is_global(name) and ".128" in name)
    accesses = sum(n for name, n in r.instructions.items() if _is_global(name))
    return Kernel(
        record.arch,
        record.name,
        _variant(record.constexprs, record.metadata.num_stages),
        record.metadata.num_warps,
        r.registers,
        r.spills,
        r.shared,
        r.occupancy,
        r.tensor_core,
        wide,
        accesses,
        seconds,
        why_not(record, r),
    )


def _is_global(instruction: str) -> bool:
    return instruction.startswith(("LDG", "STG", "LDGSTS"))


def why_not(record: Any, resources: Any) -> str:
    """What keeps a compiled kernel from running, or running well, on its architecture; "" if nothing does."""
    wrong = []
    if resources.spills:
        wrong.append(f"{resources.spills} spills")
    if not resources.fits:
        wrong.append(f"{resources.shared} bytes of shared memory")
    if not resources.blocks_per_sm:
        wrong.append("no block fits a multiprocessor")
    exact = record.constexprs.get("PRECISION") == "ieee"
    if record.name in GEMMS and not exact and not resources.tensor_core:
        wrong.append("no tensor-core instruction")
    return ", ".join(wrong)


def _variant(constexprs: dict[str, Any], stages: int) -> str:
    """Tile, pipeline stages, window and the fused pieces that are there."""
    c = constexprs
    words = ["x".join(str(c[n]) for n in _TILE if n in c), f"stages {stages}"]
    if "R" in c:
        words.append(f"{c['R']}x{c['S']}/{c['STRIDE_H']}")
    words += [name for name in ("FLAT", "X_RELU", "RELU") if c.get(name) is True]
    words += [f"no {name}" for name, value in c.items() if value is None]
    return " ".join(words)


def problems(only: str, dtype: torch.dtype) -> Callable[[], None]:
    """Every problem with `only` in its name in every launch configuration, as work for `kernels`."""

    def work() -> None:
        for problem in PROBLEMS.values():
            if only in problem.name:
                args = problem.arguments(Make(dtype))[0]
                for configuration in every_configuration(problem, args):
                    configuration.run()

    return work


def training_step(network: str, dtype: torch.dtype, batch: int, size: int) -> Callable[[], None]:
    """One fused training step of one of torchvision's ResNets, as work for `kernels`."""

    def work() -> None:
        stock, x, _ = model(network, batch, size)
        for _ in step(fuse(stock).to(dtype), x.to(dtype)):
            pass

    return work
