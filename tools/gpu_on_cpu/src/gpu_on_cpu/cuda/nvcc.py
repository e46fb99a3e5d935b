"""CUDA C++ to PTX, by nvcc."""

from __future__ import annotations

import functools
import os
import pathlib
import subprocess
from collections.abc import Mapping, Sequence

from gpu_on_cpu import cache, toolchain
from gpu_on_cpu.cuda.build import options
from gpu_on_cpu.errors import CompilerError
from gpu_on_cpu.resources import target


@functools.cache
def nvcc_version() -> str:
    return subprocess.run([toolchain.cuda_tool("nvcc"), "--version"], capture_output=True, text=True, check=True).stdout


def compile_ptx(
    source: str | os.PathLike[str],
    arch: int = 80,
    include: Sequence[str | os.PathLike[str]] = (),
    defines: Mapping[str, object] | None = None,
    flags: Sequence[str] = (),
) -> str:
    """The PTX that nvcc makes of a source.

    Args:
        source: path of the .cu file. ``#include "cuda/portable.h"`` finds this package's header.
        arch: compute capability times ten; 90 and 100 mean sm_90a and sm_100a.
        include: folders of headers.
        defines: macros; None as a value defines an empty one.
        flags: further options of nvcc.

    Raises:
        CompilerError: nvcc refused the source.
        GpuOnCpuError: there is no nvcc.
    """
    nvcc = toolchain.cuda_tool("nvcc")
    command = [
        str(nvcc),
        "-x",
        "cu",
        "-std=c++17",
        f"-arch={target(arch)}",
        f"-I{toolchain.CPP}",
        *options(include, defines or {}),
        *flags,
    ]
    preprocessed = subprocess.run([*command, "-E", os.fspath(source)], capture_output=True)
    if preprocessed.returncode:
        raise CompilerError(f"{' '.join(command)}\n{preprocessed.stderr.decode(errors='replace')}".strip())

    def make(path: pathlib.Path) -> None:
        toolchain.compile_with([*command, "-ptx", source, "-o", path])

    return cache.cached(f"cuda/{cache.key(preprocessed.stdout, nvcc_version(), *command)}.ptx", make).read_text()
