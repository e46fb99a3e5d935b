"""Planted bugs: global memory."""

from __future__ import annotations

from faults import case

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
case(
    "parameter",
    "ld.param: outside the parameters",
    "mov.u64 %rd8, k_param_0; @%p7 add.u64 %rd8, %rd8, 8; ld.param.u64 %rd9, [%rd8]; st.global.u32 [%rd9], 1;",
    at="ld.param",
)
