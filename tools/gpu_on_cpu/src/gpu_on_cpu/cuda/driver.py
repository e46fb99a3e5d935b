"""Executes the launches of an emulated extension: in fibers of its own process, or from the PTX that nvcc makes."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import math
import pathlib
import re
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpu_on_cpu import cache, resources, toolchain
from gpu_on_cpu.cuda.extensions import Extension
from gpu_on_cpu.errors import KernelFault
from gpu_on_cpu.memory import span_bytes
from gpu_on_cpu.ptx.arguments import Struct
from gpu_on_cpu.ptx.module import Launch, module_of

Mode = Literal["ptx", "source"]
Extents = tuple[int, int, int]

# cudaError_t; RUN_IT_HERE is of cpp/cuda/control.h
SUCCESS, INVALID_VALUE, INVALID_CONFIGURATION, LAUNCH_FAILURE, RUN_IT_HERE = 0, 1, 9, 719, -1
GRID_LIMIT = (2**31 - 1, 65535, 65535)
_HANDLER = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_size_t,
    ctypes.POINTER(ctypes.c_uint * 3),
    ctypes.POINTER(ctypes.c_uint * 3),
    ctypes.c_size_t,
    ctypes.c_void_p,
    ctypes.c_size_t,
)


@dataclasses.dataclass(frozen=True)
class Record:
    """One launch.

    Attributes:
        symbol: the kernel's mangled name.
        grid, block: extents in three dimensions.
        shared: bytes of dynamic shared memory.
        launch: traffic and collisions; None if it was not executed from PTX. The tensors that the kernel's parameter
            points to are called "params[OFFSET]".
        seconds: to run it, compilation included.
        arch: 80, ...
    """

    symbol: str
    grid: Extents
    block: Extents
    shared: int
    launch: Launch | None
    seconds: float
    arch: int
    extension: Extension = dataclasses.field(repr=False)

    @property
    def signature(self) -> str:
        """The name as in C++, with template arguments and parameters."""
        return demangled(self.symbol)

    @property
    def name(self) -> str:
        """The name alone, without namespaces and template arguments."""
        return short(self.signature)

    @property
    def ptx(self) -> str:
        """The kernel's own module; the lines that faults name are counted here."""
        return self.extension.ptx(self.symbol, self.arch)

    def resources(self, arch: int | None = None) -> resources.Resources:
        """Registers, spills, shared memory, machine instructions on `arch`, or on that of the launch (runs ptxas)."""
        arch = self.arch if arch is None else arch
        cubin = _cubin(self.extension.ptx(self.symbol, arch), arch)
        return _resources(cubin, self.symbol, arch, math.prod(self.block), self.shared)


@functools.cache
def demangled(symbol: str) -> str:
    return subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=True).stdout.strip()


def short(signature: str) -> str:
    """ "void a::b<c::d, 3>(e::f<int>)" -> "b"."""
    before = re.sub(r"\(anonymous namespace\)::", "", signature)
    while "<" in before:
        before, inner = re.subn(r"<[^<>]*>", "", before)
        if not inner:
            break
    return re.split(r"[\s:]+", before.partition("(")[0].strip())[-1]


def _cubin(ptx: str, arch: int) -> bytes:
    def make(path: pathlib.Path) -> None:
        source = path.with_suffix(".ptx")
        source.write_text(ptx)
        toolchain.compile_with(
            [toolchain.cuda_tool("ptxas"), f"-arch={resources.target(arch)}", "-O3", source, "-o", path]
        )

    return cache.cached(f"cuda/{cache.key(ptx, resources.target(arch))}.cubin", make).read_bytes()


@functools.cache
def _resources(cubin: bytes, symbol: str, arch: int, threads: int, shared: int) -> resources.Resources:
    return resources.of_cubin(cubin, symbol, arch, threads=threads, shared=shared)


class _Seen(TorchDispatchMode):
    """Keeps every tensor that operators give while an op runs: its kernels may touch these and its arguments."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        super().__init__()
        self.tensors = tensors

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.tensors += _tensors(result)
        return result


def _tensors(values: Any) -> list[torch.Tensor]:
    return [t for t in tree_leaves(values) if isinstance(t, torch.Tensor) and t.device.type == "cpu"]


def pointers_in(params: bytes, tensors: list[torch.Tensor]) -> dict[int, tuple[torch.Tensor, int]]:
    """The words of a structure that point into tensors: offset -> the widest such tensor, and how far into it."""
    known = sorted(((t.data_ptr(), span_bytes(t), t) for t in tensors), key=lambda k: -k[1])
    found = {}
    for i, (address,) in enumerate(struct.iter_unpack("<Q", params[: len(params) // 8 * 8])):
        for start, size, tensor in known:
            if start <= address < start + size:
                found[8 * i] = tensor, address - start
                break
    return found


@dataclasses.dataclass
class Driver:
    """Stands where the GPU is: gets the launches of one extension.

    Attributes:
        tensors: what the running op was given and has made.
        error: what went wrong in a launch, to be raised when the op has ended.
    """

    extension: Extension
    mode: Mode
    arch: int
    seed: int
    traffic: bool
    timeout: float
    optimize: str
    execute: bool
    records: list[Record] = dataclasses.field(default_factory=list)
    tensors: list[torch.Tensor] = dataclasses.field(default_factory=list)
    error: BaseException | None = None

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a function of the extension."""
        self.tensors, self.error = _tensors((args, kwargs)), None
        try:
            with _Seen(self.tensors):
                result = function(*args, **kwargs)
        except Exception:
            if self.error:
                raise self.error from None
            raise
        finally:
            self.tensors = []
        if self.error:
            raise self.error
        return result

    def handle(self, kernel: int, grid: Any, block: Any, shared: int, params: int, size: int) -> int:
        """What `portable::launch` calls."""
        try:
            data = ctypes.string_at(params, size)
            symbol = self.extension.kernel_at(kernel)
            return self._launch(symbol, tuple(grid.contents), tuple(block.contents), shared, data)
        except BaseException as error:
            self.error = error
            return LAUNCH_FAILURE

    def _launch(self, symbol: str, grid: Extents, block: Extents, shared: int, params: bytes) -> int:
        if any(not 1 <= n <= most for n, most in zip(grid, GRID_LIMIT, strict=True)) or math.prod(block) > 1024:
            return INVALID_CONFIGURATION
        if shared > resources.SHARED_LIMIT[self.arch]:
            return INVALID_VALUE
        start = time.perf_counter()
        by_ptx = self.mode == "ptx" and self.execute
        done = self._execute(symbol, grid, block, shared, params) if by_ptx else None
        seconds = time.perf_counter() - start
        self.records.append(Record(symbol, grid, block, shared, done, seconds, self.arch, self.extension))
        return RUN_IT_HERE if self.mode == "source" and self.execute else SUCCESS

    def _execute(self, symbol: str, grid: Extents, block: Extents, shared: int, params: bytes) -> Launch:
        ptx = self.extension.ptx(symbol, self.arch)
        bound = re.search(r"\.maxntid\s+(\d+)(?:,\s*(\d+))?(?:,\s*(\d+))?", ptx)
        if bound and math.prod(block) > math.prod(int(n or 1) for n in bound.groups()):
            raise KernelFault(
                f"launch: {math.prod(block)} threads, compiled for at most {bound[1]} (__launch_bounds__)"
            )
        structure = Struct(params, pointers_in(params, self.tensors))
        return module_of(ptx, self.optimize).launch(
            symbol,
            {"params": structure},
            grid,
            block,
            shared,
            seed=self.seed,
            traffic=self.traffic,
            timeout=self.timeout,
        )


@contextlib.contextmanager
def emulating(
    extension: Extension,
    mode: Mode = "ptx",
    arch: int = 80,
    seed: int = 0,
    *,
    traffic: bool = False,
    timeout: float = 120.0,
    optimize: str = "-O1",
    execute: bool = True,
) -> Iterator[tuple[Any, list[Record]]]:
    """Within this context, the functions of an emulated extension run on CPU tensors, kernels and all.

    Args:
        extension: what `gpu_on_cpu.cuda.extension` built.
        mode: "ptx": every launch runs the code that nvcc generates for `arch`, in a process of its own, with all checks
            of `gpu_on_cpu.Module`. "source": kernels run in this process as the C++ compiler made them; a fault ends
            it, so that this is for a `Worker`.
        seed: 0 runs all threads in lock step; any other number is a random schedule.
        traffic: count accesses to global memory ("ptx" only; several times slower).
        timeout: seconds until a launch counts as a hang ("ptx" only).
        optimize: optimisation of the C++ that the PTX becomes.
        execute: False records launches and runs none: for their resources.

    Yields:
        The functions of the module, as attributes, and a list that receives one record for every launch.

    Raises:
        KernelFault: a kernel did something undefined; the tensors of that launch are as they were.
        Unsupported: the generated code has something that is not modelled.
    """
    if mode not in ("ptx", "source"):
        raise ValueError(f"mode is 'ptx' or 'source', not {mode!r}")
    if arch not in resources.SHARED_LIMIT:
        raise ValueError(f"arch must be one of {sorted(resources.SHARED_LIMIT)}, got {arch!r}")
    driver = Driver(extension, mode, arch, seed, traffic, timeout, optimize, execute)
    functions = {
        name: functools.partial(driver.call, function)
        for name, function in vars(extension.load()).items()
        if callable(function) and not name.startswith("_")
    }
    with _handled(extension.library, driver):
        yield SimpleNamespace(**functions), driver.records


_open: dict[str, list[tuple[Any, int]]] = {}  # library -> handler and seed of every open context, innermost last


@contextlib.contextmanager
def _handled(library: ctypes.CDLL, driver: Driver) -> Iterator[None]:
    """Sends the launches of a library to a driver; afterwards to the one before."""

    def install(handler: Any, seed: int) -> None:
        library.gpu_on_cpu_seed(seed)
        library.gpu_on_cpu_launch_handler(handler)

    contexts = _open.setdefault(library._name, [(_HANDLER(), 0)])
    contexts.append((_HANDLER(driver.handle), driver.seed))
    install(*contexts[-1])
    try:
        yield
    finally:
        contexts.pop()
        install(*contexts[-1])
