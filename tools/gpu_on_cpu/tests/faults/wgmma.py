"""Planted bugs: wgmma: buf is A and B at once; %rd20, %rd21 descriptors, accumulators %r40 to %r43."""

from __future__ import annotations

from faults import case
from faults.bulk_copies import FENCE, FILL, IN_USE, NO_FENCE

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
    "wgmma-read-early",
    "register read before its asynchronous result was waited for",
    WG_FENCE + MMA + WG_COMMIT + "@%p7 st.shared.u32 [%r4], %r40; " + WG_WAIT + "st.global.u32 [%rd7], %r40; ",
    at="st.shared",
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
