"""What ptxas makes of a kernel: registers, spills, shared memory, and the machine instructions of interest."""

from __future__ import annotations

import collections
import dataclasses
import re
import subprocess
import tempfile
from collections.abc import Mapping

from gpu_on_cpu import toolchain
from gpu_on_cpu.errors import CompilerError, GpuOnCpuError

# Bytes of shared memory a block may have (CUDA C++ Programming Guide, table "Technical Specifications per Compute
# Capability"), the registers of a multiprocessor, its threads and blocks.
SHARED_LIMIT = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 103: 232448, 120: 101376}
SHARED_PER_SM = {80: 167936, 86: 102400, 89: 102400, 90: 233472, 100: 233472, 103: 233472, 120: 102400}
THREADS_PER_SM = {80: 2048, 86: 1536, 89: 1536, 90: 2048, 100: 2048, 103: 2048, 120: 1536}
BLOCKS_PER_SM = {80: 32, 86: 16, 89: 24, 90: 32, 100: 32, 103: 32, 120: 24}
REGISTERS_PER_SM = 65536
RESERVED_SHARED = 1024  # bytes a block takes beside its own, from sm_80

TENSOR_CORE = ("HMMA", "IMMA", "HGMMA", "UTCHMMA", "UTCQMMA")
SPILLS = ("LDL", "STL")


def target(arch: int) -> str:
    """The name of an architecture with the features that Triton and this package use: "sm_80", "sm_90a", "sm_100a"."""
    return f"sm_{arch}{'a' if arch >= 90 else ''}"


@dataclasses.dataclass(frozen=True)
class Resources:
    """Of one kernel on one architecture.

    Attributes:
        arch: compute capability times ten.
        threads: of a block; 0 if unknown.
        registers: per thread.
        stack: bytes of local memory per thread, spills among them.
        shared: bytes per block, static and dynamic.
        tensor_memory: columns (sm_100).
        instructions: count of every machine instruction, by its full name, e.g. {"HMMA.16816.F32.BF16": 32}.
    """

    arch: int
    threads: int
    registers: int
    stack: int
    shared: int
    tensor_memory: int
    instructions: Mapping[str, int]

    def count(self, *names: str) -> int:
        """How many machine instructions have one of these names, with or without further modifiers."""
        return sum(
            n
            for full, n in self.instructions.items()
            if any(full == name or full.startswith(name + ".") for name in names)
        )

    @property
    def spills(self) -> int:
        """Instructions that move registers to local memory or back."""
        return self.count(*SPILLS)

    @property
    def tensor_core(self) -> int:
        """Tensor-core instructions."""
        return self.count(*TENSOR_CORE)

    @property
    def fits(self) -> bool:
        """Whether a block of this kernel can be launched at all."""
        return self.shared <= SHARED_LIMIT[self.arch] and self.tensor_memory <= 512

    @property
    def blocks_per_sm(self) -> int:
        """Blocks that fit a multiprocessor at a time, by registers, shared memory and threads: a bound, not a speed."""
        if not self.threads:
            raise ValueError("the number of threads of a block is unknown")
        warps = -(-self.threads // 32)
        per_warp = -(-self.registers * 32 // 256) * 256  # registers are given to warps in units of 256
        limits = [
            THREADS_PER_SM[self.arch] // (warps * 32),
            BLOCKS_PER_SM[self.arch],
            REGISTERS_PER_SM // (per_warp * warps),
            SHARED_PER_SM[self.arch] // (self.shared + RESERVED_SHARED),
        ]
        if self.tensor_memory:
            limits.append(512 // self.tensor_memory)
        return min(limits)

    @property
    def occupancy(self) -> float:
        """The share of a multiprocessor's warps that these blocks fill."""
        return self.blocks_per_sm * -(-self.threads // 32) * 32 / THREADS_PER_SM[self.arch]


def of_cubin(
    cubin: bytes, kernel: str, arch: int, *, threads: int = 0, shared: int = 0, tensor_memory: int = 0
) -> Resources:
    """Reads a compiled kernel.

    Args:
        kernel: its name in the cubin.
        shared: dynamic shared memory of the launch, bytes; what is static comes from the cubin.

    Raises:
        GpuOnCpuError: cuobjdump is missing, or the kernel is not in the cubin.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(cubin)
        f.flush()
        usage, sass = (_cuobjdump(option, f.name) for option in ("--dump-resource-usage", "--dump-sass"))
    found = re.search(rf"Function {re.escape(kernel)}:\s*\n?\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", usage)
    if not found:
        raise GpuOnCpuError(f"kernel {kernel} is not in the cubin")
    registers, stack, static, local = map(int, found.groups())
    return Resources(
        arch, threads, registers, stack + local, static + shared, tensor_memory, _instructions(sass, kernel)
    )


def _cuobjdump(option: str, file: str) -> str:
    done = subprocess.run([toolchain.cuda_tool("cuobjdump"), option, file], capture_output=True, text=True)
    if done.returncode:
        raise CompilerError(f"cuobjdump {option}: {done.stderr}")
    return done.stdout


def _instructions(sass: str, kernel: str) -> Mapping[str, int]:
    body = re.search(rf"Function : {re.escape(kernel)}\n(.*?)(?=\n\s*Function :|\Z)", sass, re.S)
    names = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", body[1] if body else "")
    return dict(collections.Counter(names))
