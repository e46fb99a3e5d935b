"""Every bug that the runtime can report, planted into a kernel that is right without it.

A case is one kernel in which %p7 says whether the bug is planted and %p6 that it is not, so that the
  corrected kernel
differs by a predicate only.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re

import pytest
import torch
from support import frame, run

from gpu_on_cpu import toolchain
from gpu_on_cpu.errors import KernelFault
from gpu_on_cpu.ptx.arguments import check_arguments
from gpu_on_cpu.ptx.module import Module

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


# ---- races in shared memory
READ = "shared-memory race: read of another thread's value, no barrier between"
WRITE = "shared-memory race: two threads write, no barrier between"
OVERWRITE = "shared-memory race: overwritten while others may still read, no barrier between"
INIT = "st.shared.u32 [%r4], %r1; bar.sync 0;"
case(
    "raw-warps",
    READ,
    "@%p0 st.shared.u32 [%r3], 7; @%p6 bar.sync 0; @%p3 ld.shared.u32 %r10, [%r3];",
    at="ld.shared",
    threads=64,
    thread=32,
    block=0,
)
case(
    "raw-lanes",
    READ,
    "@%p0 st.shared.u32 [%r3], 7; @%p6 bar.warp.sync -1; @%p2 ld.shared.u32 %r10, [%r3];",
    at="ld.shared",
    thread=1,
)
case(
    "raw-shuffle-is-no-barrier",
    READ,
    "st.shared.u32 [%r4], %r1; @%p7 shfl.sync.idx.b32 %r9, %r1, 0, 31, -1; @%p6 bar.warp.sync -1; "
    "ld.shared.u32 %r10, [%r5];",
    at="ld.shared",
)
case(
    "waw-warps",
    WRITE,
    "@%p0 st.shared.u32 [%r3], 1; @%p6 bar.sync 0; @%p3 st.shared.u32 [%r3], 2;",
    at="2",
    threads=64,
    thread=32,
)
case(
    "waw-lanes",
    WRITE,
    "@%p0 st.shared.u32 [%r3], 1; @%p6 bar.warp.sync -1; @%p2 st.shared.u32 [%r3], 2;",
    at="2",
    thread=1,
)
case(
    "war-warps",
    OVERWRITE,
    INIT + "@%p2 ld.shared.u32 %r10, [%r3]; @%p6 bar.sync 0; @%p3 st.shared.u32 [%r3], 9;",
    at="st.shared",
    threads=64,
    thread=32,
)
case(
    "war-lanes",
    OVERWRITE,
    INIT + "@%p0 ld.shared.u32 %r10, [%r3+4]; @%p6 bar.warp.sync -1; @%p2 st.shared.u32 [%r3+4], 9;",
    at="st.shared",
    thread=1,
)
case(
    "part-of-warp-synchronised",
    READ,
    "@%p0 st.shared.u32 [%r3], 7; @%p6 bar.warp.sync -1; and.b32 %r9, %r1, 1; setp.eq.u32 %p4, %r9, 0; "
    "mov.u32 %r11, 0x55555555;"
    "@%p4 bar.warp.sync %r11; @!%p4 bar.warp.sync 0xAAAAAAAA; "
    "@%p2 ld.shared.u32 %r10, [%r3];",
    at="ld.shared",
    thread=1,
)
case(
    "atomic-then-read",
    READ,
    "@%p0 st.shared.u32 [%r3], 0; bar.sync 0; red.shared.add.u32 [%r3], 1; "
    "@%p6 bar.sync 0; @%p3 ld.shared.u32 %r10, [%r3];",
    at="ld.shared",
    threads=64,
    thread=32,
)
case(
    "atomic-then-write",
    WRITE,
    "@%p0 st.shared.u32 [%r3], 0; bar.sync 0; red.shared.add.u32 [%r3], 1; "
    "@%p6 bar.sync 0; "
    "@%p3 st.shared.u32 [%r3], 0;",
    at="st.shared",
    threads=64,
    thread=32,
)
case(
    "read-then-atomic",
    OVERWRITE,
    "@%p0 st.shared.u32 [%r3], 0; bar.sync 0; red.shared.add.u32 [%r3], 1; bar.sync 0; "
    "@%p0 ld.shared.u32 %r10, [%r3]; @%p6 bar.sync 0;"
    "@%p3 red.shared.add.u32 [%r3], 1;",
    at="red",
    threads=64,
    thread=32,
)
case(
    "write-then-atomic",
    WRITE,
    "@%p0 st.shared.u32 [%r3], 7; @%p6 bar.sync 0; red.shared.add.u32 [%r3], 1;",
    at="red",
    threads=64,
)
case(
    "ldmatrix-early",
    READ,
    "st.shared.u32 [%r4], %r1; shl.b32 %r9, %r1, 4; and.b32 %r9, %r9, 112; "
    "add.u32 %r9, %r9, %r3; @%p6 bar.warp.sync -1;"
    "ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%r10}, [%r9];",
    at="ldmatrix",
)
case(
    "cluster-write-after-arrive",
    READ,
    "@%p6 st.shared.u32 [%r4], %r1; barrier.cluster.arrive.aligned; @%p7 st.shared.u32 [%r4], %r1; "
    "barrier.cluster.wait.aligned;"
    "ld.shared.u32 %r10, [%r6];",
    at="ld.shared",
    threads=64,
)

# ---- named barriers: warp 0 produces, warp 1 consumes
case(
    "named-wrong-barrier",
    READ,
    "@%p1 st.shared.u32 [%r4], %r1; @%p1 bar.arrive 1, 64; @%p1 bra END; @%p6 bar.sync 1, 64; "
    "@%p7 bar.sync 2, 32;"
    "ld.shared.u32 %r10, [%r6]; END:",
    at="ld.shared",
    threads=64,
)
case(
    "named-arrive-before-write",
    READ,
    "@!%p1 bra CONSUMER; @%p6 st.shared.u32 [%r4], %r1; bar.arrive 1, 64; @%p7 st.shared.u32 [%r4], %r1; "
    "bra END;"
    "CONSUMER: bar.sync 1, 64; ld.shared.u32 %r10, [%r6]; END:",
    at="ld.shared",
    threads=64,
)
case(
    "named-no-empty-barrier",
    READ,
    "@!%p1 bra CONSUMER; st.shared.u32 [%r4], 1; bar.arrive 1, 64; @%p6 bar.sync 2, 64; "
    "st.shared.u32 [%r4], 2; bra END;"
    "CONSUMER: bar.sync 1, 64; ld.shared.u32 %r10, [%r6]; @%p6 bar.arrive 2, 64; END:",
    threads=64,
)
case(
    "barrier-number",
    "barrier: number out of range",
    "selp.u32 %r9, 16, 15, %p7; bar.sync %r9;",
    at="bar.sync",
)
case(
    "barrier-arrive-without-count",
    "barrier.arrive needs a thread count",
    "selp.u32 %r9, 0, 64, %p7; @%p1 bar.arrive 1, %r9; @!%p1 bar.sync 1, 64;",
    at="bar.arrive",
    threads=64,
)
case(
    "barrier-count",
    "barrier: thread count is not a multiple of the warp size",
    "selp.u32 %r9, 33, 32, %p7; bar.sync 1, %r9;",
)
case(
    "barrier-disagreement",
    "barrier: threads disagree about the thread count",
    "selp.u32 %r9, 96, 64, %p7; @%p1 bar.sync 1, 64; @!%p1 bar.sync 1, %r9;",
    threads=64,
    thread=32,
)
case(
    "barrier-left-open",
    "block ends with threads that arrived at a barrier nobody completed",
    "selp.u32 %r9, 64, 32, %p7; bar.arrive 1, %r9;",
)
case(
    "cluster-twice",
    "barrier.cluster.arrive twice without wait",
    "barrier.cluster.arrive; @%p7 barrier.cluster.arrive; barrier.cluster.wait;",
)
case(
    "cluster-wait-alone",
    "barrier.cluster.wait without arrive",
    "@%p6 barrier.cluster.arrive; barrier.cluster.wait;",
    at="wait",
)
case(
    "collective-mask",
    "warp collective: the lane is not in its own mask",
    "selp.u32 %r9, 0xFFFF, -1, %p7; shfl.sync.idx.b32 %r10, %r1, 0, 31, %r9;",
    at="shfl",
    thread=16,
)
case(
    "collective-source",
    "warp collective: value of a lane outside the mask",
    "setp.lt.u32 %p4, %r1, 16; selp.u32 %r9, 20, 3, %p7; @%p4 shfl.sync.idx.b32 %r10, %r1, %r9, 31, 0xFFFF;",
    at="shfl",
)

# ---- global memory
case(
    "global-raw",
    "global-memory race: reads another thread's value, no barrier between",
    "st.global.u32 [%rd7], 5; xor.b32 %r9, %r2, 128; cvt.u64.u32 %rd8, %r9; add.u64 %rd8, %rd8, %rd2; "
    "@%p6 bar.sync 0; ld.global.u32 %r10, [%rd8];"
    "add.u64 %rd9, %rd3, %rd5; st.global.u32 [%rd9], %r10;",
    at="ld.global",
    threads=64,
    thread=32,
)
case(
    "global-waw",
    "global-memory race: two threads write one address, no barrier between",
    "@%p0 st.global.u32 [%rd2], 1; @%p6 bar.sync 0; @%p3 st.global.u32 [%rd2], 2;",
    at="2",
    threads=64,
    thread=32,
)
BLOCK = "mov.u32 %r9, %ctaid.x; setp.eq.u32 %p4, %r9, 0;"
OTHER_READS = "global-memory race: reads what another block wrote"
case(
    "blocks-raw",
    OTHER_READS,
    BLOCK + "@!%p0 bra END; @%p4 st.global.u32 [%rd2], 77; "
    "@%p6 atom.acq_rel.gpu.global.add.u32 %r10, [%rd3], 1;"
    "@%p7 atom.relaxed.gpu.global.add.u32 %r10, [%rd3], 1; @!%p4 ld.global.u32 %r10, [%rd2]; END:",
    at="ld.global",
    blocks=2,
    thread=0,
    block=1,
)
case(
    "blocks-raw-scope",
    OTHER_READS,
    BLOCK + "@!%p0 bra END; @%p4 st.global.u32 [%rd2], 77; "
    "@%p6 atom.global.gpu.acq_rel.add.u32 %r10, [%rd3], 1;"
    "@%p7 atom.global.cta.acq_rel.add.u32 %r10, [%rd3], 1; @!%p4 ld.global.u32 %r10, [%rd2]; "
    "END:",
    blocks=2,
    block=1,
)
case(
    "blocks-raw-fence",
    OTHER_READS,
    BLOCK + "@!%p0 bra END; @%p4 st.global.u32 [%rd2], 77; @%p6 membar.gl; @%p7 membar.cta; "
    "atom.global.add.u32 %r10, [%rd3], 1; membar.gl;"
    "@!%p4 ld.global.u32 %r10, [%rd2]; END:",
    blocks=2,
    block=1,
)
case(
    "blocks-release-before-write",
    OTHER_READS,
    BLOCK + "@!%p0 bra END; @!%p4 bra READER; @%p6 st.global.u32 [%rd2], 77; "
    "atom.acq_rel.gpu.global.add.u32 %r10, [%rd3], 1;"
    "@%p7 st.global.u32 [%rd2], 77; bra END; READER: atom.acq_rel.gpu.global.add.u32 %r10, [%rd3], 1; "
    "ld.global.u32 %r10, [%rd2]; END:",
    blocks=2,
    block=1,
)
case(
    "blocks-other-flag",
    OTHER_READS,
    BLOCK + "@!%p0 bra END; @%p4 st.global.u32 [%rd2], 77; cvt.u64.u32 %rd9, %r9; "
    "selp.b64 %rd8, %rd9, 0, %p7; shl.b64 %rd8, %rd8, 2;"
    "add.u64 %rd8, %rd8, %rd3; atom.acq_rel.gpu.global.add.u32 %r10, [%rd8], 1; "
    "@!%p4 ld.global.u32 %r10, [%rd2]; END:",
    blocks=2,
)
case(
    "blocks-waw",
    "global-memory race: two blocks write one address",
    BLOCK + "selp.u32 %r8, 0, %r9, %p7; mul.wide.u32 %rd8, %r8, 4; add.u64 %rd8, %rd8, %rd2; "
    "add.u32 %r9, %r9, 70;"
    "@%p0 st.global.u32 [%rd8], %r9;",
    at="st.global",
    blocks=2,
    block=1,
    thread=0,
)
case(
    "global-outside",
    "global access outside every argument",
    "selp.b64 %rd8, 2048, 2044, %p7; add.u64 %rd8, %rd8, %rd1; ld.global.u32 %r9, [%rd8];",
    at="ld.global",
    thread=0,
)
case(
    "global-before",
    "global access outside every argument",
    "selp.b64 %rd8, -4, 0, %p7; add.u64 %rd8, %rd8, %rd1; ld.global.u32 %r9, [%rd8];",
)
case(
    "global-across-end",
    "global access outside every argument",
    "selp.b64 %rd8, 2044, 2040, %p7; @%p7 add.u64 %rd8, %rd8, -4; add.u64 %rd8, %rd8, %rd1; "
    "selp.b64 %rd9, 8, 0, %p7; add.u64 %rd8, %rd8, %rd9;"
    "@%p0 ld.global.u64 %rd10, [%rd8];",
)
case(
    "null",
    "global access outside every argument",
    "selp.b64 %rd8, 0, %rd1, %p7; ld.u32 %r9, [%rd8];",
    at="ld.u32",
)
case(
    "global-misaligned",
    "misaligned global access",
    "selp.b64 %rd8, 2, 4, %p7; add.u64 %rd8, %rd8, %rd1; ld.global.u32 %r9, [%rd8];",
    at="ld.global",
)
case(
    "global-vector-misaligned",
    "misaligned global access",
    "selp.b64 %rd8, 8, 16, %p7; add.u64 %rd8, %rd8, %rd1; ld.global.v4.u32 {%r9, %r10, %r11, %r12}, [%rd8];",
)
case(
    "vector-atomic-misaligned",
    "misaligned vector atomic",
    "selp.b64 %rd8, 8, 16, %p7; add.u64 %rd8, %rd8, %rd2; red.global.add.v4.f32 [%rd8], {%r9, %r10, %r11, %r12};",
    at="red",
)
case(
    "write-to-input",
    "write to an input",
    "selp.b64 %rd8, %rd6, %rd7, %p7; st.global.u32 [%rd8], 3;",
    at="st.global",
    outputs=("b",),
)
case(
    "atomic-on-input",
    "write to an input",
    "selp.b64 %rd8, %rd6, %rd7, %p7; red.global.add.u32 [%rd8], 3;",
    at="red",
    outputs=("b",),
)
case(
    "shared-misaligned",
    "misaligned shared access",
    "selp.u32 %r9, 2, 4, %p7; add.u32 %r9, %r9, %r3; ld.shared.u32 %r10, [%r9];",
    at="ld.shared",
)
case(
    "shared-outside",
    "shared memory out of bounds",
    "selp.u32 %r9, 16384, 16380, %p7; add.u32 %r9, %r9, %r3; ld.shared.u32 %r10, [%r9];",
)
LOCAL = ".local .align 8 .b8 mine[64]; mov.u64 %rd8, mine;"
case(
    "local-misaligned",
    "misaligned local access",
    LOCAL + "selp.b64 %rd9, 2, 4, %p7; add.u64 %rd8, %rd8, %rd9; st.local.u32 [%rd8], 3;",
    at="st.local",
)
case(
    "local-outside",
    "local access outside the thread's own memory",
    LOCAL + "selp.b64 %rd8, %rd2, %rd8, %p7; ld.local.u32 %r9, [%rd8];",
    at="ld.local",
)
case("trap", "trap", "setp.eq.u32 %p4, %r1, 9; and.pred %p4, %p4, %p7; @%p4 trap;", at="trap", thread=9)
case("division", "integer division by zero", "selp.u32 %r9, 0, 3, %p7; div.u32 %r10, %r1, %r9;", at="div.u32")
case("remainder", "integer remainder by zero", "selp.u32 %r9, 0, 3, %p7; rem.s32 %r10, %r1, %r9;", at="rem.s32")

# ---- cp.async; every thread copies 16 bytes to its own place (%r8)
OWN = "shl.b32 %r8, %r1, 4; cvt.u64.u32 %rd8, %r8; add.u64 %rd8, %rd8, %rd1; add.u32 %r8, %r8, %r3;"
COPY = "cp.async.cg.shared.global [%r8], [%rd8], 16;"
CP_WAIT = "cp.async.commit_group; cp.async.wait_group 0;"
NOT_WAITED = "shared memory read before the asynchronous copy to it was waited for"
case(
    "cp-early-read",
    NOT_WAITED,
    OWN + COPY + "cp.async.commit_group; @%p6 cp.async.wait_group 0; ld.shared.u32 %r9, [%r8]; cp.async.wait_group 0;",
    at="ld.shared",
)
case(
    "cp-group-too-new",
    NOT_WAITED,
    OWN + COPY + "cp.async.commit_group; cp.async.ca.shared.global [%r8+4096], [%rd8], 8; "
    "cp.async.commit_group; cp.async.wait_group 1;"
    "@%p6 cp.async.wait_group 0; ld.shared.u32 %r9, [%r8+4096]; cp.async.wait_all;",
    at="ld.shared",
)
case(
    "cp-other-thread",
    READ,
    OWN + COPY + CP_WAIT + "@%p6 bar.warp.sync -1; @%p2 ld.shared.u32 %r9, [%r3];",
    at="ld.shared",
    thread=1,
)
case(
    "cp-write",
    "shared memory written while an asynchronous copy to it is in flight",
    OWN + COPY + "cp.async.commit_group; @%p6 cp.async.wait_group 0; st.shared.u32 [%r8], 1; cp.async.wait_group 0;",
    at="st.shared",
)
case(
    "cp-twice",
    "asynchronous copy to shared memory that already has one in flight",
    OWN + COPY + "@%p6 cp.async.wait_all;" + COPY + CP_WAIT,
    at="cp.async",
)
case(
    "cp-over-reads",
    OVERWRITE,
    INIT + OWN + "@%p0 ld.shared.u32 %r9, [%r3+512]; @%p6 bar.sync 0;" + COPY + CP_WAIT,
    at="cp.async",
    threads=64,
)
case(
    "cp-not-committed",
    "thread exits with cp.async not committed",
    OWN + COPY + "@%p6 cp.async.commit_group; cp.async.wait_group 0;",
)
case(
    "cp-in-flight",
    "thread exits with cp.async in flight",
    OWN + COPY + "cp.async.commit_group; @%p6 cp.async.wait_group 0;",
)
case(
    "cp-size",
    "cp.async: src-size larger than cp-size",
    OWN + "selp.u32 %r9, 17, 16, %p7; cp.async.cg.shared.global [%r8], [%rd8], 16, %r9;" + CP_WAIT,
    at="cp.async",
)
case(
    "cp-source",
    "cp.async: misaligned source",
    OWN + "selp.b64 %rd9, 8, 0, %p7; add.u64 %rd8, %rd8, %rd9;" + COPY + CP_WAIT,
    at="cp.async",
)
case(
    "cp-outside",
    "global access outside every argument",
    OWN + "selp.b64 %rd9, 2048, 0, %p7; add.u64 %rd8, %rd8, %rd9;" + COPY + CP_WAIT,
)

# ---- mbarriers, at buf + 8192
BAR = "add.u32 %r20, %r3, 8192;"
BAR_INIT = BAR + ("@%p0 mbarrier.init.shared::cta.b64 [%r20], 1; @%p0 fence.mbarrier_init.release.cluster; bar.sync 0;")
TRY = "mbarrier.try_wait.parity.shared::cta.b64 %p4, [%r20], 0;"


def wait(label: str) -> str:
    return f"{label}: {TRY} @!%p4 bra {label};"


case(
    "mbarrier-not-ordered",
    READ,
    BAR + "@%p0 mbarrier.init.shared.b64 [%r20], 64; @%p6 bar.sync 0; "
    "mbarrier.arrive.shared.b64 %rd9, [%r20];" + wait("W"),
    at="mbarrier.arrive",
    threads=64,
)
case(
    "mbarrier-missing",
    "mbarrier not initialised",
    BAR
    + "@%p6 mbarrier.init.shared.b64 [%r20], 1; @%p0 mbarrier.arrive.shared.b64 %rd9, [%r20];".replace(
        "@%p6", "selp.u32 %r21, 8, 0, %p7; add.u32 %r20, %r20, %r21; @%p0", 1
    ).replace("[%r20], 1", "[buf+8192], 1"),
    at="mbarrier.arrive",
    thread=0,
)
case(
    "mbarrier-twice",
    "mbarrier initialised twice",
    BAR + "@!%p0 bra END; mbarrier.init.shared.b64 [%r20], 1; @%p6 mbarrier.inval.shared.b64 [%r20]; "
    "mbarrier.init.shared.b64 [%r20], 2; END:",
    thread=0,
)
case(
    "mbarrier-count",
    "mbarrier.init: count out of range",
    BAR + "selp.u32 %r9, 0, 1, %p7; @%p0 mbarrier.init.shared.b64 [%r20], %r9;",
)
case(
    "mbarrier-misaligned",
    "misaligned shared access",
    BAR + "selp.u32 %r9, 4, 8, %p7; add.u32 %r20, %r20, %r9; @%p0 mbarrier.init.shared.b64 [%r20], 1;",
)
case(
    "mbarrier-inval",
    "mbarrier invalidated in the middle of a phase",
    BAR + "@!%p0 bra END; mbarrier.init.shared.b64 [%r20], 2; mbarrier.arrive.shared.b64 _, [%r20]; "
    "@%p6 mbarrier.arrive.shared.b64 _, [%r20];"
    "mbarrier.inval.shared.b64 [%r20]; END:",
    at="inval",
)
case(
    "mbarrier-arrivals",
    "mbarrier: more arrivals than the phase expects",
    BAR_INIT + "selp.u32 %r9, 2, 1, %p7; @%p0 mbarrier.arrive.shared.b64 %rd9, [%r20], %r9;",
    at="mbarrier.arrive",
)
case(
    "too-many-agents",
    "more asynchronous transfers than the emulator keeps apart",
    "selp.u32 %r9, 100, 60, %p7; @!%p0 bra END; L: add.u32 %r3, %r3, 8; mbarrier.init.shared.b64 [%r3], 1; "
    "sub.u32 %r9, %r9, 1;"
    "setp.ne.u32 %p4, %r9, 0; @%p4 bra L; END:",
)
case(
    "mbarrier-read-early",
    READ,
    BAR_INIT + "@%p0 st.shared.u32 [%r3], 4; @%p0 mbarrier.arrive.shared.b64 %rd9, [%r20]; @%p6 bra W; "
    "@%p3 ld.shared.u32 %r9, [%r3]; " + wait("W") + "ld.shared.u32 %r9, [%r3];",
    at="ld.shared",
    threads=64,
    thread=32,
)
case(
    "mbarrier-write-after-arrive",
    READ,
    BAR_INIT + "@!%p0 bra W; @%p6 st.shared.u32 [%r3], 4; mbarrier.arrive.shared.b64 %rd9, [%r20]; "
    "@%p7 st.shared.u32 [%r3], 4; " + wait("W") + "ld.shared.u32 %r9, [%r3];",
    at="ld.shared",
    threads=64,
)

# ---- bulk copies; thread 0 loads 64 bytes of a to buf
EXPECT = "@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r20], 64;"
LOAD = "@%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r3], [%rd1], 64, [%r20];"
case(
    "tma-early-read",
    NOT_WAITED,
    BAR_INIT + EXPECT + LOAD + "and.pred %p2, %p0, %p7; "
    "@%p2 ld.shared.u32 %r9, [%r3+16]; " + wait("W") + "ld.shared.u32 %r9, [%r3+16];",
    at="ld.shared",
    thread=0,
)
case(
    "tma-other-thread-waited",
    READ,
    BAR_INIT + EXPECT + LOAD + "@%p7 bra SOME; " + wait("W") + "bra USE; "
    "SOME: @!%p0 bra USE; " + wait("V") + "USE: @%p2 ld.shared.u32 %r9, [%r3]; @%p7 bar.sync 0;",
    at="ld.shared",
    thread=1,
)
case(
    "tma-double",
    "asynchronous copy to shared memory that already has one in flight",
    BAR_INIT + EXPECT + LOAD + "@%p6 bra W; " + LOAD + wait("W"),
    at="cp.async.bulk",
)
case(
    "tma-written",
    "shared memory written while an asynchronous copy to it is in flight",
    BAR_INIT + EXPECT + LOAD + "and.pred %p2, %p0, %p7; @%p2 st.shared.u32 [%r3+4], 3; " + wait("W"),
    at="st.shared",
    thread=0,
)
case(
    "tma-over-reads",
    OVERWRITE,
    BAR_INIT + INIT + "setp.eq.u32 %p2, %r1, 63; "
    "@%p2 ld.shared.u32 %r9, [%r3]; "
    "@%p6 bar.sync 0;" + EXPECT + LOAD + wait("W"),
    at="cp.async.bulk",
    threads=64,
)
case(
    "tma-more-bytes",
    "mbarrier: more bytes arrived than the phase expects",
    BAR_INIT + "selp.u32 %r9, 48, 64, %p7; "
    "@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r20], %r9;" + LOAD + wait("W"),
)
case(
    "tma-expect-late",
    "mbarrier: more bytes arrived than the phase expects",
    BAR_INIT
    + LOAD
    + "@%p7 mbarrier.test_wait.parity.shared::cta.b64 %p4, [%r20], 0; @%p7 bar.sync 0; "
    "@%p7 mbarrier.arrive.shared.b64 _, [%r20];"
    "@%p6 mbarrier.arrive.expect_tx.shared.b64 _, [%r20], 64;".replace("@%p6 mb", "and.pred %p3, %p0, %p6; @%p3 mb")
    + wait("W"),
)
case(
    "tma-bytes-left",
    "block ends with bytes that an mbarrier still expects",
    BAR_INIT + "selp.u32 %r9, 80, 64, %p7; "
    "@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r20], %r9;" + LOAD + "@%p7 bra END; " + wait("W") + "END:",
)
case(
    "tma-left-in-flight",
    "block ends before a bulk copy to its shared memory was waited for",
    BAR_INIT + EXPECT + LOAD + "@%p7 bra END; " + wait("W") + "END:",
)
case(
    "bulk-size",
    "bulk copy: size is not a multiple of 16 bytes",
    BAR_INIT + EXPECT + "selp.u32 %r9, 72, 64, %p7;" + LOAD.replace("64, [", "%r9, [") + wait("W"),
    at="cp.async.bulk",
)
case(
    "bulk-source",
    "bulk copy: misaligned source",
    BAR_INIT + EXPECT + "selp.b64 %rd9, 8, 16, %p7; add.u64 %rd1, %rd1, %rd9;" + LOAD + wait("W"),
)
case(
    "bulk-shared",
    "misaligned shared access",
    BAR_INIT + EXPECT + "selp.u32 %r9, 8, 16, %p7; add.u32 %r3, %r3, %r9;" + LOAD + wait("W"),
)

# ---- bulk stores; every thread writes its word, thread 0 copies the 128 bytes to b
FENCE = "fence.proxy.async.shared::cta;"
FILL = "st.shared.u32 [%r4], %r1;"
STORE = "@%p0 cp.async.bulk.global.shared::cta.bulk_group [%rd2], [%r3], 128;"
COMMIT = "@%p0 cp.async.bulk.commit_group;"
NO_FENCE = "an asynchronous unit reads shared memory without fence.proxy.async"
case(
    "proxy-fence",
    NO_FENCE,
    FILL + "@%p6 " + FENCE + "bar.sync 0;" + STORE + COMMIT + "cp.async.bulk.wait_group 0;",
    at="cp.async.bulk",
    thread=0,
)
case(
    "proxy-fence-too-early",
    NO_FENCE,
    "@%p7 " + FENCE + FILL + "@%p6 " + FENCE + "bar.sync 0;" + STORE + COMMIT + "cp.async.bulk.wait_group 0;",
)
case(
    "proxy-fence-of-another",
    NO_FENCE,
    FILL + "bar.sync 0; @%p2 " + FENCE + "@%p6 " + FENCE + STORE + COMMIT + "cp.async.bulk.wait_group 0;",
    at="cp.async.bulk",
)
case(
    "async-no-barrier",
    "an asynchronous unit reads what another thread wrote, no barrier between",
    FILL
    + FENCE
    + "@%p7 bar.warp.sync %r126; @%p6 bar.sync 0; ".replace("@%p7 bar.warp.sync %r126; ", "")
    + STORE.replace("@%p0", "@%p3")
    + COMMIT.replace("@%p0", "@%p3")
    + "cp.async.bulk.wait_group 0;",
    threads=64,
    thread=32,
)
case(
    "async-in-flight",
    "an asynchronous unit reads shared memory before the copy to it was waited for",
    OWN + COPY + "cp.async.commit_group; "
    "@%p6 cp.async.wait_group 0;"
    + FENCE
    + "bar.sync 0;"
    + STORE
    + COMMIT
    + "cp.async.bulk.wait_group 0; cp.async.wait_group 0;",
)
IN_USE = "shared memory overwritten while an asynchronous unit may still read it"
BULK_STORE = FILL + FENCE + "bar.sync 0;" + STORE + COMMIT
case(
    "store-source-overwritten",
    IN_USE,
    BULK_STORE + "@%p6 cp.async.bulk.wait_group.read 0; @%p0 st.shared.u32 [%r3], 9; cp.async.bulk.wait_group.read 0;",
    at="st.shared",
    thread=0,
)
case(
    "store-source-overwritten-equal",
    IN_USE,
    BULK_STORE + "@%p6 cp.async.bulk.wait_group.read 0; bar.sync 0; st.shared.u32 [%r4], %r1; "
    "cp.async.bulk.wait_group.read 0;",
    at="st.shared",
)
case(
    "store-source-other-thread",
    IN_USE,
    BULK_STORE + "cp.async.bulk.wait_group.read 0; @%p6 bar.sync 0; @%p2 st.shared.u32 [%r3], 9;",
    at="st.shared",
    thread=1,
)
case(
    "store-group-too-new",
    IN_USE,
    BULK_STORE
    + "@%p0 cp.async.bulk.global.shared::cta.bulk_group [%rd3], [%r3], 128;"
    + COMMIT
    + "@%p7 cp.async.bulk.wait_group.read 1;"
    "@%p6 cp.async.bulk.wait_group.read 0; @%p0 st.shared.u32 [%r3], 9; cp.async.bulk.wait_group 0;",
)
case(
    "store-not-committed",
    "thread exits with a bulk copy not committed",
    FILL + FENCE + "bar.sync 0;" + STORE + "@%p6 cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;",
    thread=0,
)
case(
    "store-in-flight",
    "thread exits with a bulk copy from shared memory in flight",
    BULK_STORE + "@%p6 cp.async.bulk.wait_group.read 0;",
    thread=0,
)
case(
    "bulk-destination",
    "bulk copy: misaligned destination",
    "selp.b64 %rd9, 8, 16, %p7; add.u64 %rd2, %rd2, %rd9;" + BULK_STORE + "cp.async.bulk.wait_group 0;",
)
case(
    "bulk-to-input",
    "write to an input",
    "selp.b64 %rd2, %rd1, %rd2, %p7;" + BULK_STORE + "cp.async.bulk.wait_group 0;",
    outputs=("b",),
)
case(
    "bulk-outside",
    "shared memory out of bounds",
    "selp.u32 %r9, 16320, 0, %p7;"
    + FILL
    + FENCE
    + "bar.sync 0; add.u32 %r3, %r3, %r9;"
    + STORE
    + COMMIT
    + "cp.async.bulk.wait_group 0;",
)

# ---- tensor maps: an 8x8 tile of 32-bit words of a, described at buf + 4096, copied to c
MAP_VALUES = dict(
    rank=1,
    box_dim0=8,
    box_dim1=8,
    global_dim0=16,
    global_dim1=16,
    element_stride0=1,
    element_stride1=1,
    elemtype=2,
    interleave_layout=0,
    swizzle_mode=0,
    fill_mode=0,
)


FENCE_PROXY = "tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned"


def tensor_map(
    planted: dict[str, int | str] | None = None,
    fence: str = f"{FENCE_PROXY} [%rd10], [%r30], 128;",
) -> str:
    """Makes the map with the planted values where the bug is; its address goes to %rd10."""
    planted = planted or {}
    text = "add.u32 %r30, %r3, 4096; @!%p0 bra MADE; mov.u64 %rd11, 0; "
    text += " ".join(f"st.shared.u64 [%r30+{i}], %rd11;" for i in range(0, 128, 8))
    for key, value in MAP_VALUES.items():
        ordinal = f" {key[-1]}," if key[-1].isdigit() else ""
        text += f" mov.u32 %r31, {value}; @%p7 mov.u32 %r31, {planted.get(key, value)};"
        text += f" tensormap.replace.tile.{key.rstrip('01')}.shared::cta.b1024.b32 [%r30],{ordinal} %r31;"
    text += f" mov.u64 %rd11, %rd1; @%p7 add.u64 %rd11, %rd1, {planted.get('global_address', 0)};"
    text += " tensormap.replace.tile.global_address.shared::cta.b1024.b64 [%r30], %rd11;"
    text += f" mov.u64 %rd11, 64; @%p7 mov.u64 %rd11, {planted.get('global_stride', 64)};"
    text += " tensormap.replace.tile.global_stride.shared::cta.b1024.b64 [%r30], 0, %rd11;"
    text += " MADE: add.u64 %rd10, %rd3, 127; and.b64 %rd10, %rd10, -128; bar.sync 0; " + fence
    return text + " bar.sync 0; fence.proxy.tensormap::generic.acquire.gpu [%rd10], 128; mov.u32 %r32, 0; "


TENSOR_LOAD = (
    "@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r20], 256; "
    "@%p0 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
    "[%r3], [%rd10, {%r32, %r32}], [%r20]; "
)
for field, value, reason in [
    ("rank", 2, "rank differs from the instruction's"),
    ("elemtype", 13, "element type not modelled"),
    ("interleave_layout", 1, "interleaved layouts are not modelled"),
    ("fill_mode", 1, "NaN fill is not modelled"),
    ("swizzle_mode", 4, "swizzle mode not modelled"),
    ("global_address", 8, "global address is not a multiple of 16 bytes"),
    ("box_dim0", 6, "inner box dimension is not a multiple of 16 bytes"),
    ("box_dim1", 257, "box dimension outside 1..256"),
    ("element_stride1", 2, "element strides are not modelled"),
    ("global_stride", 72, "stride is not a multiple of 16 bytes"),
]:
    case(
        f"map-{field}",
        f"tensor map: {reason}",
        BAR_INIT + tensor_map({field: value}) + TENSOR_LOAD + wait("W"),
        at="cp.async.bulk.tensor",
        thread=0,
    )
case(
    "map-span",
    "tensor map: inner box dimension exceeds the swizzle span",
    BAR_INIT + tensor_map({"swizzle_mode": 1, "box_dim0": 16, "box_dim1": 4}) + TENSOR_LOAD + wait("W"),
)
case(
    "map-below-span",
    "tensor map: inner box dimension smaller than the swizzle span is not modelled",
    BAR_INIT + tensor_map({"swizzle_mode": 2}) + TENSOR_LOAD + wait("W"),
)
case(
    "map-misaligned",
    "tensor map: misaligned",
    BAR_INIT + tensor_map() + "@%p7 add.u64 %rd10, %rd10, 16;" + TENSOR_LOAD + wait("W"),
)
case(
    "map-outside",
    "global access outside every argument",
    BAR_INIT + tensor_map() + "@%p7 mov.u64 %rd10, 4096;" + TENSOR_LOAD + wait("W"),
)
case(
    "map-reaches-outside",
    "global access outside every argument",
    BAR_INIT + tensor_map({"global_dim1": 64}) + "mov.u32 %r33, 0; "
    "@%p7 mov.u32 %r33, 28;" + TENSOR_LOAD.replace("{%r32, %r32}", "{%r32, %r33}") + wait("W"),
)
case(
    "map-bytes",
    "tensormap.cp_fenceproxy: a tensor map has 128 bytes",
    tensor_map(fence=f"@%p7 {FENCE_PROXY} [%rd10], [%r30], 64; @%p6 {FENCE_PROXY} [%rd10], [%r30], 128;"),
)
case(
    "map-read-only",
    "write to an input",
    tensor_map().replace("and.b64", "@%p7 add.u64 %rd10, %rd1, 127; and.b64"),
    outputs=("c",),
    at="cp_fenceproxy",
)
case(
    "map-no-barrier",
    "global-memory race: reads another thread's value, no barrier between",
    BAR_INIT
    + tensor_map()
    .replace("bar.sync 0; fence.proxy", "@%p6 bar.sync 0; fence.proxy")
    .replace("bar.sync 0; tensormap.cp", "bar.sync 0; @%p1 tensormap.cp")
    .replace("bar.sync 0; @%p1", "bar.sync 0; " + "@!%p1 bar.warp.sync -1; " * 8 + "@%p1")
    + TENSOR_LOAD.replace("@%p0", "@%p3")
    + wait("W"),
    threads=64,
    at="cp.async.bulk.tensor",
    thread=32,
)
case(
    "reduce-type",
    "tensor reduction: element type not modelled",
    tensor_map({"elemtype": 4, "box_dim1": 4, "box_dim0": 2}) + "@!%p0 bra END; "
    "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group "
    "[%rd10, {%r32, %r32}], [%r3]; cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; END:",
)

# ---- wgmma: buf is A and B at once; %rd20, %rd21 descriptors, accumulators %r40 to %r43
WG = (
    "shr.u32 %r30, %r3, 4; cvt.u64.u32 %rd20, %r30; or.b64 %rd20, %rd20, 0x0000000800080000; "
    "mov.u64 %rd21, %rd20; mov.u64 %rd22, %rd20; "
    "mov.u32 %r40, 0; mov.u32 %r41, 0; mov.u32 %r42, 0; mov.u32 %r43, 0; mov.u32 %r44, 0; mov.u32 %r50, 0; "
    "mov.u32 %r51, 0; mov.u32 %r52, 0; mov.u32 %r53, 0; "
)
F16_MMA = "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {%r40, %r41, %r42, %r43}, "
MMA = F16_MMA + "%rd20, %rd21, %p5, 1, 1, 0, 0; "
MMA_A = F16_MMA + "{%r50, %r51, %r52, %r53}, %rd21, %p5, 1, 1, 0; "
WG_FENCE, WG_COMMIT, WG_WAIT = (
    "wgmma.fence.sync.aligned; ",
    "wgmma.commit_group.sync.aligned; ",
    "wgmma.wait_group.sync.aligned 0; ",
)


def wgmma_case(name: str, reason: str, body: str, **rest: object) -> None:
    case(name, reason, WG + body, threads=128, **rest)


wgmma_case(
    "wgmma-fence",
    "wgmma without wgmma.fence since the last wait",
    "@%p6 " + WG_FENCE + MMA + WG_COMMIT + WG_WAIT,
    at="wgmma.mma_async",
)
wgmma_case(
    "wgmma-fence-again",
    "wgmma without wgmma.fence since the last wait",
    (WG_FENCE + MMA + WG_COMMIT + WG_WAIT) + "@%p6 " + WG_FENCE + MMA + WG_COMMIT + WG_WAIT,
)
wgmma_case(
    "wgmma-write-early",
    "wgmma: accumulator written before the wait",
    WG_FENCE + MMA + WG_COMMIT + "@%p7 mov.u32 %r41, 3; " + WG_WAIT,
    at="wgmma.wait_group",
)
wgmma_case(
    "wgmma-write-between",
    "wgmma: accumulator written while in flight",
    WG_FENCE + MMA + "@%p7 mov.u32 %r41, 3; " + MMA + WG_COMMIT + WG_WAIT,
    at="wgmma.mma_async",
)
wgmma_case(
    "wgmma-a-changed",
    "wgmma: register of A changed before the wait",
    WG_FENCE + MMA_A + WG_COMMIT + "@%p7 mov.u32 %r51, 3; " + WG_WAIT,
    at="wgmma.wait_group",
)
wgmma_case(
    "wgmma-a-in-flight",
    "wgmma: A is an accumulator in flight",
    WG_FENCE
    + MMA
    + WG_COMMIT
    + "@%p6 "
    + WG_WAIT
    + "@%p6 "
    + WG_FENCE
    + MMA_A.replace("50", "40")
    .replace("{%r40, %r41, %r42, %r43}", "{%r44, %r45, %r46, %r47}", 1)
    .replace("%r51, %r52, %r53", "%r41, %r42, %r43")
    + WG_COMMIT
    + WG_WAIT,
)
wgmma_case(
    "wgmma-overlap",
    "wgmma: accumulators overlap those of one in flight",
    WG_FENCE
    + MMA
    + WG_COMMIT
    + "@%p6 "
    + WG_WAIT
    + "@%p6 "
    + WG_FENCE
    + MMA.replace("%r40, %r41, %r42, %r43", "%r41, %r42, %r43, %r44")
    + WG_COMMIT
    + WG_WAIT,
)
wgmma_case(
    "wgmma-lanes",
    "wgmma: operands differ between lanes",
    "and.b32 %r9, %r1, 31; setp.eq.u32 %p4, %r9, 7; and.pred %p4, %p4, %p7; "
    "@%p4 add.u64 %rd21, %rd21, 1; " + WG_FENCE + MMA + WG_COMMIT + WG_WAIT,
)
wgmma_case("wgmma-exit", "thread exits with wgmma in flight", WG_FENCE + MMA + WG_COMMIT + "@%p6 " + WG_WAIT)
wgmma_case(
    "wgmma-smem",
    IN_USE,
    WG_FENCE + MMA + WG_COMMIT + "@%p6 " + WG_WAIT + "@%p6 bar.sync 0; st.shared.u32 [%r4], 5; " + WG_WAIT,
    at="st.shared",
)
wgmma_case(
    "wgmma-smem-other-warp",
    IN_USE,
    WG_FENCE + MMA + WG_COMMIT + WG_WAIT + "@%p6 bar.sync 0; @%p3 st.shared.u32 [%r3], 5; ",
    at="st.shared",
    thread=32,
)
wgmma_case(
    "wgmma-proxy",
    NO_FENCE,
    FILL + "@%p6 " + FENCE + "bar.sync 0; " + WG_FENCE + MMA + WG_COMMIT + WG_WAIT,
    at="wgmma.mma_async",
)
wgmma_case(
    "wgmma-barrier",
    "an asynchronous unit reads what another thread wrote, no barrier between",
    FILL + FENCE + "@%p6 bar.sync 0; " + WG_FENCE + MMA + WG_COMMIT + WG_WAIT,
)
wgmma_case(
    "wgmma-outside",
    "an asynchronous unit reads outside shared memory",
    "@%p7 or.b64 %rd21, %rd21, 0x3FF; " + WG_FENCE + MMA + WG_COMMIT + WG_WAIT,
)
wgmma_case(
    "wgmma-base-offset",
    "matrix descriptor: base offset not modelled",
    "@%p7 or.b64 %rd21, %rd21, 0x0002000000000000; " + WG_FENCE + MMA + WG_COMMIT + WG_WAIT,
)
wgmma_case(
    "wgmma-reserved",
    "matrix descriptor: reserved bits or 32-byte swizzle atoms not modelled",
    "@%p7 or.b64 %rd21, %rd21, 0x2000000000000000; " + WG_FENCE + MMA + WG_COMMIT + WG_WAIT,
)

# ---- tcgen05: 64 columns at %r30 (%r31 for this warp), operands at buf + 1024, mbarrier at buf + 8192
ALLOC = (
    BAR_INIT + "@%p1 tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r3], 64; bar.sync 0; "
    "ld.shared.u32 %r30, [%r3]; "
    "shr.u32 %r31, %r1, 5; shl.b32 %r31, %r31, 21; add.u32 %r31, %r31, %r30; mov.u32 %r33, 0; "
    "mov.u32 %r32, 0x04020010; add.u32 %r34, %r3, 1024; shr.u32 %r34, %r34, 4; "
    "cvt.u64.u32 %rd20, %r34; or.b64 %rd20, %rd20, 0x0000400800080000; mov.u64 %rd21, %rd20; "
)
DEALLOC = "bar.sync 0; @%p1 tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r30, 64; "
T_MMA = "@%p0 tcgen05.mma.cta_group::1.kind::f16 [%r30], %rd20, %rd21, %r32, %p5; "
T_COMMIT = "@%p0 tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%r20]; "
T_ST, T_LD = (
    "tcgen05.st.sync.aligned.32x32b.x1.b32 [%r31], {%r33}; ",
    "tcgen05.ld.sync.aligned.32x32b.x1.b32 {%r35}, [%r31]; ",
)
ST_WAIT, LD_WAIT = "tcgen05.wait::st.sync.aligned; ", "tcgen05.wait::ld.sync.aligned; "
# M = 64 writes the first 16 lanes of every warp's quarter: zeros first, as accumulators
LATE = "setp.eq.u32 %p0, %r1, 126; "  # on seed 0 the one that comes last out of a collective
ZERO = "".join(T_ST.replace("[%r31]", f"[%r31+{i}]") for i in range(8)) + ST_WAIT


def tcgen05_case(name: str, reason: str, body: str, **rest: object) -> None:
    case(name, reason, ALLOC + body, threads=128, **rest)


tcgen05_case(
    "tmem-unallocated",
    "tensor memory outside the allocation",
    "mov.u32 %r36, 0; @%p7 mov.u32 %r36, 64; add.u32 %r31, %r31, %r36; " + T_ST + ST_WAIT + DEALLOC,
    at="tcgen05.st",
)
case(
    "tmem-columns",
    "tcgen05.alloc: columns must be a power of two, 32 to 512",
    "selp.u32 %r9, 48, 32, %p7; tcgen05.alloc.cta_group::1.sync.aligned.b32 [%r3], %r9; "
    "tcgen05.dealloc.cta_group::1.sync.aligned.b32 0, 32;",
    at="alloc",
)
case(
    "tmem-relinquished",
    "tcgen05.alloc after relinquish_alloc_permit",
    "@%p7 tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned; "
    "tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r3], 32; "
    "@%p6 tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned; "
    "tcgen05.dealloc.cta_group::1.sync.aligned.b32 0, 32;",
    at="alloc",
)
tcgen05_case(
    "tmem-exhausted",
    "tensor memory exhausted",
    "selp.u32 %r9, 512, 256, %p7; "
    "@%p1 tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r3+8], %r9; "
    "add.u32 %r9, %r30, 64; "
    "@%p1 tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r9, 256; " + DEALLOC,
)
tcgen05_case(
    "tmem-dealloc",
    "tcgen05.dealloc: not the last allocation",
    DEALLOC.replace("@%p1", "@%p7 add.u32 %r30, %r30, 32; @%p1"),
    at="dealloc",
)
tcgen05_case(
    "tmem-kept",
    "block ends with tensor memory allocated",
    DEALLOC.replace("@%p1", "and.pred %p1, %p1, %p6; @%p1"),
)
tcgen05_case(
    "tmem-quarter",
    "tcgen05.ld/st outside the warp's quarter of tensor memory",
    "selp.u32 %r31, %r30, %r31, %p7; " + T_ST + ST_WAIT + DEALLOC,
)
tcgen05_case(
    "tmem-wait-st",
    "tensor memory used before tcgen05.wait::st",
    T_ST + "@%p6 " + ST_WAIT + T_LD + LD_WAIT + ST_WAIT + DEALLOC,
    at="tcgen05.ld",
)
tcgen05_case(
    "tmem-wait-ld",
    "register of tcgen05.ld written before wait::ld",
    T_ST + ST_WAIT + T_LD + "@%p7 mov.u32 %r35, 1; " + LD_WAIT + DEALLOC,
    at="wait::ld",
)
tcgen05_case(
    "tmem-exit",
    "thread exits with tcgen05.ld/st in flight",
    T_ST + ST_WAIT + DEALLOC.replace("@%p1", "@%p6 bra FREE; bra END; FREE: @%p1") + "END: @%p7 " + T_ST,
)
tcgen05_case(
    "tmem-freed-moving",
    "tensor memory freed with tcgen05.ld/st in flight",
    T_ST + "@%p6 " + ST_WAIT + DEALLOC + ST_WAIT,
    at="dealloc",
)
tcgen05_case(
    "tmem-freed-mma",
    "tensor memory freed while an MMA may still use it",
    ZERO + "bar.sync 0; " + T_MMA + T_COMMIT + "@%p7 bra NO; " + wait("W") + "NO: " + DEALLOC,
    at="dealloc",
)
tcgen05_case(
    "mma-other-st",
    "tensor memory of another thread's tcgen05.st used, no barrier between",
    LATE.replace("126", "127")
    + ZERO
    + "setp.ge.u32 %p2, %r1, 96; "
    + "@%p2 bar.warp.sync -1; " * 6
    + "@%p6 bar.sync 0; "
    + T_MMA
    + T_COMMIT
    + wait("W")
    + DEALLOC,
    at="tcgen05.mma",
    thread=127,
)
RESULT = ZERO + "bar.sync 0; " + T_MMA + T_COMMIT
tcgen05_case(
    "mma-result-early",
    "tcgen05.ld of an MMA's result that was not waited for",
    RESULT + "@%p7 bra NO; " + wait("W") + "NO: @%p7 bar.sync 0; " + T_LD + LD_WAIT + DEALLOC,
    at="tcgen05.ld",
)
tcgen05_case(
    "mma-result-not-committed",
    "tcgen05.ld of an MMA's result that was not waited for",
    RESULT + wait("W") + "bar.sync 0; @%p7 bra MORE; bra READ; "
    "MORE: " + T_MMA + "bar.sync 0; READ: " + T_LD + LD_WAIT + DEALLOC,
)
tcgen05_case(
    "mma-overwritten",
    "tcgen05.st over tensor memory that an MMA may still use",
    RESULT + "@%p7 bra NO; " + wait("W") + "NO: @%p7 bar.sync 0; " + T_ST + ST_WAIT + wait("V") + DEALLOC,
    at="tcgen05.st",
)
tcgen05_case(
    "mma-over-ld",
    "tensor memory overwritten before tcgen05.wait::ld",
    ZERO + T_LD + "@%p6 " + LD_WAIT + "bar.sync 0; " + T_MMA + T_COMMIT + LD_WAIT + wait("W") + DEALLOC,
    at="tcgen05.mma",
)
tcgen05_case(
    "mma-over-read",
    "tensor memory overwritten while another thread's tcgen05.ld may still read it, no barrier between",
    LATE + ZERO + "bar.sync 0; " + T_LD + LD_WAIT + "@%p6 bar.sync 0; " + T_MMA + T_COMMIT + wait("W") + DEALLOC,
    at="tcgen05.mma",
    thread=126,
)
tcgen05_case(
    "mma-smem",
    IN_USE,
    RESULT + "@%p7 bra NO; " + wait("W") + "NO: @%p7 bar.sync 0; "
    "@%p0 st.shared.u32 [%r3+1024], 1; " + wait("V") + DEALLOC,
    at="st.shared",
)
tcgen05_case(
    "mma-proxy",
    NO_FENCE,
    "st.shared.u32 [%r4+1024], %r1; @%p6 " + FENCE + RESULT + wait("W") + DEALLOC,
    at="tcgen05.mma",
)
tcgen05_case(
    "mma-descriptor",
    "tcgen05.mma: instruction descriptor not modelled",
    "@%p7 or.b32 %r32, %r32, 4; " + RESULT + wait("W") + DEALLOC,
    at="tcgen05.mma",
)
tcgen05_case(
    "mma-n",
    "tcgen05.mma: N not allowed",
    "@%p7 and.b32 %r32, %r32, 0xFF000FFF; " + RESULT + wait("W") + DEALLOC,
)
tcgen05_case(
    "mma-version",
    "tcgen05.mma: descriptor version",
    "@%p7 xor.b64 %rd20, %rd20, 0x0000400000000000; " + RESULT + wait("W") + DEALLOC,
)
tcgen05_case(
    "mma-a-tmem",
    "tcgen05.mma: A in tensor memory is modelled for M = 128, K-major only",
    "add.u32 %r36, %r30, 32; "
    "@%p6 mov.u32 %r32, 0x08040010; "
    + "".join(T_ST.replace("[%r31]", f"[%r31+{i}]") for i in range(48))
    + ST_WAIT
    + "bar.sync 0; "
    + T_MMA.replace("%rd20", "[%r36]")
    + T_COMMIT
    + wait("W")
    + DEALLOC,
)
tcgen05_case(
    "mma-tf32-mn",
    "tcgen05.mma: MN-major tf32 is not modelled",
    "mov.u32 %r32, 0x04020910; "
    "@%p7 or.b32 %r32, %r32, 0x10000; " + RESULT.replace("kind::f16", "kind::tf32") + wait("W") + DEALLOC,
)


@pytest.mark.parametrize("c", CASES, ids=lambda c: c.name)
def test_planted(c: Case) -> None:
    with pytest.raises(KernelFault) as caught:
        c.run(True, 0)
    fault = caught.value
    assert fault.reason == c.reason
    assert c.at in fault.instruction
    lines = frame(c.text, c.threads).split("\n")
    assert not fault.instruction or fault.instruction[:100] in " ".join(
        " ".join(lines[fault.line - 1 : fault.line + 2]).split()
    )
    assert fault.thread == (fault.thread[0] if c.thread is None else c.thread, 0, 0)
    assert fault.block == (fault.block[0] if c.block is None else c.block, 0, 0)
    for seed in (1, 2, 3):
        with pytest.raises(KernelFault):
            c.run(True, seed)


@pytest.mark.parametrize("c", CASES, ids=lambda c: c.name)
def test_corrected(c: Case) -> None:
    for seed in range(4):
        c.run(False, seed)


# ---- what is not a predicate away from being right
def deadlock(body: str, threads: int = 64) -> KernelFault:
    with pytest.raises(KernelFault) as caught:
        run(body.replace("; ", ";\n"), torch.zeros(4), threads=threads)
    return caught.value


def line_of(body: str, instruction: str, threads: int = 64) -> int:
    return next(
        i for i, line in enumerate(frame(body.replace("; ", ";\n"), threads).split("\n"), 1) if instruction in line
    )


def test_deadlock_of_divergent_barriers() -> None:
    body = "setp.lt.u32 %p0, %r1, 16; @%p0 bra A; bar.sync 1; bra B; A: bar.sync 0; B:"
    fault = deadlock(body)
    one, zero = line_of(body, "bar.sync 1"), line_of(body, "bar.sync 0")
    assert fault.reason == (f"deadlock: 48 threads at a barrier (line {one}); 16 threads at a barrier (line {zero})")
    assert (fault.line, fault.thread) == (zero, (0, 0, 0))


def test_deadlock_of_an_mbarrier_that_misses_arrivals() -> None:
    body = (
        "mov.u32 %r3, buf; setp.eq.u32 %p0, %r1, 0; @%p0 mbarrier.init.shared.b64 [%r3], 65; bar.sync 0; "
        "mbarrier.arrive.shared.b64 %rd9, [%r3]; "
        "W: mbarrier.try_wait.shared.b64 %p1, [%r3], %rd9; @!%p1 bra W;"
    )
    fault = deadlock(body)
    assert fault.reason == f"deadlock: 64 threads at a mbarrier (line {line_of(body, 'try_wait')})"
    assert "mbarrier.try_wait" in fault.instruction


def test_deadlock_of_an_mbarrier_that_misses_bytes() -> None:
    body = (
        "mov.u32 %r3, buf; setp.eq.u32 %p0, %r1, 0; @%p0 mbarrier.init.shared.b64 [%r3], 1; bar.sync 0; "
        "@%p0 mbarrier.arrive.expect_tx.shared.b64 _, [%r3], 16; "
        "W: mbarrier.try_wait.parity.shared.b64 %p1, [%r3], 0; @!%p1 bra W;"
    )
    assert deadlock(body).reason.startswith("deadlock: 64 threads at a mbarrier")


def test_deadlock_of_a_divergent_warp_collective() -> None:
    fault = deadlock("setp.eq.u32 %p0, %r1, 3; @%p0 bar.sync 0; bar.warp.sync -1;", threads=32)
    assert re.fullmatch(
        r"deadlock: 1 threads at a barrier \(line \d+\); "
        r"31 threads at a warp collective \(line \d+\)",
        fault.reason,
    )


def test_deadlock_of_a_cluster_barrier() -> None:
    fault = deadlock(
        "setp.eq.u32 %p0, %r1, 3; @%p0 bar.sync 1; @!%p0 barrier.cluster.arrive; @!%p0 barrier.cluster.wait;",
        threads=32,
    )
    assert re.fullmatch(
        r"deadlock: 1 threads at a barrier \(line \d+\); "
        r"31 threads at a cluster barrier \(line \d+\)",
        fault.reason,
    )


def test_endless_loop_is_a_hang() -> None:
    module = Module(frame("W: bra W;"), optimize="-O0")
    with pytest.raises(KernelFault, match=r"^hang: not finished after 0\.5 s"):
        module.launch("k", {n: torch.zeros(1) for n in "abcd"}, (1,), (32,), timeout=0.5)


def test_wgmma_of_a_part_of_a_warpgroup() -> None:
    with pytest.raises(KernelFault, match="wgmma needs whole warpgroups"):
        run(WG + WG_FENCE + MMA, torch.zeros(4), threads=96)


def test_accumulators_read_early_are_nan() -> None:
    """The registers hold a NaN until the wait, so that reading them early cannot go unnoticed."""
    read = "st.global.u32 [%rd7], %r40; "
    for before, bad in ((read, True), ("", False)):
        out = torch.zeros(128)
        body = "st.shared.u64 [%r4], %rd25; ".join(
            [
                PRELUDE + "shl.b32 %r4, %r1, 3; add.u32 %r4, %r4, %r3; mov.u64 %rd25, 0; ",
                "add.u32 %r4, %r4, 1024; " + "st.shared.u64 [%r4], %rd25; ",
            ]
        )
        body += (
            ("add.u32 %r4, %r4, 1024; st.shared.u64 [%r4], %rd25; ")
            + FENCE
            + " bar.sync 0; "
            + WG
            + WG_FENCE
            + MMA
            + WG_COMMIT
        )
        run(
            body + (before + WG_WAIT if bad else WG_WAIT + read),
            torch.zeros(4),
            out,
            d=torch.zeros(1, dtype=torch.int32),
            threads=128,
        )
        assert bool(out.isnan().all()) == bad and bool((out == 0).all()) != bad


def test_launch_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Module(frame(""), optimize="-O0")
    tensors = {n: torch.zeros(1) for n in "abcd"}
    with pytest.raises(KernelFault, match=re.escape("launch: more shared memory than a block may have (232448 bytes)")):
        module.launch("k", tensors, (1,), (32,), dynamic_shared=232448 - 16384 + 1)
    module.launch("k", tensors, (1,), (32,), dynamic_shared=232448 - 16384)
    given = check_arguments(module.kernels, "k", tensors, (1,), (32,), None, {})
    monkeypatch.setattr("gpu_on_cpu.ptx.module.check_arguments", lambda *_: given)
    with pytest.raises(KernelFault, match="launch: a block has 1 to 1024 threads"):
        module.launch("k", tensors, (1,), (1025,))


# What only the other users of the runtime can reach, and what the tests above provoke without a table.
ELSEWHERE = {
    "barrier: more threads arrived than it expects": "no arrival of PTX counts the whole block",
    "launch: more shared memory than a block may have (232448 bytes)": "test_launch_limits",
    "launch: a block has 1 to 1024 threads": "test_launch_limits",
    "wgmma needs whole warpgroups": "test_wgmma_of_a_part_of_a_warpgroup",
}


def test_every_report_has_a_case() -> None:
    found = set()
    for folder in ("ptx", "fibers"):
        for file in sorted(pathlib.Path(toolchain.CPP, folder).iterdir()):
            for call in re.findall(r"\bdie\(([^;]*)\);", file.read_text()):
                found |= set(re.findall(r'"((?:[^"\\]|\\.)*)"', call))
    assert len(found) > 100
    assert found - {c.reason for c in CASES} - set(ELSEWHERE) == set()
