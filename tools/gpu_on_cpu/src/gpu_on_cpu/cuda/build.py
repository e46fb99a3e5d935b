"""Makes a program of a CUDA C++ source: preprocess, rewrite, compile, link with the runtime."""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
import re
import subprocess
from collections.abc import Mapping, Sequence

from gpu_on_cpu import cache, toolchain
from gpu_on_cpu.cuda.rewrite import launchers_of, rewrite
from gpu_on_cpu.errors import CompilerError, GpuOnCpuError

# -O1 keeps stack traces true to the source. The kernels' type punning is legal for nvcc.
_COMMON = ("-std=c++20", "-fno-strict-aliasing", "-fno-omit-frame-pointer", "-ffp-contract=off")
SANITIZERS: dict[str, tuple[str, ...]] = {
    "none": ("-O2",),
    "address": (
        "-O1",
        "-g1",
        "-fsanitize=address,undefined",
        "-fno-sanitize=vptr,object-size",
        "-fno-sanitize-recover=all",
    ),
    "thread": ("-O1", "-g1", "-fsanitize=thread"),
}


@functools.cache
def cuda_include() -> pathlib.Path:
    """The folder of the CUDA headers.

    Raises:
        GpuOnCpuError: there is none.
    """
    homes = [pathlib.Path(os.environ["CUDA_HOME"])] if "CUDA_HOME" in os.environ else []
    with contextlib.suppress(GpuOnCpuError):
        nvcc = toolchain.cuda_tool("nvcc").resolve()
        told = subprocess.run([str(nvcc), "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True).stderr
        tops = re.findall(r"^#\$ TOP=(.*)$", told, re.MULTILINE)  # nvcc may be a script that calls another one
        homes += [*map(pathlib.Path, tops), nvcc.parents[1]]
    for folder in [home / "include" for home in homes]:
        if (folder / "cuda_runtime.h").exists() and (folder / "cuda_fp16.h").exists():
            return folder
    raise GpuOnCpuError("no CUDA headers: install the CUDA toolkit (cuda_runtime.h, cuda_fp16.h) and set $CUDA_HOME")


def options(include: Sequence[str | os.PathLike[str]], defines: Mapping[str, object]) -> list[str]:
    """The -I and -D options of a compiler."""
    return [f"-I{os.fspath(i)}" for i in include] + [
        f"-D{k}" if v is None else f"-D{k}={v}" for k, v in defines.items()
    ]


def preprocess(source: pathlib.Path, flags: Sequence[str], sanitizer: str) -> str:
    """The text of `source` with everything it includes."""
    command = [
        toolchain.cxx(),
        *_COMMON,
        *SANITIZERS[sanitizer],
        "-E",
        "-x",
        "c++",
        "-isystem",
        str(toolchain.CPP),
    ]
    command += ["-isystem", str(cuda_include()), "-include", "cuda/emulator.h", *flags, str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise CompilerError(f"{' '.join(command)}\n{done.stderr}".strip())
    return done.stdout


def program(source: pathlib.Path, launcher: str, flags: Sequence[str], sanitizer: str) -> pathlib.Path:
    """The executable that runs the launchers of `source`.

    Raises:
        CompilerError: the source is no valid program.
        Unsupported: it has inline PTX.
    """
    text = preprocess(source, flags, sanitizer)
    launchers = sorted({*launchers_of(text), launcher})
    runtime = runtime_object(sanitizer)

    def make(path: pathlib.Path) -> None:
        generated = path.with_suffix(".ii")
        generated.write_text(rewrite(text) + _main(launchers))
        toolchain.compile_with([*compiler(flags, sanitizer), "-o", path, generated, runtime])

    parts = (
        text,
        pathlib.Path(__file__).with_name("rewrite.py").read_text(),
        *launchers,
        *flags,
        sanitizer,
        runtime.name,
        toolchain.cxx_version(),
    )
    return cache.cached(f"cuda/{cache.key(*parts)}", make)


def compiler(flags: Sequence[str], sanitizer: str) -> list[str]:
    """The command that compiles what `rewrite` made."""
    kept = [f for f in flags if not f.startswith(("-I", "-D"))]
    return [toolchain.cxx(), *_COMMON, *SANITIZERS[sanitizer], "-w", *kept]


def host_compiler(flags: Sequence[str]) -> list[str]:
    """The command that compiles plain C++ that calls the CUDA runtime; no sanitizer watches it."""
    return [toolchain.cxx(), *_COMMON, "-O1", *flags, "-isystem", str(cuda_include())]


def _main(launchers: Sequence[str]) -> str:
    table = ", ".join(f'{{"{name}", ::emu::adapt<&{name}>}}' for name in launchers)
    return (
        '\n# 1 "<generated>"\n'
        f"static const ::emu::Launcher emu_launchers[] = {{{table}}};\n"
        "int main(int argc, char** argv) {\n"
        f"  return ::emu::drive(emu_launchers, {len(launchers)}, argc, argv);\n}}\n"
    )


def runtime_object(sanitizer: str) -> pathlib.Path:
    """The object file of the emulator itself."""
    # without UBSan, which would double its compile time for nothing
    flags = [f.replace("address,undefined", "address") for f in SANITIZERS[sanitizer] if "no-sanitize" not in f]
    command = [toolchain.cxx(), *_COMMON, *flags, "-fPIC", "-fno-gnu-unique", "-isystem", str(cuda_include())]

    def make(path: pathlib.Path) -> None:
        toolchain.compile_with([*command, "-c", toolchain.CPP / "cuda" / "runtime.cpp", "-o", path])

    key = cache.key(toolchain.sources("cuda"), *command, toolchain.cxx_version())
    return cache.cached(f"cuda/runtime-{key}.o", make)
