"""What every CUDA C++ kernel of the built extension costs on every architecture in it, as ptxas made it."""

from __future__ import annotations

import functools
import re
import subprocess
from dataclasses import dataclass

from .. import _extension

FOUR_WARPS_REGISTERS = 168  # a thread: three blocks of four warps share a multiprocessor
REGISTERS = 65536  # of a multiprocessor


@dataclass(frozen=True)
class Compiled:
    """One kernel for one architecture.

    Attributes:
        symbol: mangled name; signature: what the user of a debugger sees, without namespaces.
        threads: of a block; registers: of a thread; stack: bytes of it, spilled registers among them.
        shared: bytes of static shared memory.
    """

    arch: int
    symbol: str
    signature: str
    threads: int
    registers: int
    stack: int
    shared: int

    @property
    def why_not(self) -> str:
        """What keeps the kernel from running well, "" if nothing does."""
        wrong = []
        if self.stack:
            wrong.append(f"{self.stack} bytes of stack")
        if self.threads <= 128 and self.registers > FOUR_WARPS_REGISTERS:
            wrong.append(f"{self.registers} registers, above {FOUR_WARPS_REGISTERS}")
        if self.threads * self.registers > REGISTERS:
            wrong.append("no block fits a multiprocessor")
        return ", ".join(wrong)


def compiled() -> list[Compiled]:
    """All kernels of the extension that is installed.

    Raises: RuntimeError: no extension, or none with CUDA; ModuleNotFoundError without gpu_on_cpu, which finds
    CUDA's tools.
    """
    from gpu_on_cpu import toolchain

    module = _extension.load()
    if module is None or not hasattr(module, "cuda"):
        raise RuntimeError(_extension.why_missing() or "the C++ extension was built without CUDA")
    tool = str(toolchain.cuda_tool("cuobjdump"))
    text = _run(tool, "--dump-resource-usage", str(module.__file__))
    found = []
    arch = 0
    usage = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
    symbol = ""
    for line in text.splitlines():
        if target := re.search(r"arch = sm_(\d+)", line):
            arch = int(target[1])
        elif name := re.match(r"\s*Function (\w+):", line):
            symbol = name[1]
        if numbers := usage.search(line):
            registers, stack, shared, local = map(int, numbers.groups())
            found.append((arch, symbol, registers, stack + local, shared))
    names = _demangled(tuple(symbol for _, symbol, *_ in found))
    return [
        Compiled(arch, symbol, names[symbol], _threads(names[symbol]), registers, stack, shared)
        for arch, symbol, registers, stack, shared in found
        if "fused_resnet" in symbol
    ]


def _threads(signature: str) -> int:
    """Of a block: products have their warps in the tile's name, the others are launched with 256 threads."""
    tile = re.search(r"\bTile<\d+, \d+, (\d+), (\d+)>", signature)
    return 32 * int(tile[1]) * int(tile[2]) if tile else 256


@functools.cache
def _demangled(symbols: tuple[str, ...]) -> dict[str, str]:
    names = _run("c++filt", *symbols).splitlines()
    short = (
        re.sub(r"fused_resnet::cuda::|\(anonymous namespace\)::|^void |\([^()]*\)$", "", n) for n in names
    )
    return dict(zip(symbols, short, strict=True))


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
