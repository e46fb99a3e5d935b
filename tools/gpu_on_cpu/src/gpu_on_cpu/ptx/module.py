"""A PTX module as something that can be launched on tensors of the CPU."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import struct
from collections.abc import Callable, Collection, Mapping, Sequence

import torch

from gpu_on_cpu import cache, process, toolchain
from gpu_on_cpu.errors import KernelFault
from gpu_on_cpu.memory import SharedCopies
from gpu_on_cpu.ptx.arguments import (
    Argument,
    areas_of,
    check_arguments,
    parameter_words,
    relocations,
    tensors_of,
    three,
)
from gpu_on_cpu.ptx.parser import Kernel, parse
from gpu_on_cpu.ptx.translate import translate
from gpu_on_cpu.traffic import KINDS, Access, Traffic

# x86-64-v2 is every processor since 2009, with vector minimum and maximum.
FLAGS = (
    "-std=c++20",
    "-march=x86-64-v2",
    "-w",
    "-fno-strict-aliasing",
    "-frounding-math",
    "-ffp-contract=off",
    "-fPIC",
)
FIGURES = len(dataclasses.fields(Access))
RACING_LOAD = "global-memory race: reads another thread's value, no barrier between"
STOP, KEEP, INVERT = range(3)  # what a load gets that races with a store of its block; RacingLoads in cpp/ptx/global.h
HEADER, REGION, PARAMETER = 14, 3, 2  # 64-bit words of the structures in cpp/ptx/main.cpp


def _key(*more: str) -> str:
    """Names a file that is built of the runtime's sources."""
    return cache.key(toolchain.sources("ptx"), *FLAGS, *more, toolchain.cxx(), toolchain.cxx_version())


@functools.cache
def runner() -> pathlib.Path:
    """The program that executes kernels (cpp/ptx/main.cpp with the runtime in it); made once."""
    files = [toolchain.CPP / "ptx" / f for f in ("runtime.cpp", "main.cpp")]
    return cache.cached(
        f"run-{_key()}",
        lambda out: toolchain.compile_with([toolchain.cxx(), *FLAGS, "-O3", "-rdynamic", *files, "-ldl", "-o", out]),
    )


@functools.cache
def api_header(optimize: str) -> pathlib.Path:
    """The folder of the precompiled header that every translated kernel includes; halves the time of small ones."""
    header = toolchain.CPP / "ptx" / "api.h"
    return cache.cached(
        f"api-{_key(optimize)}/ptx/api.h.gch",
        lambda out: toolchain.compile_with([toolchain.cxx(), *FLAGS, optimize, "-x", "c++-header", header, "-o", out]),
    ).parent.parent


@dataclasses.dataclass(frozen=True)
class Launch:
    """What one launch tells besides its results.

    Attributes:
        traffic: global memory accesses per tensor; None if they were not counted.
        collisions: bytes of shared memory that lanes of one warp wrote with different values in one instruction; which
            lane wins is undefined on a GPU, so that what depends on them is not repeatable there.
    """

    traffic: Traffic | None
    collisions: int


class Module:
    """Executable PTX.

    Args:
        ptx: the text of a module, as Triton and nvcc write it, for any architecture from sm_80.
        optimize: optimisation of the C++ that the PTX becomes; "-O0" compiles faster and runs slower.

    Raises:
        Unsupported: something in it is not modelled; names the line.
        CompilerError: the C++ compiler failed.
    """

    def __init__(self, ptx: str, optimize: str = "-O1") -> None:
        self.kernels: dict[str, Kernel] = {k.name: k for k in parse(ptx)}
        self.source = translate(ptx)
        self.optimize = optimize

    @functools.cached_property
    def path(self) -> pathlib.Path:
        """The shared library, from the cache if it is there."""
        header = api_header(self.optimize)
        name = cache.key(self.source, header.name)

        def make(out: pathlib.Path) -> None:
            text = out.with_suffix(".cpp")
            text.write_text(self.source)
            toolchain.compile_with(
                [
                    toolchain.cxx(),
                    *FLAGS,
                    self.optimize,
                    f"-I{header}",
                    f"-I{toolchain.CPP}",
                    "-shared",
                    text,
                    "-o",
                    out,
                ]
            )

        return cache.cached(f"module-{name}.so", make)

    def launch(
        self,
        kernel: str,
        args: Mapping[str, Argument],
        grid: Sequence[int],
        block: Sequence[int],
        dynamic_shared: int = 0,
        *,
        seed: int = 0,
        outputs: Collection[str] | None = None,
        scratch: Mapping[str, int] | None = None,
        traffic: bool = False,
        timeout: float = 60.0,
    ) -> Launch:
        """Runs a kernel once, in a process of its own.

        Args:
            kernel: its name in the PTX.
            args: the parameters in order. A tensor (CPU, any strides) is passed as the address of its first element, a
                number as the parameter's bits, bytes and tensor maps as they are, and a structure's pointers are set.
            grid, block: up to three extents each.
            dynamic_shared: bytes of dynamic shared memory.
            seed: 0 runs all threads in lock step; any other number is a random schedule.
            outputs: names of the tensors that may be written; None: all.
            scratch: names of zero-filled areas behind the arguments (Triton's scratch pointers), with their bytes.
            traffic: count accesses to global memory (several times slower).
            timeout: seconds until the launch counts as a hang.

        Raises:
            ValueError, TypeError: an argument does not fit the kernel's signature; nothing was run.
            KernelFault: the kernel did something undefined. The caller's tensors are as they were.
        """
        given = check_arguments(self.kernels, kernel, args, grid, block, outputs, scratch or {})
        tensors, areas = tensors_of(args), areas_of(args) | dict(scratch or {})
        written = set(tensors) if outputs is None else set(outputs)
        most = len(tensors) + len(areas)
        addresses = len(tensors)  # at most one relocated word for each
        words = HEADER + REGION * most + PARAMETER * len(given) + addresses + FIGURES * len(KINDS) * most

        def attempt(racing_loads: int) -> tuple[SharedCopies, int]:
            copies = SharedCopies(tensors, areas, 8 * words, aligned=traffic)
            moved = relocations(given, copies)
            header = [
                seed,
                int(traffic),
                racing_loads,
                *three(grid),
                *three(block),
                dynamic_shared,
                len(copies.regions),
                len(given),
                len(moved),
                0,
            ]
            regions = [
                w
                for r in copies.regions
                for w in (r.offset, r.size, not (written | set(scratch or ())).isdisjoint(r.members))
            ]
            request = [*header, *regions, *parameter_words(given, copies), *moved]
            copies.write(0, struct.pack(f"<{len(request)}Q", *request))
            command = [os.fspath(runner()), os.fspath(self.path), kernel, str(copies.descriptor)]
            try:
                process.run(command, timeout, descriptors=[copies.descriptor])
            finally:
                copies.close()
            return copies, len(request)

        try:
            copies, requested = attempt(STOP)
        except KernelFault as fault:
            if fault.reason != RACING_LOAD:
                raise
            copies, requested = attempt(KEEP)
            if not _unused(copies, lambda: attempt(INVERT)[0]):
                raise
        reply = copies.all[: 8 * words].view(torch.int64)
        copies.write_back(written)
        counted = _read_traffic(reply[requested:], [r.name for r in copies.regions]) if traffic else None
        return Launch(counted, int(reply[HEADER - 1]))


@functools.lru_cache(maxsize=256)
def module_of(ptx: str, optimize: str) -> Module:
    """The same module for the same text."""
    return Module(ptx, optimize)


def _unused(kept: SharedCopies, inverted: Callable[[], SharedCopies]) -> bool:
    """Whether the results are the same whatever the racing loads got."""
    try:
        other = inverted()
    except KernelFault:
        return False
    return all(
        torch.equal(kept.copy(a), other.copy(b))
        for a, b in zip(kept.regions, other.regions, strict=True)
        if a.storage is not None
    )


def _read_traffic(words: torch.Tensor, names: Sequence[str]) -> Traffic:
    figures = words[: len(names) * len(KINDS) * FIGURES].view(-1, len(KINDS), FIGURES).tolist()
    accesses = {
        (name, kind): Access(*row)
        for name, rows in zip(names, figures, strict=True)
        for kind, row in zip(KINDS, rows, strict=True)
    }
    return Traffic({k: a for k, a in accesses.items() if a.requested})
