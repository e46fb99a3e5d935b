"""Builds the C++ extension; everything that is data about the project is in pyproject.toml.

The extension is optional: where it cannot be built (no torch to build against, no C++ compiler, not a POSIX
system) the package is pure Python, one line says so, and every op runs on its PyTorch reference.

Environment: ``FUSED_RESNET_CUDA=auto|0|1`` (CUDA sources where possible, never, or fail without them);
``TORCH_CUDA_ARCH_LIST`` and ``MAX_JOBS`` as in torch.utils.cpp_extension.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from glob import glob

from setuptools import setup

DEFAULT_CUDA_ARCHITECTURES = "8.0;9.0;10.0+PTX"
# No contraction: whether a*b + c is one rounding is written in the source, so that forward and backward agree
# on the sign of a value. Traps and errno are never looked at, and they would keep loops scalar.
ARITHMETIC_FLAGS = ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
COMPILE_FLAGS = ["-O3", "-g0", "-fvisibility=hidden", *ARITHMETIC_FLAGS]
WARNING_FLAGS = ["-Wall", "-Wextra", "-Werror"]
# -fmad is nvcc's name for contraction.
HOST_OF_NVCC = ["-Xcompiler", ",".join([*WARNING_FLAGS, "-fvisibility=hidden"])]
NVCC_FLAGS = ["-O3", "-std=c++17", "-fmad=false", "-Werror", "all-warnings", *HOST_OF_NVCC]
# cuda/portable.h: what kernels need beside CUDA's own headers
PORTABLE = "tools/gpu_on_cpu/src/gpu_on_cpu/cpp"


def say(message):
    print(f"fused_resnet: {message}", file=sys.stderr, flush=True)


def cuda_choice():
    choice = os.environ.get("FUSED_RESNET_CUDA", "auto")
    if choice not in ("auto", "0", "1"):
        raise SystemExit(f"fused_resnet: FUSED_RESNET_CUDA: expected auto, 0 or 1, got {choice!r}")
    return choice


def why_no_extension():
    """The reason why no extension can be built here, or None."""
    if os.name != "posix":
        return f"{os.name} systems are not supported"
    try:
        import torch.utils.cpp_extension  # noqa: F401
    except ImportError as error:
        return f"torch is not importable ({error}); to build against yours, pass pip --no-build-isolation"
    compiler = shlex.split(os.environ.get("CXX") or sysconfig.get_config_var("CXX") or "c++")[0]
    return None if shutil.which(compiler) else f"the C++ compiler {compiler!r} was not found"


def set_cuda_home():
    """Where the nvcc on the path is a script, torch takes its folder for the toolkit's; nvcc knows better."""
    nvcc = shutil.which("nvcc")
    if nvcc is None or "CUDA_HOME" in os.environ or "CUDA_PATH" in os.environ:
        return
    command = [nvcc, "--dryrun", "-x", "cu", os.devnull]
    steps = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    top = re.search(r"^#\$ TOP=(.+)$", steps, re.MULTILINE)
    if top:
        os.environ["CUDA_HOME"] = os.path.normpath(top[1].strip())


def why_no_cuda():
    """The reason why the CUDA sources cannot be compiled against this torch, or None."""
    import torch
    from torch.utils.cpp_extension import CUDA_HOME

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is not a CUDA build"
    nvcc = os.path.join(CUDA_HOME or "", "bin", "nvcc")
    if not os.path.exists(nvcc):
        return "nvcc was not found (set CUDA_HOME)"
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"release ((\d+)\.\d+)", text)
    if release is None:
        return f"{nvcc} does not tell its release"
    if release[2] != torch.version.cuda.split(".")[0]:
        return f"nvcc is release {release[1]}, torch was built with CUDA {torch.version.cuda}"
    return None


def wants_cuda():
    choice = cuda_choice()
    if choice == "0":
        return False
    why = why_no_cuda()
    if why and choice == "1":
        raise SystemExit(f"fused_resnet: FUSED_RESNET_CUDA=1, but the CUDA sources cannot be compiled: {why}")
    if why:
        say(f"building without the CUDA sources: {why}")
    return why is None


def extension_name():
    """Carries the torch version: builds for several versions coexist, and none is ever loaded by another."""
    import torch

    return "_C_torch_" + re.sub(r"\W", "_", torch.__version__)


def extension(cuda):
    from torch.backends import openmp
    from torch.utils import cpp_extension

    # Named as system directories, headers of torch and CUDA are exempt from our warning flags.
    system = [f"-isystem{path}" for path in cpp_extension.include_paths("cuda" if cuda else "cpu")]
    threads = ["-fopenmp"] if openmp.is_available() and sys.platform != "darwin" else []
    flags = {"cxx": [*COMPILE_FLAGS, *WARNING_FLAGS, *threads, *system]}
    sources = [*glob("csrc/*.cpp"), *glob("csrc/cpu/*.cpp")]
    macros = []
    if cuda:
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", DEFAULT_CUDA_ARCHITECTURES)
        sources += [*glob("csrc/cuda/*.cu"), *glob("csrc/cuda/*.cpp")]
        macros.append(("FUSED_RESNET_WITH_CUDA", None))
        flags["nvcc"] = NVCC_FLAGS
    kind = cpp_extension.CUDAExtension if cuda else cpp_extension.CppExtension
    return kind(
        f"fused_resnet.{extension_name()}",
        sorted(sources),
        include_dirs=[os.path.abspath(folder) for folder in ("csrc", *([PORTABLE] if cuda else []))],
        define_macros=macros,
        extra_compile_args=flags,
        extra_link_args=threads,
    )


def build_command():
    """torch's, but that x.cpp and x.cu make two object files, which stay for the next build of any kind."""
    from torch.utils.cpp_extension import BuildExtension

    class Build(BuildExtension):
        def finalize_options(self):
            if self.build_temp is None:  # an editable installation would take a folder that passes away
                self.build_temp = f"build/temp{extension_name()}"
            super().finalize_options()

        def build_extensions(self):
            plain = self.compiler.object_filenames

            def object_filenames(sources, *args, **kwargs):
                objects = zip(sources, plain(sources, *args, **kwargs), strict=True)
                return [f"{path[:-2]}.cuda.o" if str(of).endswith(".cu") else path for of, path in objects]

            self.compiler.object_filenames = object_filenames
            super().build_extensions()

    return Build


def build_arguments():
    choice = cuda_choice()
    if choice != "0":
        set_cuda_home()  # before torch looks for it, which is at import
    why = why_no_extension()
    if why:
        if choice == "1":
            raise SystemExit(f"fused_resnet: FUSED_RESNET_CUDA=1, but no extension can be built: {why}")
        say(f"building the pure-Python package, without the C++ extension: {why}")
        return {}
    return {
        "ext_modules": [extension(wants_cuda())],
        "cmdclass": {"build_ext": build_command()},
    }


setup(**build_arguments())
