"""Planted bugs: cp.async; every thread copies 16 bytes to its own place (%r8)."""

from __future__ import annotations

from faults import case
from faults.shared_memory import INIT, OVERWRITE, READ

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
