"""Executes the code that GPU compilers generate on the CPU, and stops whatever is undefined on a GPU.

The parts: `gpu_on_cpu.ptx` runs PTX text, `gpu_on_cpu.triton` compiles and runs Triton kernels, `gpu_on_cpu.cuda` runs
CUDA C++ source, `gpu_on_cpu.mutation` breaks kernels on purpose. The names below are the ones used most; those that
need Triton are imported when they are used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gpu_on_cpu.case import Case, Expected
from gpu_on_cpu.errors import CompilerError, GpuOnCpuError, KernelFault, Unsupported
from gpu_on_cpu.ptx.arguments import Struct
from gpu_on_cpu.ptx.module import Module
from gpu_on_cpu.resources import Resources
from gpu_on_cpu.traffic import Access, Traffic

if TYPE_CHECKING:
    from gpu_on_cpu.mutation import mutate, score
    from gpu_on_cpu.triton import emulate, run

__version__ = "0.1.0"
__all__ = [
    "Access",
    "Case",
    "CompilerError",
    "Expected",
    "GpuOnCpuError",
    "KernelFault",
    "Module",
    "Resources",
    "Struct",
    "Traffic",
    "Unsupported",
    "emulate",
    "mutate",
    "run",
    "score",
]

_NEED_TRITON = {
    "emulate": "gpu_on_cpu.triton",
    "run": "gpu_on_cpu.triton",
    "mutate": "gpu_on_cpu.mutation",
    "score": "gpu_on_cpu.mutation",
}


def __getattr__(name: str) -> Any:
    if name not in _NEED_TRITON:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_NEED_TRITON[name]), name)
