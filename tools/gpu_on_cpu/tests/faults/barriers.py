"""Planted bugs: named barriers: warp 0 produces, warp 1 consumes."""

from __future__ import annotations

from faults import case
from faults.shared_memory import READ

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
