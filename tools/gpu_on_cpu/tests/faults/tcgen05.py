"""Planted bugs: tcgen05: 64 columns at %r30 (%r31 for this warp), operands at buf + 1024, mbarrier at buf + 8192."""

from __future__ import annotations

from faults import case
from faults.bulk_copies import FENCE, IN_USE, NO_FENCE
from faults.mbarriers import BAR_INIT, wait

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
    "tmem-read-early",
    "register read before its asynchronous result was waited for",
    T_ST + ST_WAIT + T_LD + "@%p7 add.u32 %r36, %r35, 1; " + LD_WAIT + "add.u32 %r36, %r35, 1; " + DEALLOC,
    at="add.u32 %r36, %r35, 1",
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
    "tcgen05.mma: A in tensor memory is K-major",
    "add.u32 %r36, %r30, 32; "
    "mov.u32 %r32, 0x08040010; @%p7 mov.u32 %r32, 0x08048010; "
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
