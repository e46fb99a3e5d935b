"""Fetches packages from the package index, and takes Triton kernels out. As a program: fetches them all.

Nothing of them is installed or kept in this repository: they lie, and are unpacked, in the cache directory.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import pathlib
import subprocess
import sys
import tempfile
import textwrap
import types
import zipfile
from collections.abc import Collection

from gpu_on_cpu import cache

PINS = pathlib.Path(__file__).with_name("requirements.txt")


@functools.cache
def wheels() -> pathlib.Path:
    """The folder with all wheels of requirements.txt, downloaded if it is not there."""
    folder = cache.directory() / "third_party" / cache.key(PINS.read_bytes())
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
            # Packages that are only read need not fit this Python.
            options = [
                "--no-deps",
                "--ignore-requires-python",
                "--only-binary",
                ":all:",
                "--require-hashes",
                "--quiet",
            ]
            command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", *options]
            subprocess.run([*command, "-r", PINS, "-d", f"{unfinished}/all"], check=True)
            pathlib.Path(unfinished, "all").rename(folder)
    return folder


@functools.cache
def unpacked(package: str) -> pathlib.Path:
    """The folder of an unpacked wheel."""
    (wheel,) = wheels().glob(f"{package}-*.whl")
    folder = wheels().with_name(f"{wheels().name}-{package}")
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished, zipfile.ZipFile(wheel) as z:
            z.extractall(f"{unfinished}/all")
            pathlib.Path(unfinished, "all").rename(folder)
    return folder


def load(path: pathlib.Path) -> types.ModuleType:
    """Imports a file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def kernels(source: pathlib.Path, names: Collection[str], folder: pathlib.Path) -> types.ModuleType:
    """A module of these functions of a file alone, wherever they stand, with only Triton's decorators.

    Args:
        folder: where to write the module: Triton reads the source of its kernels from a file.
    """
    text = source.read_text()
    parts = ["import triton", "import triton.language as tl"]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name in names:
            decorators = [f"@{d}" for d in map(ast.unparse, node.decorator_list) if d.startswith("triton.")]
            body = "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])
            parts.append("\n".join([*decorators, textwrap.dedent(body)]))
    path = folder / f"{source.stem}_kernels.py"
    path.write_text("\n\n".join(parts) + "\n")
    return load(path)


def definitions(source: pathlib.Path, folder: pathlib.Path) -> types.ModuleType:
    """A module of what a script defines before it does anything: up to its first bare call."""
    text = source.read_text()
    calls = (n.lineno for n in ast.parse(text).body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call))
    lines = text.splitlines()[: next(calls, 1 << 30) - 1]
    path = folder / f"tutorial_{source.stem.replace('-', '_')}.py"
    path.write_text("\n".join(lines) + "\n")
    return load(path)


if __name__ == "__main__":
    print(wheels())
