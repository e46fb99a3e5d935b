"""Planted bugs: bulk copies; thread 0 loads 64 bytes of a to buf."""

from __future__ import annotations

from faults import case
from faults.async_copy import COPY, NOT_WAITED, OWN
from faults.mbarriers import BAR_INIT, wait
from faults.shared_memory import INIT, OVERWRITE, READ

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
