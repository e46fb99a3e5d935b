"""ldmatrix, stmatrix and mma.sync: where every element belongs, and what the sums are."""

from __future__ import annotations

import itertools

import pytest
import torch
from support import run

LANES = range(32)
WORDS = {
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "tf32": torch.float32,
    "s8": torch.int8,
    "u8": torch.uint8,
}


# ---- ldmatrix and stmatrix. Row r of matrix i is at the address that lane 8*i+r brings; element 2*c+j of row
# r is in half j of the register of lane 4*r+c; .trans exchanges rows and columns.
def owner(row: int, column: int, trans: bool) -> tuple[int, int]:
    """(lane, half of its register) that holds an element of an 8x8 matrix in memory."""
    if trans:
        row, column = column, row
    return 4 * row + column // 2, column % 2


@pytest.mark.parametrize("trans", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix(count: int, trans: bool) -> None:
    """Every 16-bit word of 2 KiB is its own number; rows lie in random places."""
    torch.manual_seed(count)
    rows = torch.randperm(128)[:32].int()
    words = torch.arange(1024, dtype=torch.int16)
    out = torch.zeros(32, 4, dtype=torch.int32)
    four = "{%r4, %r5, %r6, %r7}"
    fill = " ".join(
        f"ld.global.v4.u32 {four}, [%rd6+{i}]; st.shared.v4.u32 [%r3+{i}], {four};" for i in range(0, 64, 16)
    )
    registers = ", ".join(f"%r{20 + i}" for i in range(count))
    run(
        f"""
        mul.wide.u32 %rd5, %r1, 64; add.u64 %rd6, %rd1, %rd5; mov.u32 %r2, buf; mul.lo.u32 %r3, %r1, 64;
        add.u32 %r3, %r3, %r2;
        {fill}
        bar.warp.sync -1;
        mul.wide.u32 %rd5, %r1, 4; add.u64 %rd6, %rd2, %rd5; ld.global.u32 %r8, [%rd6]; shl.b32 %r8, %r8, 4;
        add.u32 %r8, %r8, %r2;
        ldmatrix.sync.aligned.m8n8.x{count}{".trans" if trans else ""}.shared.b16 {{{registers}}}, [%r8];
        mul.wide.u32 %rd5, %r1, 16; add.u64 %rd7, %rd3, %rd5;
        {" ".join(f"st.global.u32 [%rd7+{4 * i}], %r{20 + i};" for i in range(count))}
        """,
        words,
        rows,
        out,
    )
    expected = torch.zeros(32, 4, 2, dtype=torch.int16)
    for i, r, c in itertools.product(range(count), range(8), range(8)):
        lane, half = owner(r, c, trans)
        expected[lane, i, half] = words.view(128, 8)[rows[8 * i + r], c]
    assert torch.equal(out.view(torch.int16).view(32, 4, 2), expected)


@pytest.mark.parametrize("trans", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_stmatrix(count: int, trans: bool) -> None:
    torch.manual_seed(count)
    rows = torch.randperm(64)[:32].int()
    values = torch.randperm(32 * 8)[: 32 * 8].to(torch.int16)  # [lane, register, half]
    out = torch.zeros(512, dtype=torch.int16)
    read = " ".join(f"ld.shared.u64 %rd10, [%r3+{i}]; st.global.u64 [%rd7+{i}], %rd10;" for i in range(0, 32, 8))
    registers = ", ".join(f"%r{20 + i}" for i in range(count))
    run(
        f"""
        mov.u32 %r2, buf; mul.lo.u32 %r3, %r1, 32; add.u32 %r3, %r3, %r2; mov.u64 %rd9, -1;
        {" ".join(f"st.shared.u64 [%r3+{8 * i}], %rd9;" for i in range(4))}
        bar.warp.sync -1;
        mul.wide.u32 %rd5, %r1, 4; add.u64 %rd6, %rd2, %rd5; ld.global.u32 %r8, [%rd6]; shl.b32 %r8, %r8, 4;
        add.u32 %r8, %r8, %r2;
        mul.wide.u32 %rd5, %r1, 16; add.u64 %rd6, %rd1, %rd5;
        ld.global.v4.u32 {{%r20, %r21, %r22, %r23}}, [%rd6];
        stmatrix.sync.aligned.m8n8.x{count}{".trans" if trans else ""}.shared::cta.b16 [%r8], {{{registers}}};
        bar.warp.sync -1;
        mul.wide.u32 %rd5, %r1, 32; add.u64 %rd7, %rd3, %rd5;
        {read}
        """,
        values,
        rows,
        out,
    )
    expected = torch.full((64, 8), -1, dtype=torch.int16)
    for i, r, c in itertools.product(range(count), range(8), range(8)):
        lane, half = owner(r, c, trans)
        expected[rows[8 * i + r], c] = values.view(32, 4, 2)[lane, i, half]
    assert torch.equal(out.view(64, 8), expected)


# ---- mma.sync.m16n8kK, the tables of "Matrix Fragments for mma.m16n8k..." in the PTX ISA: (row, column) of
# element i of a lane
def a_position(kind: str, k: int, lane: int, i: int) -> tuple[int, int]:
    group, thread = lane >> 2, lane % 4
    if kind == "tf32":
        return group + 8 * (i % 2), thread + 4 * (i // 2)
    if kind in ("s8", "u8"):
        return (group if i < 4 or 8 <= i < 12 else group + 8), thread * 4 + (i & 3) + (16 if i >= 8 else 0)
    return (group if i < 2 or 4 <= i < 6 else group + 8), thread * 2 + (i & 1) + (8 if i >= 4 else 0)


def b_position(kind: str, k: int, lane: int, i: int) -> tuple[int, int]:
    group, thread = lane >> 2, lane % 4
    if kind == "tf32":
        return thread + 4 * i, group
    if kind in ("s8", "u8"):
        return thread * 4 + (i & 3) + (16 if i >= 4 else 0), group
    return thread * 2 + (i & 1) + (8 if i >= 2 else 0), group


def c_position(lane: int, i: int) -> tuple[int, int]:
    return (lane >> 2) + (8 if i >= 2 else 0), (lane % 4) * 2 + (i & 1)


def fragments(matrices: torch.Tensor, position, count: int) -> torch.Tensor:
    """[n, rows, columns] -> [n, lane, element]."""
    places = torch.tensor([[position(lane, i) for i in range(count)] for lane in LANES])
    return matrices[:, places[..., 0], places[..., 1]].contiguous()


def mma(shape: int, kinds: tuple[str, str], a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """d = a b + c for n matrices, [n, 16, k] [n, k, 8] [n, 16, 8], in one kernel."""
    n, words = len(a), {"tf32": 1, "s8": 4, "u8": 4}.get(kinds[0], 2)
    per_lane = 16 * shape // 32
    fa = fragments(a, lambda lane, i: a_position(kinds[0], shape, lane, i), per_lane)
    fb = fragments(b, lambda lane, i: b_position(kinds[0], shape, lane, i), per_lane // 2)
    fc = fragments(c, c_position, 4)
    na, nb, nc = per_lane // words, per_lane // words // 2, 2 if c.dtype == torch.float16 else 4
    acc = {torch.float16: "f16", torch.float32: "f32", torch.int32: "s32"}[c.dtype]
    names = {
        key: ", ".join(f"%r{start + i}" for i in range(m))
        for key, start, m in (("a", 20, na), ("b", 30, nb), ("c", 40, nc), ("d", 50, nc))
    }
    out = torch.zeros_like(fc)

    def move(op: str, pointer: str, start: int, m: int) -> str:
        return " ".join(
            f"ld.global.u32 %r{start + i}, [{pointer}+{4 * i}];"
            if op == "ld"
            else f"st.global.u32 [{pointer}+{4 * i}], %r{start + i};"
            for i in range(m)
        )

    advance = " ".join(
        f"add.u64 {p}, {p}, {128 * m};" for p, m in (("%rd6", na), ("%rd7", nb), ("%rd8", nc), ("%rd9", nc))
    )
    start = " ".join(
        f"mul.wide.u32 %rd5, %r1, {4 * m}; add.u64 {p}, {base}, %rd5;"
        for p, base, m in (
            ("%rd6", "%rd1", na),
            ("%rd7", "%rd2", nb),
            ("%rd8", "%rd3", nc),
            ("%rd9", "%rd4", nc),
        )
    )
    run(
        f"""
        {start} mov.u32 %r2, {n};
        NEXT: {move("ld", "%rd6", 20, na)} {move("ld", "%rd7", 30, nb)} {move("ld", "%rd8", 40, nc)}
        mma.sync.aligned.m16n8k{shape}.row.col.{acc}.{kinds[0]}.{kinds[1]}.{acc} {{{names["d"]}}},
          {{{names["a"]}}}, {{{names["b"]}}}, {{{names["c"]}}};
        {move("st", "%rd9", 50, nc)} {advance}
        sub.u32 %r2, %r2, 1; setp.ne.u32 %p0, %r2, 0; @%p0 bra NEXT;
        """,
        fa,
        fb,
        fc,
        out,
    )
    d = torch.zeros_like(c)
    for lane, i in itertools.product(LANES, range(4)):
        row, column = c_position(lane, i)
        d[:, row, column] = out[:, lane, i]
    return d


SHAPES = [(8, "f16"), (16, "f16"), (8, "bf16"), (16, "bf16"), (4, "tf32"), (8, "tf32")]
INTEGERS = [(k, a, b) for k in (16, 32) for a in ("s8", "u8") for b in ("s8", "u8")]


@pytest.mark.parametrize(("k", "kind"), SHAPES)
def test_mma_places(k: int, kind: str) -> None:
    """One element of A is 1 at a time, those of B are all different: the product is a row of B in one row."""
    a = torch.eye(16 * k).view(16 * k, 16, k).to(WORDS[kind])
    b = (torch.arange(k * 8).view(1, k, 8) + 1).expand(16 * k, k, 8).to(WORDS[kind])
    c = torch.zeros(16 * k, 16, 8)
    assert torch.equal(mma(k, (kind, kind), a, b, c), a.float() @ b.float())
    if kind == "f16":
        assert torch.equal(mma(k, (kind, kind), a, b, c.half()), a @ b)


@pytest.mark.parametrize(("k", "a_kind", "b_kind"), INTEGERS)
def test_mma_int8(k: int, a_kind: str, b_kind: str) -> None:
    torch.manual_seed(k)
    limits = {"s8": (-128, 128), "u8": (0, 256)}
    ones = torch.eye(16 * k).view(16 * k, 16, k)
    a = torch.cat([ones, torch.randint(*limits[a_kind], (40, 16, k))]).to(WORDS[a_kind])
    b = torch.randint(*limits[b_kind], (16 * k + 40, k, 8)).to(WORDS[b_kind])
    c = torch.randint(-(2**31), 2**31, (16 * k + 40, 16, 8)).int()
    wrapped = ((a.long() @ b.long() + c.long() + 2**31) % 2**32 - 2**31).int()
    assert torch.equal(mma(k, (a_kind, b_kind), a, b, c), wrapped)


@pytest.mark.parametrize(("k", "kind"), SHAPES)
def test_mma_sums(k: int, kind: str) -> None:
    """Against fp64; the sum is rounded once."""
    torch.manual_seed(k)
    a, b, c = (
        torch.randn(30, 16, k).to(WORDS[kind]),
        torch.randn(30, k, 8).to(WORDS[kind]),
        torch.randn(30, 16, 8),
    )
    x, y = (truncated(t) if kind == "tf32" else t for t in (a, b))
    assert torch.equal(mma(k, (kind, kind), a, b, c), (x.double() @ y.double() + c.double()).float())


@pytest.mark.parametrize("k", [8, 16])
def test_mma_f16_accumulators(k: int) -> None:
    torch.manual_seed(k)
    a, b, c = torch.randn(30, 16, k).half(), torch.randn(30, k, 8).half(), torch.randn(30, 16, 8).half()
    out = mma(k, ("f16", "f16"), a, b, c)
    assert torch.equal(out, (a.double() @ b.double() + c.double()).half())
    big = torch.full((1, 16, k), 60000.0).half()
    assert (mma(k, ("f16", "f16"), big, torch.ones(1, k, 8).half(), torch.zeros(1, 16, 8).half()) == torch.inf).all()


def truncated(x: torch.Tensor) -> torch.Tensor:
    """The tensor core reads 19 bits of a tf32."""
    return (x.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


def test_tf32_is_truncated() -> None:
    a = torch.full((1, 16, 8), 1 + 2.0**-10 + 2.0**-11 + 2.0**-20)
    b = torch.eye(8).view(1, 8, 8)
    assert (mma(8, ("tf32", "tf32"), a, b, torch.zeros(1, 16, 8)) == 1 + 2.0**-10).all()


def test_mma_nan_and_infinity() -> None:
    a, b, c = torch.ones(3, 16, 16).bfloat16(), torch.ones(3, 16, 8).bfloat16(), torch.zeros(3, 16, 8)
    a[0, 2, 3], b[1, 4, 5], a[2, 0, 0], a[2, 0, 1] = torch.nan, torch.inf, torch.inf, -torch.inf
    out = mma(16, ("bf16", "bf16"), a, b, c)
    expected = a.double() @ b.double()
    assert torch.equal(out.isnan(), expected.isnan()) and torch.equal(out.nan_to_num(), expected.float().nan_to_num())
