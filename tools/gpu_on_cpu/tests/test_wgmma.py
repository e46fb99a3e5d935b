"""wgmma against fp64 products, with operands laid out by tests/layouts.py."""

from __future__ import annotations

import itertools

import pytest
import torch
from layouts import Layout, layout, merge, to_shared
from support import run
from test_matrix import a_position, truncated

TYPES = {"f16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32}
A_AT, B_AT, TOTAL = 0, 8192, 16384


def accumulator(lane: int, warp: int, i: int) -> tuple[int, int]:
    """ "Register Fragments", figure of the accumulator D: row and column of element i."""
    return 16 * warp + lane // 4 + 8 * (i // 2 % 2), i // 4 * 8 + lane % 4 * 2 + i % 2


def to_registers(c: torch.Tensor) -> torch.Tensor:
    """[64, n] -> [thread, element]."""
    n = c.shape[1]
    places = torch.tensor([[accumulator(t % 32, t // 32, i) for i in range(n // 2)] for t in range(128)])
    return c[places[..., 0], places[..., 1]].contiguous()


def from_registers(out: torch.Tensor, n: int) -> torch.Tensor:
    c = torch.zeros(64, n, dtype=out.dtype)
    for t, i in itertools.product(range(128), range(n // 2)):
        c[accumulator(t % 32, t // 32, i)] = out[t, i]
    return c


def wgmma(
    kind: str,
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    a_layout: Layout | None,
    b_layout: Layout,
    signs: tuple[int, int] = (1, 1),
    accumulate: bool = True,
    seed: int = 0,
) -> torch.Tensor:
    """d = a b^T + c of [64, k] [n, k] [64, n]; a_layout None: A in registers."""
    n, k = b.shape
    f16 = c.dtype == torch.float16
    count, per = (n // 4, 4) if f16 else (n // 2, 4)
    image = b_layout.image(b, B_AT, TOTAL)
    if a_layout:
        image = merge(a_layout.image(a, A_AT, TOTAL), image)
    in_registers = torch.stack(
        [
            a[
                torch.tensor([a_position(kind, k, t % 32, i) for i in range(16 * k // 32)]).T.unbind()[0]
                + 16 * (t // 32),
                torch.tensor([a_position(kind, k, t % 32, i) for i in range(16 * k // 32)]).T.unbind()[1],
            ]
            for t in range(128)
        ]
    ).contiguous()
    registers = to_registers(c)
    out = torch.zeros_like(registers)
    d_names = ", ".join(f"%q{i}" for i in range(count))
    a_operand = "{%r20, %r21, %r22, %r23}" if a_layout is None else f"{a_layout.descriptor(A_AT)}"
    transposes = (
        ([] if a_layout is None else [int(a_layout.mn_major)]) + [int(b_layout.mn_major)] if kind != "tf32" else []
    )
    immediates = ", ".join(map(str, [*signs, *transposes]))
    store = " ".join(f"st.global.u32 [%rd8+{per * i}], %q{i};" for i in range(count))
    run(
        f"""
        .reg .b32 %q<{count}>;
        {to_shared(TOTAL, 128)}
        mul.wide.u32 %rd5, %r1, {per * count}; add.u64 %rd7, %rd3, %rd5; add.u64 %rd8, %rd4, %rd5;
        {" ".join(f"ld.global.u32 %q{i}, [%rd7+{per * i}];" for i in range(count))}
        mul.wide.u32 %rd5, %r1, 16; add.u64 %rd9, %rd2, %rd5;
        ld.global.v4.u32 {{%r20, %r21, %r22, %r23}}, [%rd9];
        setp.eq.u32 %p1, {int(accumulate)}, 1; mov.u64 %rd20, {a_operand if a_layout else 0};
        mov.u64 %rd21, {b_layout.descriptor(B_AT)};
        wgmma.fence.sync.aligned;
        wgmma.mma_async.sync.aligned.m64n{n}k{k}.{"f16" if f16 else "f32"}.{kind}.{kind} {{{d_names}}},
          {a_operand if a_layout is None else "%rd20"}, %rd21, %p1, {immediates};
        wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;
        {store}
        """,
        image,
        in_registers,
        registers,
        out,
        threads=128,
        seed=seed,
    )
    return from_registers(out, n)


def operands(kind: str, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    k = 8 if kind == "tf32" else 16
    return torch.randn(64, k).to(TYPES[kind]), torch.randn(n, k).to(TYPES[kind]), torch.randn(64, n)


def expected(kind: str, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    x, y = (truncated(t) if kind == "tf32" else t for t in (a, b))
    return (x.double() @ y.double().T + c.double()).to(c.dtype)


SWIZZLES = (0, 32, 64, 128)


@pytest.mark.parametrize("swizzle", SWIZZLES)
@pytest.mark.parametrize(("a_mn", "b_mn"), [(False, False), (True, False), (False, True), (True, True)])
def test_layouts(swizzle: int, a_mn: bool, b_mn: bool) -> None:
    a, b, c = operands("f16", 64, swizzle)
    out = wgmma("f16", a, b, c, layout(swizzle, a_mn, 64, 2), layout(swizzle, b_mn, 64, 2))
    assert torch.equal(out, expected("f16", a, b, c))


@pytest.mark.parametrize("swizzle", SWIZZLES)
def test_tf32(swizzle: int) -> None:
    a, b, c = operands("tf32", 32, swizzle)
    assert torch.equal(
        wgmma("tf32", a, b, c, layout(swizzle, False, 64, 4), layout(swizzle, False, 32, 4)),
        expected("tf32", a, b, c),
    )


@pytest.mark.parametrize("n", [8, 24, 64, 128])
@pytest.mark.parametrize("kind", ["f16", "bf16", "tf32"])
def test_a_in_registers(kind: str, n: int) -> None:
    a, b, c = operands(kind, n, n)
    size = 4 if kind == "tf32" else 2
    assert torch.equal(wgmma(kind, a, b, c, None, layout(32, False, n, size)), expected(kind, a, b, c))
    if kind != "tf32" and n == 64:
        assert torch.equal(wgmma(kind, a, b, c, None, layout(128, True, n, 2)), expected(kind, a, b, c))


@pytest.mark.parametrize("n", [8, 40, 256])
def test_n(n: int) -> None:
    a, b, c = operands("bf16", n, n)
    assert torch.equal(
        wgmma("bf16", a, b, c, layout(32, False, 64, 2), layout(32, False, n, 2)), expected("bf16", a, b, c)
    )


@pytest.mark.parametrize("signs", [(1, -1), (-1, 1), (-1, -1)])
def test_signs(signs: tuple[int, int]) -> None:
    a, b, c = operands("f16", 8, 1)
    for a_layout in (layout(0, False, 64, 2), None):
        assert torch.equal(
            wgmma("f16", a, b, c, a_layout, layout(0, False, 8, 2), signs),
            expected("f16", a * signs[0] * signs[1], b, c),
        )


def test_scale_d_zero_ignores_the_accumulators() -> None:
    a, b, c = operands("f16", 16, 1)
    out = wgmma(
        "f16",
        a,
        b,
        torch.full_like(c, torch.nan),
        layout(64, False, 64, 2),
        layout(64, False, 16, 2),
        accumulate=False,
    )
    assert torch.equal(out, expected("f16", a, b, torch.zeros_like(c)))


@pytest.mark.parametrize("n", [8, 48])
def test_f16_accumulators(n: int) -> None:
    a, b, c = operands("f16", n, n)
    out = wgmma("f16", a, b, c.half(), layout(128, False, 64, 2), layout(128, False, n, 2))
    assert torch.equal(out, expected("f16", a, b, c.half()))


@pytest.mark.parametrize("seed", range(4))
def test_groups(seed: int) -> None:
    """A chain of four products, then one in a group of its own: wait_group 1 gives the first group."""
    torch.manual_seed(0)
    a, b = torch.randn(64, 64).half(), torch.randn(8, 64).half()
    rows = Layout(128, False, 16, 1024)
    image = merge(rows.image(a, A_AT, TOTAL), rows.image(b, B_AT, TOTAL))
    out = torch.zeros(2, 128, 4)
    mma = (
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {{%r{0}, %r{1}, %r{2}, %r{3}}}, "
        "%rd{a}, %rd{b}, %p{p}, 1, 1, 0, 0;"
    )
    descriptors = " ".join(
        f"mov.u64 %rd{20 + i}, {rows.descriptor(A_AT + 32 * i)}; mov.u64 %rd{30 + i}, {rows.descriptor(B_AT + 32 * i)};"
        for i in range(4)
    )
    one = [mma.format(40, 41, 42, 43, a=20 + i, b=30 + i, p=int(i > 0)) for i in range(4)]
    two = mma.format(50, 51, 52, 53, a=21, b=31, p=0)
    run(
        f"""
        {to_shared(TOTAL, 128)} {descriptors} setp.eq.u32 %p0, 0, 1; setp.eq.u32 %p1, 0, 0;
        wgmma.fence.sync.aligned;
        {one[0]} {one[1]} {one[2]} {one[3]} wgmma.commit_group.sync.aligned;
        {two} wgmma.commit_group.sync.aligned;
        mul.wide.u32 %rd5, %r1, 16; add.u64 %rd6, %rd2, %rd5;
        wgmma.wait_group.sync.aligned 1;
        st.global.v4.u32 [%rd6], {{%r40, %r41, %r42, %r43}};
        wgmma.wait_group.sync.aligned 0;
        st.global.v4.u32 [%rd6+2048], {{%r50, %r51, %r52, %r53}};
        """,
        image,
        out,
        threads=128,
        seed=seed,
    )
    first = torch.zeros(64, 8)
    for i in range(4):
        first = (first.double() + a[:, 16 * i : 16 * i + 16].double() @ b[:, 16 * i : 16 * i + 16].double().T).float()
    assert torch.equal(from_registers(out[0], 8), first)
    assert torch.equal(from_registers(out[1], 8), (a[:, 16:32].double() @ b[:, 16:32].double().T).float())


def test_two_warpgroups() -> None:
    """Each with the 64 rows that its descriptor says."""
    torch.manual_seed(0)
    a, b = torch.randn(128, 16).bfloat16(), torch.randn(8, 16).bfloat16()
    rows = Layout(32, False, 16, 256)
    image = merge(rows.image(a, A_AT, TOTAL), rows.image(b, B_AT, TOTAL))
    out = torch.zeros(256, 4)
    run(
        f"""
        {to_shared(TOTAL, 256)} setp.eq.u32 %p0, 0, 1; setp.lt.u32 %p1, %r1, 128;
        mov.u64 %rd20, {rows.descriptor(A_AT + 64 * 32)}; @%p1 mov.u64 %rd20, {rows.descriptor(A_AT)};
        mov.u64 %rd21, {rows.descriptor(B_AT)};
        wgmma.fence.sync.aligned;
        wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{%r40, %r41, %r42, %r43}}, %rd20, %rd21, %p0,
          1, 1, 0, 0;
        wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;
        mul.wide.u32 %rd5, %r1, 16; add.u64 %rd6, %rd2, %rd5;
        st.global.v4.u32 [%rd6], {{%r40, %r41, %r42, %r43}};
        """,
        image,
        out,
        threads=256,
    )
    exact = (a.double() @ b.double().T).float()
    assert torch.equal(from_registers(out[:128], 8), exact[:64]) and torch.equal(
        from_registers(out[128:], 8), exact[64:]
    )
