"""Every bug that the runtime can report, planted into a kernel that is right without it.

A case is one kernel in which %p7 says whether the bug is planted and %p6 that it is not, so that the corrected kernel
differs by a predicate only. Each module adds the cases of one family.
"""

from __future__ import annotations

import dataclasses

import torch
from support import run

# %r2: 4*tid. %r3: buf. %r4: this thread's word of buf. %r5: that of its neighbour. %r6: that of the thread 32
# further. %rd6, %rd7: this thread's words of a and b. %p0: tid = 0. %p1: warp 0. %p2: tid = 1. %p3: tid = 32.
# %p5: true.
PRELUDE = """
ld.global.u32 %r127, [%rd4]; setp.ne.u32 %p7, %r127, 0; setp.eq.u32 %p6, %r127, 0; setp.eq.u32 %p5, 0, 0;
shl.b32 %r2, %r1, 2; mov.u32 %r3, buf; add.u32 %r4, %r3, %r2; xor.b32 %r5, %r2, 4; add.u32 %r5, %r5, %r3;
mov.u32 %r126, %ntid.x; sub.u32 %r126, %r126, 1; add.u32 %r6, %r1, 32; and.b32 %r6, %r6, %r126;
shl.b32 %r6, %r6, 2;
add.u32 %r6, %r6, %r3; mul.wide.u32 %rd5, %r1, 4; add.u64 %rd6, %rd1, %rd5; add.u64 %rd7, %rd2, %rd5;
setp.eq.u32 %p0, %r1, 0; setp.lt.u32 %p1, %r1, 32; setp.eq.u32 %p2, %r1, 1; setp.eq.u32 %p3, %r1, 32;
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """Attributes:
    reason: what is reported, on seed 0 in these words.
    body: the kernel.
    at: part of the instruction that is blamed.
    thread, block: who is blamed (x only).
    """

    name: str
    reason: str
    body: str
    at: str = ""
    threads: int = 32
    blocks: int = 1
    thread: int | None = None
    block: int | None = None
    outputs: tuple[str, ...] | None = None

    def run(self, planted: bool, seed: int) -> None:
        tensors = [torch.arange(512, dtype=torch.int32) for _ in range(3)]
        run(
            self.text,
            *tensors,
            torch.tensor([planted], dtype=torch.int32),
            threads=self.threads,
            blocks=self.blocks,
            seed=seed,
            outputs=self.outputs,
        )

    @property
    def text(self) -> str:
        return (PRELUDE + self.body).replace("; ", ";\n")


CASES: list[Case] = []


def case(name: str, reason: str, body: str, **rest: object) -> None:
    CASES.append(Case(name, reason, body, **rest))  # type: ignore[arg-type]
