"""A Triton driver for a GPU that is not here: kernels compile for it, and launches are executed on the CPU."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime import driver as active_driver
from triton.runtime.autotuner import Autotuner

from gpu_on_cpu import resources
from gpu_on_cpu.errors import Unsupported
from gpu_on_cpu.ptx.module import Launch, module_of
from gpu_on_cpu.triton.arguments import launch, parameters


@dataclasses.dataclass(frozen=True)
class Settings:
    arch: int
    seed: int
    outputs: Collection[str] | None
    traffic: bool
    timeout: float
    optimize: str
    execute: bool


@dataclasses.dataclass(frozen=True)
class Record:
    """One launch.

    Attributes:
        name: of the kernel.
        grid: number of programs in three dimensions.
        launch: traffic and collisions; None if it was not executed.
        seconds: to run it; translating and compiling is in `module`.
        constexprs: the kernel's compile-time arguments, those among them that Triton made so (None, 1).
    """

    name: str
    grid: tuple[int, int, int]
    launch: Launch | None
    seconds: float
    constexprs: Mapping[str, Any]
    ptx: str
    cubin: bytes
    metadata: Any
    arch: int

    def resources(self) -> resources.Resources:
        """Registers, spills, shared and tensor memory, machine instructions (runs cuobjdump)."""
        m = self.metadata
        columns = getattr(m, "tmem_size", 0) or 0
        return resources.of_cubin(
            self.cubin, m.name, self.arch, threads=m.num_warps * 32, shared=m.shared, tensor_memory=columns
        )


class Launcher:
    """Stands where Triton's compiled launcher does: called with the grid and the kernel's arguments."""

    def __init__(self, src: Any, metadata: Any, settings: Settings, records: list[Record]) -> None:
        self.src, self.metadata, self.settings, self.records = src, metadata, settings, records

    def __call__(
        self,
        x: int,
        y: int,
        z: int,
        stream: Any,
        kernel: Binary,
        packed: Any,
        launch_metadata: Any,
        enter: Any,
        leave: Any,
        *values: Any,
    ) -> None:
        meta, s = self.metadata, self.settings
        if getattr(meta, "num_ctas", 1) > 1:
            raise Unsupported("clusters of several blocks (num_ctas > 1)")
        grid = (x, y, z)
        if not math.prod(grid):
            return
        start = time.perf_counter()
        done = self._execute(grid, kernel, values) if s.execute else None
        names = list(self.src.signature)
        self.records.append(
            Record(
                meta.name,
                grid,
                done,
                time.perf_counter() - start,
                {names[path[0]]: value for path, value in self.src.constants.items() if len(path) == 1},
                kernel.ptx,
                kernel.cubin,
                meta,
                s.arch,
            )
        )

    def _execute(self, grid: tuple[int, int, int], kernel: Binary, values: Sequence[Any]) -> Launch:
        s = self.settings
        args = parameters(self.src, self.metadata, values)
        return launch(
            module_of(kernel.ptx, s.optimize),
            self.metadata,
            args,
            grid,
            seed=s.seed,
            outputs=None if s.outputs is None else [n for n in s.outputs if n in args],
            traffic=s.traffic,
            timeout=s.timeout,
        )


@dataclasses.dataclass(frozen=True)
class Binary:
    """What Triton takes for the handle of a loaded kernel."""

    ptx: str
    cubin: bytes


class Driver:
    """The part of Triton's driver interface that compiling and launching use."""

    def __init__(self, settings: Settings, records: list[Record]) -> None:
        self.settings = settings
        self.launcher_cls: Callable[..., Launcher] = functools.partial(Launcher, settings=settings, records=records)
        self.utils = SimpleNamespace(get_device_properties=self._properties, unload_module=lambda module: None)

    def _properties(self, device: int) -> dict[str, int]:
        arch = self.settings.arch
        return {
            "max_shared_mem": resources.SHARED_LIMIT[arch],
            "max_num_regs": resources.REGISTERS_PER_SM,
            "multiprocessor_count": {80: 108, 90: 132, 100: 148}.get(arch, 128),
            "warpSize": 32,
        }

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.settings.arch, 32)

    def get_current_device(self) -> int:
        """Triton keeps compiled kernels by device, so every architecture is a device of its own."""
        return self.settings.arch

    def set_current_device(self, device: int) -> None:
        pass

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> Callable[..., float]:
        raise Unsupported("timing a kernel: there is no GPU")


def _first_configuration(self: Autotuner, *args: Any, config: Any, **kwargs: Any) -> list[float]:
    """In place of Autotuner._bench: all configurations are equally fast, so that the first one is taken."""
    return [0.0, 0.0, 0.0]


@contextlib.contextmanager
def emulate(
    arch: int = 90,
    seed: int = 0,
    *,
    outputs: Collection[str] | None = None,
    traffic: bool = False,
    timeout: float = 120.0,
    optimize: str = "-O1",
    execute: bool = True,
) -> Iterator[list[Record]]:
    """Within this context, launches of Triton kernels on CPU tensors are compiled for `arch` and executed.

    Code that launches kernels as usual (``kernel[grid](x, y, n, BLOCK=128)``) runs unchanged. An autotuned kernel
    takes its first configuration.

    Args:
        arch: 80, 86, 89, 90 (sm_90a), 100 (sm_100a), 120 (sm_120a).
        seed: 0 runs all threads in lock step; any other number is a random schedule.
        outputs: names of the arguments that may be written; None: all.
        traffic: count accesses to global memory (several times slower).
        timeout: seconds until a launch counts as a hang.
        optimize: optimisation of the C++ that the PTX becomes.
        execute: False compiles every kernel for the arguments it gets, but runs none: for their resources.

    Yields:
        A list that receives one record for every launch.

    Raises:
        Unsupported: the generated code has something that is not modelled.
        KernelFault: the kernel did something undefined; the tensors of that launch are as they were.
        ValueError: unknown architecture.
    """
    if arch not in resources.SHARED_LIMIT:
        raise ValueError(f"arch must be one of {sorted(resources.SHARED_LIMIT)}, got {arch!r}")
    records: list[Record] = []
    driver = Driver(Settings(arch, seed, outputs, traffic, timeout, optimize, execute), records)
    before = active_driver._active
    active_driver.set_active(driver)
    try:
        with (
            mock.patch.object(CompiledKernel, "_init_handles", _load),
            mock.patch.object(
                CompiledKernel,
                "run",
                property(lambda self: active_driver.active.launcher_cls(self.src, self.metadata)),
            ),
            mock.patch.object(CompiledKernel, "n_regs", property(lambda self: _resources(self).registers), create=True),
            mock.patch.object(
                CompiledKernel, "n_spills", property(lambda self: _resources(self).stack // 4), create=True
            ),
            mock.patch.object(Autotuner, "_bench", _first_configuration),
        ):
            yield records
    finally:
        active_driver._active = before


def _resources(kernel: CompiledKernel) -> resources.Resources:
    """What Triton asks the driver when it loads a kernel; host code chooses grids by it."""
    return resources.of_cubin(kernel.asm["cubin"], kernel.metadata.name, active_driver.active.settings.arch)


def _load(self: CompiledKernel) -> None:
    """In place of CompiledKernel._init_handles: nothing is loaded, and a launch carries the code itself."""
    self.function = Binary(self.asm["ptx"], self.asm["cubin"])
