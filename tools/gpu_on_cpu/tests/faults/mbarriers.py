"""Planted bugs: mbarriers, at buf + 8192."""

from __future__ import annotations

from faults import case
from faults.shared_memory import READ

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
