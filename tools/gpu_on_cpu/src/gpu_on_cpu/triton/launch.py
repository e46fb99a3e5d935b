"""Compile a Triton kernel for an architecture that is not here, execute it once, and report."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

from triton.compiler import CompiledKernel
from triton.runtime.autotuner import Autotuner, Heuristics
from triton.runtime.jit import JITFunction

from gpu_on_cpu.ptx.module import Launch
from gpu_on_cpu.resources import Resources
from gpu_on_cpu.traffic import Traffic
from gpu_on_cpu.triton.driver import Record, emulate

Kernel: TypeAlias = JITFunction | Autotuner | Heuristics
Grid = Sequence[int] | Callable[[Mapping[str, Any]], Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Run:
    """What `run` returns; the results are in the caller's tensors.

    Attributes:
        traffic: accesses to global memory per tensor; None if not asked for.
        resources: registers, spills, shared memory, tensor memory, machine instructions (runs cuobjdump when asked).
        collisions: bytes of shared memory whose value depends on which lane of a warp wins a store.
        ptx: the generated code.
        seconds: the execution alone.
    """

    record: Record

    @functools.cached_property
    def resources(self) -> Resources:
        return self.record.resources()

    @property
    def traffic(self) -> Traffic | None:
        return self._launch.traffic

    @property
    def collisions(self) -> int:
        return self._launch.collisions

    @property
    def _launch(self) -> Launch:
        assert self.record.launch is not None, "run executes"
        return self.record.launch

    @property
    def ptx(self) -> str:
        return self.record.ptx

    @property
    def seconds(self) -> float:
        return self.record.seconds


def by_name(kernel: Kernel, args: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    """The arguments by name.

    Raises:
        TypeError: `kernel` is no Triton kernel, or an argument is not one of its parameters.
    """
    if not isinstance(kernel, Kernel):
        raise TypeError(f"kernel must be a @triton.jit function, got {type(kernel).__name__}")
    names = list(kernel.arg_names)
    if isinstance(args, Mapping):
        unknown = [n for n in args if n not in names]
        if unknown:
            raise TypeError(f"args: {unknown} are not parameters of the kernel, which has {names}")
        return dict(args)
    if len(args) > len(names):
        raise TypeError(f"args: {len(args)} values were given for {len(names)} parameters")
    return dict(zip(names, args, strict=False))


def configured(kernel: Kernel, config: int, arguments: Mapping[str, Any]) -> tuple[JITFunction, dict[str, Any]]:
    """The plain kernel under its decorators, and the arguments that configuration and heuristics add."""
    added: dict[str, Any] = {}
    while not isinstance(kernel, JITFunction):
        if isinstance(kernel, Autotuner):
            if not 0 <= config < len(kernel.configs):
                raise ValueError(f"config must be below {len(kernel.configs)}, got {config}")
            chosen = kernel.configs[config]
            added |= chosen.all_kwargs()
            if chosen.pre_hook:
                chosen.pre_hook({**arguments, **added})
        else:
            added |= {name: heuristic({**arguments, **added}) for name, heuristic in kernel.values.items()}
        kernel = kernel.fn
    return kernel, added


def run(
    kernel: Kernel,
    args: Mapping[str, Any] | Sequence[Any],
    grid: Grid,
    arch: int = 90,
    seed: int = 0,
    *,
    outputs: Collection[str] | None = None,
    traffic: bool = True,
    config: int = 0,
    timeout: float = 120.0,
    optimize: str = "-O1",
    **constexprs: Any,
) -> Run:
    """Compiles a kernel as a launch on a GPU would, executes the generated code on the CPU, and reports.

    Equivalent to ``kernel[grid](*args, **constexprs)`` on a GPU of that architecture: the arguments are specialised
    the same way (divisibility by 16, equality to 1, alignment of pointers), and the tensors are changed in place.

    Args:
        kernel: a @triton.jit function, also under @triton.autotune or @triton.heuristics.
        args: CPU tensors, numbers, tensor descriptors; by name, or in the order of the kernel's parameters.
        grid: up to three numbers of programs, or a function of the arguments and constexprs.
        arch: 80, 86, 89, 90 (sm_90a), 100 (sm_100a), 120 (sm_120a).
        seed: 0 runs all threads in lock step; any other number is a random schedule.
        outputs: names of the tensors that may be written; None: all.
        traffic: count accesses to global memory (several times slower).
        config: which configuration of an autotuned kernel.
        timeout: seconds until the launch counts as a hang.
        optimize: optimisation of the C++ that the PTX becomes; "-O0" compiles faster.
        constexprs: the kernel's compile-time arguments, and num_warps, num_stages and Triton's other options.

    Raises:
        TypeError, ValueError: an argument does not fit; nothing was run.
        Unsupported: the generated code has something that is not modelled.
        KernelFault: the kernel did something undefined; the tensors are as they were.
    """
    arguments = by_name(kernel, args)
    if outputs is not None and (unknown := [n for n in outputs if n not in arguments]):
        raise ValueError(f"outputs: {unknown} are not among the arguments {list(arguments)}")
    plain, added = configured(kernel, config, arguments | constexprs)
    with emulate(arch, seed, outputs=outputs, traffic=traffic, timeout=timeout, optimize=optimize) as records:
        plain[grid](**arguments, **added, **constexprs)
    if not records:
        raise ValueError(f"grid must be positive, got {grid}")
    return Run(records[0])


def compile_kernel(
    kernel: Kernel,
    args: Mapping[str, Any] | Sequence[Any],
    arch: int = 90,
    *,
    config: int = 0,
    **constexprs: Any,
) -> CompiledKernel:
    """Compiles a kernel for these arguments without running it; `asm["ptx"]` and `asm["cubin"]` hold the code."""
    arguments = by_name(kernel, args)
    plain, added = configured(kernel, config, arguments | constexprs)
    with emulate(arch):
        return plain.warmup(grid=(1,), **arguments, **added, **constexprs)
