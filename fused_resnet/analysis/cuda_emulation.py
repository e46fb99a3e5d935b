"""Runs the CUDA C++ backend on CPU tensors: its host code as it is, its kernels by gpu_on_cpu.

    with emulate_cuda(arch=80, seed=1) as records, use_backend("cuda"):
        block(x)
    print(records[0].name, records[0].resources().registers)

The extension for this is built from a source checkout, needs nvcc for PTX, and is kept in gpu_on_cpu's cache.
Nothing of torch that needs CUDA is used.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from unittest import mock

from ..backends import cuda as backend

if TYPE_CHECKING:
    from gpu_on_cpu.cuda import Extension, Record

SOURCES = Path(__file__).parents[2] / "csrc"


def why_not() -> str | None:
    """Why the backend cannot be emulated here, or None."""
    if not (SOURCES / "cuda").is_dir():
        return f"the C++ sources are not in {SOURCES}: use a source checkout"
    try:
        import gpu_on_cpu.cuda  # noqa: F401
    except ImportError as error:
        return f"gpu_on_cpu is not installed ({error})"
    return None


@functools.cache
def extension(sanitizer: str = "none") -> Extension:
    """The CUDA half of the C++ extension, for CPU tensors.

    Args: sanitizer: of the kernels: "none", "address" or "thread"; the others load into a worker only.
    Raises: RuntimeError: it cannot be built here; gpu_on_cpu's CompilerError: it does not compile.
    """
    if why := why_not():
        raise RuntimeError(why)
    from gpu_on_cpu import cuda

    folder = SOURCES / "cuda"
    # what the compiler was asked for is of no interest here
    kernels = [path for path in folder.glob("*.cu") if path.stem != "build_info"]
    sources = sorted([*kernels, *folder.glob("*.cpp")])
    return cuda.extension("fused_resnet_cuda", sources, [SOURCES], {"FUSED_RESNET_EMULATED": None}, sanitizer)


@contextlib.contextmanager
def emulate_cuda(
    mode: Literal["ptx", "source"] = "ptx",
    arch: int = 80,
    seed: int = 0,
    *,
    traffic: bool = False,
    execute: bool = True,
    sanitizer: str = "none",
) -> Iterator[list[Record]]:
    """Within this context, the backend "cuda" runs on CPU tensors.

    Args:
        mode: "ptx": kernels run as nvcc compiles them for `arch`, each launch in a process of its own, with
            every check; "source": as g++ compiles them, in this process, which a fault ends: for a
            `gpu_on_cpu.cuda.Worker`.
        seed: 0 runs all threads in lock step; any other number is a random schedule.
        traffic: count accesses to global memory ("ptx" only).
        execute: False launches nothing: for the resources of the kernels.
        sanitizer: of the kernels' source ("source" only).

    Yields: a list that receives a record for every launch.
    Raises: gpu_on_cpu's KernelFault where a kernel does something undefined.
    """
    from gpu_on_cpu import cuda

    emulated = cuda.emulating(extension(sanitizer), mode, arch, seed, traffic=traffic, execute=execute)
    with (
        emulated as (functions, records),
        mock.patch.object(backend, "extension", lambda: functions),
        mock.patch.object(backend, "launches_on", lambda device_type: device_type == "cpu"),
    ):
        yield records
