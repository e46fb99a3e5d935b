"""Tensor memory and tcgen05.mma."""

from __future__ import annotations

import pytest
import torch
from layouts import Layout, layout, merge, to_shared
from support import run
from test_matrix import truncated

# 64 columns of tensor memory; the address goes to %r60, that of this warp's lanes to %r61.
ALLOC = """
setp.lt.u32 %p1, %r1, 32; setp.eq.u32 %p0, %r1, 0; mov.u32 %r62, buf;
@%p1 tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r62+16368], 128;
@%p1 tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;
@%p0 mbarrier.init.shared.b64 [%r62+16376], 1; bar.sync 0; tcgen05.fence::after_thread_sync;
ld.shared.u32 %r60, [%r62+16368]; shr.u32 %r61, %r1, 5; shl.b32 %r61, %r61, 21; add.u32 %r61, %r61, %r60;
"""
FREE = "tcgen05.fence::before_thread_sync; bar.sync 0; @%p1 tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r60, 128;"


# ---- data movement shapes, from CUTLASS's Copy_Traits<SM100_TMEM_LOAD_...>: (lane of tensor memory, column)
# of register i
def place(shape: str, lane: int, i: int, split: int) -> tuple[int, int]:
    if shape == "32x32b":
        return lane, i
    if shape == "16x32bx2":  # thread (16,2):(row,split)
        return lane % 16, lane // 16 * split + i
    if shape == "16x64b":  # thread (2,2,8):(8 rows, 1 column, 1 row), value: 2 columns
        return lane // 4 + 8 * (lane % 2), lane // 2 % 2 + 2 * i
    if shape == "16x128b":  # thread (4,8):(1 column, 1 row), value (2,n):(8 rows, 4 columns)
        return lane // 4 + 8 * (i % 2), lane % 4 + 4 * (i // 2)
    assert shape == "16x256b"  # thread (4,8):(2 columns, 1 row), value (2,2,n):(1 column, 8 rows, 8 columns)
    return lane // 4 + 8 * (i // 2 % 2), lane % 4 * 2 + i % 2 + 8 * (i // 4)


MOVES = [
    ("32x32b", 1, 1),
    ("32x32b", 8, 8),
    ("16x32bx2", 2, 2),
    ("16x64b", 4, 4),
    ("16x128b", 2, 4),
    ("16x256b", 1, 4),
    ("16x256b", 4, 16),
]


@pytest.mark.parametrize(("shape", "times", "count"), MOVES)
@pytest.mark.parametrize("op", ["ld", "st"])
def test_shapes(op: str, shape: str, times: int, count: int) -> None:
    """Cells hold their own number; moved with the shape on one side and plainly (32x32b) on the other."""
    start, split, upper = 5, 7, 0 if shape == "32x32b" else 16 << 16
    registers = ", ".join(f"%r{20 + i}" for i in range(count))
    immediate = f", {split}" if shape == "16x32bx2" else ""
    words = torch.arange(128 * 64, dtype=torch.int32).view(128, 64)
    values = torch.randint(1 << 30, (128, count), dtype=torch.int32)
    out = torch.zeros_like(values) if op == "ld" else torch.zeros_like(words)
    row = "mul.wide.u32 %rd5, %r1, {}; add.u64 %rd{}, %rd{}, %rd5;"
    fill = "".join(
        f"ld.global.u32 %r70, [%rd6+{4 * i}]; tcgen05.st.sync.aligned.32x32b.x1.b32 [%r61+{i}], {{%r70}};"
        for i in range(64)
    )
    read = "".join(
        f"tcgen05.ld.sync.aligned.32x32b.x1.b32 {{%r70}}, [%r61+{i}]; "
        f"tcgen05.wait::ld.sync.aligned; st.global.u32 [%rd7+{4 * i}], %r70;"
        for i in range(64)
    )
    move = {
        "ld": f"tcgen05.ld.sync.aligned.{shape}.x{times}.b32 {{{registers}}}, [%r63+{start}]{immediate}; "
        "tcgen05.wait::ld.sync.aligned;" + "".join(f"st.global.u32 [%rd7+{4 * i}], %r{20 + i};" for i in range(count)),
        "st": "".join(f"ld.global.u32 %r{20 + i}, [%rd8+{4 * i}];" for i in range(count))
        + f"tcgen05.st.sync.aligned.{shape}.x{times}.b32 [%r63+{start}]{immediate}, {{{registers}}}; "
        f"tcgen05.wait::st.sync.aligned; bar.sync 0; {read}",
    }[op]
    run(
        f"""{ALLOC} {row.format(256, 6, 1)} {row.format(4 * out.shape[1], 7, 2)}
          {row.format(4 * count, 8, 3)} add.u32 %r63, %r61, {upper};
        {fill} tcgen05.wait::st.sync.aligned; bar.sync 0; {move} {FREE}""",
        words,
        out,
        values,
        threads=128,
    )
    expected = torch.zeros_like(values) if op == "ld" else words.clone()
    for t in range(128):
        for i in range(count):
            lane, column = place(shape, t % 32, i, split)
            cell = t // 32 * 32 + (upper >> 16) + lane, start + column
            if op == "ld":
                expected[t, i] = words[cell]
            else:
                expected[cell] = values[t, i]
    assert torch.equal(out, expected)


def test_allocation() -> None:
    """One behind the other; what is freed can be had again."""
    out = torch.zeros(4, dtype=torch.int32)
    step = (
        "tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%r3], {}; bar.warp.sync -1; "
        "ld.shared.u32 %r{}, [%r3]; bar.warp.sync -1;"
    )
    free = "tcgen05.dealloc.cta_group::1.sync.aligned.b32 %r{}, {};"
    run(
        f"""mov.u32 %r3, buf;
            {step.format(32, 10)} {step.format(256, 11)} {step.format(64, 12)} {free.format(12, 64)}
              {step.format(128, 13)}
        st.global.v4.u32 [%rd1], {{%r10, %r11, %r12, %r13}};
        {free.format(13, 128)} {free.format(11, 256)} {free.format(10, 32)}""",
        out,
    )
    assert out.tolist() == [0, 32, 288, 288]


# ---- tcgen05.mma
TYPES = {"f16": (torch.float16, 0), "bf16": (torch.bfloat16, 1), "tf32": (torch.float32, 2)}
A_AT, B_AT, TOTAL = 1024, 9216, 16384


def d_lane(m: int, rows: int) -> int:
    """ "Data Path Layout Organization": layout D (M = 128) and F (M = 64)."""
    return m if rows == 128 else m // 16 * 32 + m % 16


def mma(
    kind: str,
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    a_layout: Layout | None,
    b_layout: Layout,
    negate: tuple[int, int] = (0, 0),
    accumulate: bool = True,
    seed: int = 0,
) -> torch.Tensor:
    """d = a b^T + c of [m, k] [n, k] [m, n]; a_layout None: A in tensor memory."""
    (m, n), number = c.shape, TYPES[kind][1]
    image = b_layout.image(b, B_AT, TOTAL)
    if a_layout:
        image = merge(a_layout.image(a, A_AT, TOTAL), image)
    transposed = (int(a_layout.mn_major) if a_layout else 0, int(b_layout.mn_major))
    descriptor = (
        1 << 4
        | number << 7
        | number << 10
        | negate[0] << 13
        | negate[1] << 14
        | transposed[0] << 15
        | transposed[1] << 16
        | n >> 3 << 17
        | m >> 4 << 24
    )
    cells = torch.zeros(128, n)
    for row in range(m):
        cells[d_lane(row, m)] = c[row]
    out, words = torch.zeros_like(cells), a.contiguous().view(torch.int32)
    packed = torch.zeros(128, 8, dtype=torch.int32)
    packed[:m] = words
    row_of = "mul.wide.u32 %rd5, %r1, {}; add.u64 %rd{}, %rd{}, %rd5;"
    to_tmem = "".join(
        f"ld.global.u32 %r70, [%rd7+{4 * i}]; tcgen05.st.sync.aligned.32x32b.x1.b32 [%r61+{i}], {{%r70}};"
        for i in range(n)
    )
    a_to_tmem = "".join(
        f"ld.global.u32 %r70, [%rd9+{4 * i}]; tcgen05.st.sync.aligned.32x32b.x1.b32 [%r61+{64 + i}], {{%r70}};"
        for i in range(8)
    )
    results = "".join(
        f"tcgen05.ld.sync.aligned.32x32b.x1.b32 {{%r70}}, [%r61+{i}]; "
        f"tcgen05.wait::ld.sync.aligned; st.global.u32 [%rd8+{4 * i}], %r70;"
        for i in range(n)
    )
    a_operand = "%rd20" if a_layout else "[%r64]"
    run(
        f"""
        {to_shared(TOTAL, 128)} {ALLOC} {row_of.format(4 * n, 7, 3)} {row_of.format(4 * n, 8, 4)}
          {row_of.format(32, 9, 2)} {to_tmem} {a_to_tmem} tcgen05.wait::st.sync.aligned;
        tcgen05.fence::before_thread_sync; bar.sync 0; tcgen05.fence::after_thread_sync;
        setp.eq.u32 %p2, {int(accumulate)}, 1; mov.u32 %r65, {descriptor}; add.u32 %r64, %r60, 64;
        mov.u64 %rd20, {a_layout.descriptor(A_AT, True) if a_layout else 0};
        mov.u64 %rd21, {b_layout.descriptor(B_AT, True)};
        @%p0 tcgen05.mma.cta_group::1.kind::{"tf32" if kind == "tf32" else "f16"} [%r60], {a_operand},
          %rd21, %r65, %p2;
        @%p0 tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%r62+16376];
        WAIT: mbarrier.try_wait.parity.shared.b64 %p3, [%r62+16376], 0; @!%p3 bra WAIT;
        tcgen05.fence::after_thread_sync; {results} {FREE}
        """,
        image,
        packed,
        cells,
        out,
        threads=128,
        seed=seed,
    )
    return torch.stack([out[d_lane(row, m)] for row in range(m)])


def operands(kind: str, m: int, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(m + n)
    k = 8 if kind == "tf32" else 16
    return torch.randn(m, k).to(TYPES[kind][0]), torch.randn(n, k).to(TYPES[kind][0]), torch.randn(m, n)


def expected(kind: str, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    x, y = (truncated(t) if kind == "tf32" else t for t in (a, b))
    return (x.double() @ y.double().T + c.double()).float()


@pytest.mark.parametrize("kind", ["f16", "bf16", "tf32"])
@pytest.mark.parametrize("m", [64, 128])
@pytest.mark.parametrize("swizzle", [0, 32, 64])
def test_mma(kind: str, m: int, swizzle: int) -> None:
    a, b, c = operands(kind, m, 32)
    size = TYPES[kind][0].itemsize
    out = mma(kind, a, b, c, layout(swizzle, False, m, size), layout(swizzle, False, 32, size))
    assert torch.equal(out, expected(kind, a, b, c))


@pytest.mark.parametrize(
    ("a_mn", "b_mn", "swizzle"),
    [(True, False, 128), (False, True, 128), (True, True, 32), (True, True, 0), (False, False, 128)],
)
def test_mma_majors(a_mn: bool, b_mn: bool, swizzle: int) -> None:
    a, b, c = operands("f16", 64, 64)
    out = mma(
        "f16",
        a,
        b,
        c,
        layout(swizzle, a_mn, 64, 2),
        layout(swizzle if b_mn else min(swizzle, 64), b_mn, 64, 2),
    )
    assert torch.equal(out, expected("f16", a, b, c))


@pytest.mark.parametrize("kind", ["f16", "bf16", "tf32"])
def test_a_in_tensor_memory(kind: str) -> None:
    a, b, c = operands(kind, 128, 16)
    assert torch.equal(
        mma(kind, a, b, c, None, layout(32, False, 16, TYPES[kind][0].itemsize)), expected(kind, a, b, c)
    )


@pytest.mark.parametrize("negate", [(1, 0), (0, 1), (1, 1)])
def test_negated(negate: tuple[int, int]) -> None:
    a, b, c = operands("bf16", 64, 8)
    out = mma("bf16", a, b, c, layout(32, False, 64, 2), layout(32, False, 8, 2), negate)
    assert torch.equal(out, expected("bf16", a * (-1) ** sum(negate), b, c))


@pytest.mark.parametrize("seed", range(4))
def test_without_accumulation(seed: int) -> None:
    a, b, c = operands("f16", 128, 16)
    out = mma(
        "f16",
        a,
        b,
        torch.full_like(c, torch.nan),
        layout(32, False, 128, 2),
        layout(32, False, 16, 2),
        accumulate=False,
        seed=seed,
    )
    assert torch.equal(out, expected("f16", a, b, torch.zeros_like(c)))


@pytest.mark.parametrize("seed", range(4))
def test_chain_between_two_warps(seed: int) -> None:
    """Warp 0 loads the tiles of b to one place, warp 1 multiplies: two mbarriers keep them apart."""
    torch.manual_seed(0)
    a, b = torch.randn(128, 64).half(), torch.randn(16, 64).half()
    rows, b_rows = Layout(128, False, 16, 1024), Layout(32, False, 16, 256)
    tiles = torch.stack([b_rows.image(b[:, 16 * i : 16 * i + 16], 0, 512) for i in range(4)])
    out = torch.zeros(128, 16)
    results = "".join(
        f"tcgen05.ld.sync.aligned.32x32b.x1.b32 {{%r70}}, [%r61+{i}]; "
        "tcgen05.wait::ld.sync.aligned; "
        f"st.global.u32 [%rd8+{4 * i}], %r70;"
        for i in range(16)
    )
    steps = "".join(
        f"""LOAD{i}: mbarrier.try_wait.parity.shared.b64 %p3, [more+8], {(i + 1) % 2}; @!%p3 bra LOAD{i};
        @%p0 mbarrier.arrive.expect_tx.shared.b64 _, [more], 512;
        @%p0 cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [tile], [%rd2+{512 * i}], 512,
          [more];
        FULL{i}: mbarrier.try_wait.parity.shared.b64 %p3, [more], {i % 2}; @!%p3 bra FULL{i};
        mov.u64 %rd20, {rows.descriptor(32 * i, True)}; setp.ne.u32 %p2, {i}, 0;
        @%p4 tcgen05.mma.cta_group::1.kind::f16 [%r60], %rd20, %rd21, %r65, %p2;
        @%p4 tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [more+8];"""
        for i in range(4)
    )
    run(
        f"""
        .shared .align 1024 .b8 tile[1024]; .shared .align 8 .b64 more[3]; .shared .align 8 .b32 where[2];
        {to_shared(16384, 128)} setp.lt.u32 %p1, %r1, 32; setp.eq.u32 %p0, %r1, 0; setp.eq.u32 %p4, %r1, 32;
        @%p1 tcgen05.alloc.cta_group::1.sync.aligned.b32 [where], 128;
        @%p0 mbarrier.init.shared.b64 [more], 1; @%p0 mbarrier.init.shared.b64 [more+8], 1; bar.sync 0;
        ld.shared.u32 %r60, [where]; shr.u32 %r61, %r1, 5; shl.b32 %r61, %r61, 21; add.u32 %r61, %r61, %r60;
        mul.wide.u32 %rd5, %r1, 64; add.u64 %rd8, %rd3, %rd5;
        mov.u32 %r65, {1 << 4 | 16 >> 3 << 17 | 128 >> 4 << 24};
        mov.u64 %rd21, {b_rows.descriptor(16384, True)};
        {steps}
        DONE: mbarrier.try_wait.parity.shared.b64 %p3, [more+8], 1; @!%p3 bra DONE;
        {results} {FREE}
        """,
        rows.image(a, 0, 16384),
        tiles,
        out,
        threads=128,
        seed=seed,
    )
    exact = torch.zeros(128, 16)
    for i in range(4):
        exact = (exact.double() + a[:, 16 * i : 16 * i + 16].double() @ b[:, 16 * i : 16 * i + 16].double().T).float()
    assert torch.equal(out, exact)
