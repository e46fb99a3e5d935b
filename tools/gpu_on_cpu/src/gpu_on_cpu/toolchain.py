"""The compilers this package calls, and where they are."""

from __future__ import annotations

import functools
import importlib.util
import os
import pathlib
import shutil
import subprocess
from collections.abc import Sequence

from gpu_on_cpu.errors import CompilerError, GpuOnCpuError

CPP = pathlib.Path(__file__).parent / "cpp"


def compile_with(command: Sequence[str | os.PathLike[str]]) -> None:
    """Runs a compiler; what it prints becomes a CompilerError if it fails."""
    words = [os.fspath(c) for c in command]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise CompilerError(f"{' '.join(words)}\n{done.stdout}{done.stderr}".strip())


@functools.cache
def cxx() -> str:
    """The C++ compiler: $CXX, or g++. C++20 on x86-64."""
    found = shutil.which(os.environ.get("CXX", "g++"))
    if not found:
        raise GpuOnCpuError("no C++ compiler: install g++ 12 or newer, or name one in $CXX")
    return found


@functools.cache
def cxx_version() -> str:
    return subprocess.run([cxx(), "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


@functools.cache
def sources(folder: str) -> bytes:
    """The text of all C++ files of a folder of cpp/ and of fibers/, for cache keys."""
    files = sorted([*(CPP / folder).iterdir(), *(CPP / "fibers").iterdir()])
    return b"".join(f.read_bytes() for f in files if f.is_file())


@functools.cache
def cuda_tool(name: str) -> pathlib.Path:
    """An executable of the CUDA toolkit (nvcc, ptxas, cuobjdump): in $CUDA_HOME/bin, $PATH, or Triton's own copy.

    Raises:
        GpuOnCpuError: it is nowhere to be found.
    """
    folders = [pathlib.Path(os.environ["CUDA_HOME"]) / "bin"] if "CUDA_HOME" in os.environ else []
    folders += [pathlib.Path(p) for p in os.environ.get("PATH", "").split(os.pathsep)]
    spec = importlib.util.find_spec("triton")
    if spec and spec.origin:
        folders.append(pathlib.Path(spec.origin).parent / "backends" / "nvidia" / "bin")
    for folder in folders:
        if os.access(folder / name, os.X_OK):
            return folder / name
    raise GpuOnCpuError(f"{name} was found neither in $CUDA_HOME/bin nor in $PATH nor inside Triton")
