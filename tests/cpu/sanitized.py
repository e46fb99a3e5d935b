"""The extension under AddressSanitizer and UndefinedBehaviorSanitizer: builds it and runs tests against it.

    python -m tests.cpu.sanitized tests/cpu/test_ops.py -k conv_fprop

The build is a folder of its own, build/sanitized: the package's Python files, the tests, and an extension
that setup.py makes with the sanitizers' flags added. Tests run there, in a process that has the sanitizers'
runtime from the start; the first fault ends it, with a report.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "sanitized"
FAULTS = "tests/cpu/faults.cpp"
SANITIZE = (
    "-fsanitize=address,undefined",
    "-fno-sanitize=vptr",  # asks for type information that torch's libraries hide
    "-fno-sanitize-recover=undefined",
)
# Warnings that only instrumented code gives are no errors; with Python's own -fwrapv
# no overflow is an error; std::vector's [] checks its index.
COMPILE = (
    *("-O1", "-g1", "-fno-omit-frame-pointer", "-Wno-error", "-fno-wrapv", "-D_GLIBCXX_ASSERTIONS"),
    *SANITIZE,
)
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",  # Python leaks; its frames move
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "FUSED_RESNET_REQUIRE_EXTENSION": "1",
    "OMP_WAIT_POLICY": "passive",  # threads that spin for work hold up those that have some
}


def why_not() -> str | None:
    """Why nothing can be built and run here, or None."""
    if sys.platform != "linux" or shutil.which("g++") is None:
        return "the sanitizers' build needs Linux and g++"
    return None if all(map(os.path.isabs, _runtime())) else "g++ has no AddressSanitizer"


def build() -> None:
    """Compiles what has changed, and copies the package and the tests beside it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", "from tests.cpu import sanitized; sanitized.run_setup()"]
    environment = os.environ | {"CXX": "g++", "FUSED_RESNET_CUDA": "0"}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if run.returncode:
        errors = [line for line in run.stdout.splitlines() if "error" in line]
        raise RuntimeError(
            "\n".join(["the sanitizers' build failed:", *(errors or run.stdout.splitlines()[-20:])])
        )
    for name in ("fused_resnet", "tests"):
        for old in (FOLDER / name).rglob("*.py"):  # of modules that are no more
            old.unlink()
        ignored = shutil.ignore_patterns("*.so", "__pycache__")
        shutil.copytree(ROOT / name, FOLDER / name, ignore=ignored, dirs_exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", FOLDER)


def run_setup() -> None:
    """Runs setup.py in this process, with other flags and for another folder."""
    from setuptools import Extension, setup

    def sanitized_setup(**arguments):
        (extension,) = arguments["ext_modules"]
        extension.extra_compile_args["cxx"] += COMPILE
        extension.extra_link_args += SANITIZE
        faults = Extension(
            "fused_resnet.faults",
            [FAULTS],
            extra_compile_args={"cxx": list(COMPILE)},
            extra_link_args=list(SANITIZE),
        )
        folders = ["--build-temp", str(FOLDER / "objects"), "--build-lib", str(FOLDER)]
        setup(
            **arguments | {"ext_modules": [extension, faults]},
            script_name="setup.py",
            script_args=["-q", "build_ext", *folders],
        )

    with mock.patch("setuptools.setup", sanitized_setup):
        runpy.run_path(str(ROOT / "setup.py"))


def run(command: list[str], timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    """Runs Python with these arguments on the build; both of its outputs come back as one."""
    environment = os.environ | OPTIONS | {"LD_PRELOAD": " ".join(_runtime()), "PYTHONPATH": str(FOLDER)}
    return subprocess.run(
        [sys.executable, *command],
        cwd=FOLDER,
        env=environment,
        text=True,
        timeout=timeout,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def run_pytest(*arguments: str) -> subprocess.CompletedProcess[str]:
    """pytest leaves the process's standard error alone, which is where a report goes."""
    return run(["-m", "pytest", "-q", "-p", "no:cacheprovider", "--capture=sys", *arguments])


def _runtime() -> list[str]:
    """Loaded before everything else; libstdc++, because the sanitizers look for what it defines."""
    return [_library(name) for name in ("libasan.so", "libstdc++.so")]


def _library(name: str) -> str:
    command = ["g++", f"-print-file-name={name}"]
    return os.path.realpath(
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    )


def main(arguments: list[str]) -> int:
    if why := why_not():
        raise SystemExit(why)
    build()
    done = run_pytest(*arguments)
    print(done.stdout)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
