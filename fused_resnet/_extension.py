"""Finds and loads the C++ extension that was built for the running torch; without one, says why."""

from __future__ import annotations

import functools
import importlib
import re
import warnings
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

PREFIX = "_C_torch_"
NAME = PREFIX + re.sub(r"\W", "_", torch.__version__)  # setup.py builds this name
BUILD_COMMAND = "pip install --no-build-isolation ."


@functools.cache
def _load() -> tuple[ModuleType | None, str | None]:
    """The module, or why there is none."""
    folder = Path(__file__).parent
    built = sorted({file.name for suffix in EXTENSION_SUFFIXES for file in folder.glob(f"{PREFIX}*{suffix}")})
    if not built:
        return None, "the C++ extension was not built"
    if not any(file.split(".")[0] == NAME for file in built):
        return None, f"the C++ extension was not built for torch {torch.__version__}, only {', '.join(built)}"
    try:
        return importlib.import_module(f"{__package__}.{NAME}"), None
    except Exception as error:  # a broken build must not take the package down with it
        return None, f"the C++ extension {NAME} failed to import: {type(error).__name__}: {error}"


def load() -> ModuleType | None:
    """The extension module, or None; `why_missing` then says why."""
    return _load()[0]


def why_missing() -> str | None:
    """Why there is no extension to use, or None where there is one."""
    return _load()[1]


@functools.cache
def warn_missing() -> None:
    """Warn, once per process, that the extension is missing and what that means."""
    warnings.warn(
        f"fused_resnet: {why_missing()}; the PyTorch reference is used instead, with the same results but "
        f"slower. To build the extension for this torch, run `{BUILD_COMMAND}` in the source tree.",
        RuntimeWarning,
        stacklevel=2,
    )


def build_info() -> dict[str, Any]:
    """What the extension was built with.

    Keys: ``torch`` (version), ``compiler``, ``cpu_instruction_set`` (the one in use on this processor),
    ``cuda`` (compiler version or None), ``cuda_architectures`` (compute capabilities times ten, or None).

    Raises:
        RuntimeError: there is no extension; the message says why.
    """
    module = load()
    if module is None:
        raise RuntimeError(why_missing())
    return module.build_info()
