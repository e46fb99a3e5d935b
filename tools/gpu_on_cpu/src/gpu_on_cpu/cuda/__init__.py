"""CUDA C++ sources: run them on the CPU, alone or inside a Python extension, or compile them to PTX."""

from gpu_on_cpu.cuda.driver import Record, emulating
from gpu_on_cpu.cuda.emulate import Result, Sanitizer, emulate
from gpu_on_cpu.cuda.extensions import Extension, extension
from gpu_on_cpu.cuda.nvcc import compile_ptx
from gpu_on_cpu.cuda.worker import Worker, workers

__all__ = [
    "Extension",
    "Record",
    "Result",
    "Sanitizer",
    "Worker",
    "compile_ptx",
    "emulate",
    "emulating",
    "extension",
    "workers",
]
