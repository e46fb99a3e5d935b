"""Triton kernels: compiled for a GPU that is not here, executed on the CPU; or interpreted."""

try:
    import triton  # noqa: F401
except ImportError as e:
    raise ImportError("Triton is needed: pip install 'gpu_on_cpu[triton]'") from e

from gpu_on_cpu.triton.driver import Record, emulate
from gpu_on_cpu.triton.interpreter import Interpretation, interpreting
from gpu_on_cpu.triton.launch import Run, compile_kernel, run

__all__ = ["Interpretation", "Record", "Run", "compile_kernel", "emulate", "interpreting", "run"]
