"""A Python extension made of CUDA C++ and of C++ that calls it, whose kernels run on the CPU."""

from __future__ import annotations

import concurrent.futures
import ctypes
import dataclasses
import functools
import importlib.util
import os
import pathlib
import re
import subprocess
import sysconfig
from collections.abc import Mapping, Sequence
from importlib.machinery import ExtensionFileLoader
from types import ModuleType

import torch

from gpu_on_cpu import cache, toolchain
from gpu_on_cpu.cuda import build, watch
from gpu_on_cpu.cuda.nvcc import compile_ptx, nvcc_version
from gpu_on_cpu.cuda.rewrite import rewrite
from gpu_on_cpu.errors import GpuOnCpuError
from gpu_on_cpu.ptx.split import kernels_of

_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*["<]([^">\n]+)[">]', re.MULTILINE)
UNNAMED = "12_GLOBAL__N_1"  # an unnamed namespace in mangled names; nvcc adds to it what it knows of the file
_NVCC_UNNAMED = re.compile(r"(\d+)(_GLOBAL__N__[0-9a-f]{8}_\d+_\w+?_[0-9a-f]{8})")
NVCC_FLAGS = ("-fmad=false",)
_TORCH = pathlib.Path(torch.__file__).parent


@dataclasses.dataclass(frozen=True)
class Extension:
    """What `extension` built.

    Attributes:
        name: of the module.
        path: the shared library.
        objects: source of CUDA C++ -> its object file.
        include, defines: what the sources were compiled with.
    """

    name: str
    path: pathlib.Path
    objects: Mapping[pathlib.Path, pathlib.Path]
    include: Sequence[str]
    defines: Mapping[str, object]

    def load(self) -> ModuleType:
        """The module. One that was built with a sanitizer loads only into a `Worker` that has it, too."""
        return _load(self.name, self.path)

    @functools.cached_property
    def library(self) -> ctypes.CDLL:
        """The functions of cpp/cuda/control.h."""
        self.load()
        found = ctypes.CDLL(str(self.path))
        if watch.REPORTS in os.environ:
            found.gpu_on_cpu_report_faults()
        return found

    def kernel_at(self, offset: int) -> str:
        """The mangled name of the function at this offset in the shared library."""
        return self._names[offset]

    @functools.cached_property
    def _names(self) -> dict[int, str]:
        return {at: name for name, at in _functions(self.path).items()}

    def ptx(self, kernel: str, arch: int) -> str:
        """What nvcc makes of a kernel, by its mangled name: a module with it alone.

        Nothing is contracted: a*b + c is rounded twice, as in the emulator.
        """
        sources = [s for s, compiled in self.objects.items() if kernel in _functions(compiled)]
        if len(sources) > 1 and UNNAMED in kernel:
            raise GpuOnCpuError(
                f"{kernel} may be that of any of {', '.join(map(str, sources))}: give them different names"
            )
        return self._modules(sources[0], arch)[kernel]

    def kernels(self, arch: int) -> frozenset[str]:
        """The mangled names of all kernels that nvcc compiles."""
        return frozenset(kernel for source in self.objects for kernel in self._modules(source, arch))

    def _modules(self, source: pathlib.Path, arch: int) -> Mapping[str, str]:
        return kernels_of(_ptx(source, arch, tuple(self.include), tuple(self.defines.items())))


def extension(
    name: str,
    sources: Sequence[str | os.PathLike[str]],
    include: Sequence[str | os.PathLike[str]] = (),
    defines: Mapping[str, object] | None = None,
    sanitizer: str = "none",
) -> Extension:
    """Builds a Python extension whose kernels run on the CPU; only what has changed is compiled again.

    Args:
        name: of the module; ``TORCH_EXTENSION_NAME`` is defined to it.
        sources: ``.cu`` files, as nvcc would take them, without inline PTX, which launch kernels by
            ``portable::launch`` (cuda/portable.h); and ``.cpp`` files for the C++ compiler, which may use torch and
            pybind11. Where they include nothing of torch that needs CUDA, a CPU build of torch will do.
        include: folders of headers.
        defines: macros; None as a value defines an empty one.
        sanitizer: that of the kernels: "none", "address" (with UndefinedBehaviorSanitizer) or "thread".

    Raises:
        CompilerError: a source does not compile.
        Unsupported: a source has inline PTX.
    """
    if sanitizer not in build.SANITIZERS:
        raise ValueError(f"sanitizer is one of {', '.join(build.SANITIZERS)}, not {sanitizer!r}")
    folders = [os.fspath(i) for i in include]
    macros = {**(defines or {}), "TORCH_EXTENSION_NAME": name}
    paths = [pathlib.Path(s).resolve() for s in sources]
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        runtime = pool.submit(build.runtime_object, sanitizer)
        compiled = list(pool.map(lambda path: _object(path, folders, macros, sanitizer), paths))
    objects = dict(zip(paths, compiled, strict=True))
    library = _link(name, [*compiled, runtime.result()], sanitizer)
    kernels = {path: made for path, made in objects.items() if path.suffix == ".cu"}
    return Extension(name, library, kernels, folders, dict(defines or {}))


def _object(
    source: pathlib.Path, include: Sequence[str], defines: Mapping[str, object], sanitizer: str
) -> pathlib.Path:
    """The object file of a source. Headers that no folder of `include` has are told by their versions."""
    flags = build.options(include, defines)
    texts = [f.read_bytes() for f in _with_headers(source, include)]
    texts.append((build.cuda_include() / "cuda_runtime_api.h").read_bytes())
    if source.suffix == ".cu":
        command = build.compiler(flags, sanitizer)
        texts += toolchain.sources("cuda"), pathlib.Path(__file__).with_name("rewrite.py").read_bytes()
    else:
        command = build.host_compiler([*flags, *_torch_flags()])
        texts.append(torch.__version__.encode())

    def make(path: pathlib.Path) -> None:
        text = source
        if source.suffix == ".cu":
            text = path.with_suffix(".ii")
            text.write_text(rewrite(build.preprocess(source, flags, sanitizer)))
        toolchain.compile_with([*command, "-fPIC", "-c", text, "-o", path])

    key = cache.key(str(source), *texts, *flags, *command, toolchain.cxx_version())
    return cache.cached(f"cuda/{source.stem}-{key}.o", make)


def _with_headers(source: pathlib.Path, include: Sequence[str]) -> list[pathlib.Path]:
    """A source and what it includes from its own folder and from those of `include`, whatever is defined."""
    found, waiting = {source}, [source]
    while waiting:
        file = waiting.pop()
        for name in _INCLUDE.findall(file.read_text()):
            places = (folder.joinpath(name).resolve() for folder in (file.parent, *map(pathlib.Path, include)))
            header = next((p for p in places if p.is_file()), None)
            if header and header not in found:
                found.add(header)
                waiting.append(header)
    return sorted(found)


def _torch_flags() -> list[str]:
    include = [_TORCH / "include", _TORCH / "include/torch/csrc/api/include", sysconfig.get_paths()["include"]]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    return [abi, *(f"-isystem{i}" for i in include)]


def _link(name: str, objects: Sequence[pathlib.Path], sanitizer: str) -> pathlib.Path:
    """The shared library. Its functions of the CUDA runtime are for itself, beside the real ones in the process."""
    libraries = ["-L", str(_TORCH / "lib"), "-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"]
    flags = ["-shared", *build.SANITIZERS[sanitizer], "-Wl,-Bsymbolic-functions", f"-Wl,-rpath,{_TORCH / 'lib'}"]

    def make(path: pathlib.Path) -> None:
        toolchain.compile_with([toolchain.cxx(), *flags, *objects, *libraries, "-o", path])

    key = cache.key(*(o.name for o in objects), *flags, *libraries)
    return cache.cached(f"cuda/extension-{key}/{name}.so", make)


@functools.cache
def _load(name: str, path: pathlib.Path) -> ModuleType:
    loader = ExtensionFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader, origin=str(path))
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@functools.cache
def _functions(compiled: pathlib.Path) -> dict[str, int]:
    """Mangled name -> offset (in its section, if an object file) of every function, static ones too."""
    listed = subprocess.run(["nm", "--defined-only", str(compiled)], capture_output=True, text=True, check=True).stdout
    found = (line.split() for line in listed.splitlines())
    return {name: int(at, 16) for at, kind, name in found if kind in "TtWw"}


@functools.cache
def _ptx(source: pathlib.Path, arch: int, include: Sequence[str], defines: Sequence[tuple[str, object]]) -> str:
    """The PTX of a source. What is in unnamed namespaces has the names that the C++ compiler gives it."""

    def make(path: pathlib.Path) -> None:
        ptx = compile_ptx(source, arch, include, dict(defines), NVCC_FLAGS)
        path.write_text(_NVCC_UNNAMED.sub(_renamed, ptx))

    flags = (*build.options(include, dict(defines)), *NVCC_FLAGS, str(arch))
    texts = [f.read_bytes() for f in _with_headers(source, [*include, str(toolchain.CPP)])]
    return cache.cached(f"cuda/{cache.key(str(source), *texts, *flags, nvcc_version())}.ptx", make).read_text()


def _renamed(found: re.Match[str]) -> str:
    digits = found[1].removesuffix(str(len(found[2])))  # of the name before it, whose length stands before that
    return f"{digits}{UNNAMED}"
