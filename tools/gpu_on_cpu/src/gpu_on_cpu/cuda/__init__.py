"""CUDA C++ sources: run them on the CPU, or compile them to PTX."""

from gpu_on_cpu.cuda.emulate import Result, Sanitizer, emulate
from gpu_on_cpu.cuda.nvcc import compile_ptx

__all__ = ["Result", "Sanitizer", "compile_ptx", "emulate"]
