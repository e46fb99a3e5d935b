"""What the tests of the CUDA C++ backend share. Import this first: it skips a module that cannot run."""

from __future__ import annotations

import pytest

pytest.importorskip(
    "gpu_on_cpu", reason="the CUDA C++ backend's tests need gpu_on_cpu: pip install -e tools/gpu_on_cpu"
)

from gpu_on_cpu import GpuOnCpuError, toolchain
from gpu_on_cpu.cuda import build

from fused_resnet.analysis.kernel_problems import PROBLEMS
from fused_resnet.backends.cuda import PRODUCTS
from tests.kernels_support import FORMATS

try:
    toolchain.cuda_tool("nvcc"), build.cuda_include()
except GpuOnCpuError as error:
    pytest.skip(f"the CUDA C++ backend's tests need the CUDA toolkit: {error}", allow_module_level=True)

# The code for every GPU comes from one source, without anything that only some of them have.
ARCH = 80


def formats(problem: str) -> tuple[str, ...]:
    """Those that the kernels of a problem take: products of fp32 are in tf32, batch norm has none."""
    product = PROBLEMS[problem].op in PRODUCTS
    return tuple(f for f in FORMATS if f != ("fp32" if product else "tf32"))
