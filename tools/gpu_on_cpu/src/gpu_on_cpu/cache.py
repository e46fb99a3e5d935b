"""Built files, kept by the content of everything they were made of."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator


def directory() -> pathlib.Path:
    """Where built files are kept: ``$GPU_ON_CPU_CACHE``, else ``gpu_on_cpu`` in the user's cache directory."""
    chosen = os.environ.get("GPU_ON_CPU_CACHE")
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return pathlib.Path(chosen) if chosen else home / "gpu_on_cpu"


def key(*parts: str | bytes) -> str:
    """A file name that stands for these inputs and no others."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:32]


def cached(name: str, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
    """The file `name` in the cache; if it is not there, ``make(path)`` writes it. Safe between processes."""
    path = directory() / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(path) as unfinished:
            make(unfinished)
            os.replace(unfinished, path)
    return path


@contextlib.contextmanager
def _temporary(path: pathlib.Path) -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        yield pathlib.Path(folder) / path.name
