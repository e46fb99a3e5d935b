"""Planted bugs: races in shared memory."""

from __future__ import annotations

from faults import case

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
