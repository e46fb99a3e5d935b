"""Comparisons, selection, moves, control flow, predication, scopes, variables and parameters."""

from __future__ import annotations

import itertools
import math
import operator
import struct
from collections.abc import Callable

import batch
import numpy as np
import pytest
import support
import torch
from batch import flush, number

from gpu_on_cpu.errors import KernelFault
from gpu_on_cpu.ptx.module import Module

ORDERED = {op: getattr(operator, op) for op in ("lt", "le", "gt", "ge", "eq", "ne")}
UNSIGNED = ORDERED | {"lo": operator.lt, "ls": operator.le, "hi": operator.gt, "hs": operator.ge}
EQUALITY = {op: ORDERED[op] for op in ("eq", "ne")}
BOOLEAN = {"and": operator.and_, "or": operator.or_, "xor": operator.xor}


def on_floats() -> dict[str, Callable[[float, float], bool]]:
    def unordered(x: float, y: float) -> bool:
        return math.isnan(x) or math.isnan(y)

    found = {op: lambda x, y, f=f: not unordered(x, y) and f(x, y) for op, f in ORDERED.items()}
    found |= {op + "u": lambda x, y, f=f: unordered(x, y) or f(x, y) for op, f in ORDERED.items()}
    return found | {"nan": unordered, "num": lambda x, y: not unordered(x, y)}


FLOATS = on_floats()
INTEGER_EDGES = [
    0,
    1,
    2,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
]
EDGES = {
    "integers": INTEGER_EDGES,
    "f32": [
        0,
        1 << 31,
        1,
        0x80000001,
        0x7FFFFF,
        0x800000,
        0x3F800000,
        0x3F800001,
        0xBF800000,
        0x7F7FFFFF,
        0x7F800000,
        0xFF800000,
        0x7FC00000,
    ],
    "f64": [
        0,
        1 << 63,
        1,
        (1 << 63) + 1,
        0x3FF << 52,
        (0x3FF << 52) + 1,
        0xBFF << 52,
        0x7FF << 52,
        0xFFF << 52,
        0x7FF8 << 48,
    ],
    "f16": [0, 0x8000, 1, 0x8001, 0x3FF, 0x400, 0x3C00, 0x3C01, 0xBC00, 0x7BFF, 0x7C00, 0xFC00, 0x7E00],
    "bf16": [0, 0x8000, 1, 0x8001, 0x7F, 0x80, 0x3F80, 0x3F81, 0xBF80, 0x7F7F, 0x7F80, 0xFF80, 0x7FC0],
}


def words(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of edge values; of 16-bit numbers a second one in the upper half."""
    result = batch.triples(EDGES[kind], np.random.default_rng(7).integers(0, 1 << 64, (3, 120), dtype=np.uint64))
    if kind not in ("f16", "bf16"):
        return result
    low = [x & np.uint64(0xFFFF) for x in result]
    return tuple(x | np.roll(x, 5 + i) << np.uint64(16) for i, x in enumerate(low))


WORDS = {kind: words(kind) for kind in EDGES}
Case = tuple[str, Callable[..., int | float]]  # the type of the first two inputs; the third is a predicate's word
CASES: dict[str, dict[str, Case]] = {kind: {} for kind in EDGES}


def add_comparisons(group: str, kind: str, operations: dict[str, Callable[..., bool]], ftz: str = "") -> None:
    """setp and set of every comparison; with a third predicate of two of them."""
    w = 16 if "16" in kind else int(kind[1:])
    sources = f"a{w}, b{w}"
    for i, (op, f) in enumerate(operations.items()):
        CASES[group][f"setp.{op}{ftz}.{kind} p|q, {sources}"] = (
            kind,
            lambda x, y, c, f=f: f(x, y) + 2 * (not f(x, y)),
        )
        if w > 16 or group == "integers":
            d, value = (("u32", 0xFFFFFFFF), ("s32", 0xFFFFFFFF), ("f32", 0x3F800000))[i % 3]
            CASES[group][f"set.{op}{ftz}.{d}.{kind} d32, {sources}"] = (
                kind,
                lambda x, y, c, f=f, v=value: v if f(x, y) else 0,
            )
    for op, (name, combine), flip in itertools.product(("eq", list(operations)[-1]), BOOLEAN.items(), (0, 1)):

        def both(x, y, c, f=operations[op], combine=combine, flip=flip):
            first, third = int(f(x, y)), c & 1 ^ flip
            return combine(first, third) + 2 * combine(1 - first, third)

        CASES[group][f"setp.{op}.{name}{ftz}.{kind} p|q, {sources}, {'!' if flip else ''}pc"] = kind, both


for w in (16, 32, 64):
    for sign, operations in {"s": ORDERED, "u": UNSIGNED, "b": EQUALITY}.items():
        add_comparisons("integers", f"{sign}{w}", operations)
    for kind in (f"s{w}", f"u{w}", f"b{w}", *([f"f{w}"] if w > 16 else [])):
        read = f"b{w}"
        CASES["integers"] |= {
            f"selp.{kind} d{w}, a{w}, b{w}, pc": (read, lambda x, y, c: x if c & 1 else y),
            f"selp.{kind} d{w}, a{w}, b{w}, !pc": (read, lambda x, y, c: y if c & 1 else x),
            f"slct.{kind}.s32 d{w}, a{w}, b{w}, c32": (
                read,
                lambda x, y, c: x if number(c, "s32") >= 0 else y,
            ),
        }
CASES["integers"]["setp.eq.s32 p, a32, -1"] = "s32", lambda x, y, c: int(x == -1)
for kind in ("f32", "f64", "f16", "bf16"):
    add_comparisons(kind, kind, FLOATS)
    if kind in ("f32", "f16"):
        flushing = {op: lambda x, y, f=f, kind=kind: f(flush(x, kind), flush(y, kind)) for op, f in FLOATS.items()}
        add_comparisons(kind, kind, flushing, ".ftz")
PAIRS = {kind: {f"setp.{op}.{kind}x2 p|q, a32, b32": f for op, f in FLOATS.items()} for kind in ("f16", "bf16")}
CASES["f32"] |= {
    "slct.b64.f32 d64, a64, b64, c32": (
        "b64",
        lambda x, y, c: x if float(batch.floats(np.uint64(c), "f32")) >= 0 else y,
    ),
    "slct.ftz.u32.f32 d32, a32, b32, c32": (
        "b32",
        lambda x, y, c: x if flush(float(batch.floats(np.uint64(c), "f32"))) >= 0 else y,
    ),
}


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, np.ndarray]]:
    return {group: batch.batch([*cases, *PAIRS.get(group, ())], *WORDS[group]) for group, cases in CASES.items()}


@pytest.mark.parametrize(("group", "text"), [(group, text) for group, cases in CASES.items() for text in cases])
def test_comparison(group, text, results):
    kind, function = CASES[group][text]
    a, b, c = WORDS[group]
    x, y = (batch.floats(w, kind).tolist() if "f" in kind else [number(v, kind) for v in w] for w in (a, b))
    mask = (1 << int(text.split()[1][1:-1])) - 1 if " d" in text else 3
    for i, got in enumerate(results[group][text].tolist()):
        assert got == function(x[i], y[i], int(c[i])) & mask, (x[i], y[i], hex(c[i]))


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, pairs in PAIRS.items() for text in pairs])
def test_packed_comparison(kind, text, results):
    """The first predicate is that of the lower halves."""
    f = PAIRS[kind][text]
    low, high = ([batch.floats(w >> np.uint64(s), kind).tolist() for w in WORDS[kind][:2]] for s in (0, 16))
    expected = [f(*lo) + 2 * f(*hi) for lo, hi in zip(zip(*low, strict=True), zip(*high, strict=True), strict=True)]
    assert results[kind][text].tolist() == expected


# ---- small programs: each thread writes 32-bit words behind each other
def outcome(body: str, count: int = 1, *, threads: int = 32, a: torch.Tensor | None = None) -> list[list[int]]:
    """What every thread leaves in %r10, %r11, ..."""
    stores = " ".join(f"st.global.b32 [%rd9+{4 * i}], %r{10 + i};" for i in range(count))
    d = torch.zeros(threads, count, dtype=torch.int32)
    place = f"mul.wide.u32 %rd9, %r1, {4 * count}; add.u64 %rd9, %rd4, %rd9;"
    support.run(f"{place}\n{body}\n{stores}", torch.zeros(1) if a is None else a, d=d, threads=threads)
    return (d.long() & 0xFFFFFFFF).tolist()


def test_mov_packs_and_unpacks():
    body = """
      mov.b64 %rd20, {%r1, 7}; mov.b64 {%r10, %r11}, %rd20;
      mov.b32 %r20, 0x12345678; mov.b32 {%h1, %h2}, %r20; cvt.u32.u16 %r12, %h1; cvt.u32.u16 %r13, %h2;
      mov.b32 %r14, {%h2, %h1};
      mov.b64 %rd21, {%h1, %h2, %h2, %h1}; mov.b64 {%r15, %r16}, %rd21;
      mov.b64 {%h3, _, _, %h4}, %rd21; mov.b32 %r17, {%h3, %h4};
      mov.b64 {_, %r18}, %rd20;
      .reg .b8 %b<4>; mov.b32 {%b0, %b1, %b2, %b3}, %r20; mov.b32 %r19, {%b3, %b2, %b1, %b0};"""
    expected = [7, 0x5678, 0x1234, 0x56781234, 0x12345678, 0x56781234, 0x56785678, 7, 0x78563412]
    assert outcome(body, 10) == [[t, *expected] for t in range(32)]


def test_mov_swaps_the_halves_of_its_own_source():
    assert outcome(
        "mov.b32 %r11, 5; mov.b64 %rd20, {%r1, %r11}; mov.b64 {%r11, %r10}, %rd20;"
        "mov.b64 %rd20, {%r11, %r10}; mov.b64 {%r10, %r11}, %rd20;",
        2,
    ) == [[t, 5] for t in range(32)]


def test_mov_of_predicates_literals_and_special_registers():
    body = """
      setp.gt.u32 %p1, %r1, 20; mov.pred %p2, %p1; selp.u32 %r10, 1, 0, %p2;
      mov.pred %p3, 1; selp.u32 %r11, 1, 0, %p3;
      mov.f32 %r12, 0f3FC00000; mov.f64 %rd20, 0d3FF8000000000000; cvt.rn.f32.f64 %r13, %rd20;
      mov.s32 %r14, -2;
      mov.u32 %r15, %laneid; mov.u32 %r16, %ntid.x; mov.u32 %r17, WARP_SZ; mov.u32 %r18, %lanemask_lt;
      mov.u16 %h1, -1; cvt.u32.u16 %r19, %h1;"""
    expected = [
        [int(t > 20), 1, 0x3FC00000, 0x3FC00000, 0xFFFFFFFE, t % 32, 64, 32, (1 << t % 32) - 1, 0xFFFF]
        for t in range(64)
    ]
    assert outcome(body, 10, threads=64) == expected


def test_cvta_and_isspacep():
    tests = "\n".join(
        f"isspacep.{space} %p1, %rd{r}; selp.u32 %r{10 + i}, 1, 0, %p1;"
        for i, (r, space) in enumerate(itertools.product((20, 21, 22), ("shared", "shared::cta", "global")))
    )
    body = f"""
      .local .align 8 .b8 depot[64];
      mov.u64 %rd10, buf; cvta.shared.u64 %rd20, %rd10;
      mov.u64 %rd11, depot; cvta.local.u64 %rd21, %rd11; cvta.to.global.u64 %rd12, %rd1;
      cvta.global.u64 %rd22, %rd12;
      {tests}
      mul.wide.u32 %rd13, %r1, 4; add.u64 %rd14, %rd20, %rd13; st.u32 [%rd14], %r1;
      cvta.to.shared.u64 %rd15, %rd14; ld.shared.u32 %r19, [%rd15];
      cvta.shared::cta.u64 %rd16, %rd15; setp.eq.u64 %p2, %rd16, %rd14; selp.u32 %r20, 1, 0, %p2;
      st.u32 [%rd21+12], 77; cvta.to.local.u64 %rd17, %rd21; ld.local.u32 %r21, [%rd17+12];"""
    spaces = [1, 1, 0, 0, 0, 0, 0, 0, 1]
    assert outcome(body, 12) == [[*spaces, t, 1, 77] for t in range(32)]


def test_local_memory_is_the_threads_own_and_starts_undefined():
    body = """
      .local .align 16 .b8 __local_depot0[32];
      .reg .b64 %SP, %SPL;
      mov.u64 %SPL, __local_depot0; cvta.local.u64 %SP, %SPL;
      ld.local.u32 %r10, [%SPL+28];
      st.local.v2.u32 [%SPL], {%r1, 5}; st.u32 [%SP+8], 9;
      bar.sync 0;
      ld.v2.u32 {%r11, %r12}, [%SP]; ld.local.u32 %r13, [__local_depot0+8];"""
    assert outcome(body, 4) == [[0xFFFFFFFF, t, 5, 9] for t in range(32)]


def test_local_memory_out_of_bounds_is_a_fault():
    with pytest.raises(KernelFault, match="local access outside") as e:
        outcome("ld.local.u32 %r10, [%rd1];")
    assert e.value.instruction == "ld.local.u32 %r10, [%rd1]"


# ---- control flow
def test_branches_and_predication():
    body = """
      mov.u32 %r10, 0; mov.u32 %r11, %r1;
    $LOOP:
      setp.eq.u32 %p1, %r11, 0;
      @%p1 bra $DONE;
      add.u32 %r10, %r10, %r11;
      sub.u32 %r11, %r11, 1;
      bra.uni $LOOP;
    $DONE:
      setp.lt.u32 %p2, %r1, 10;
      mov.u32 %r12, 1; @%p2 mov.u32 %r12, 2; @!%p2 add.u32 %r12, %r12, 100;
      @!%p2 bra AFTER;
      mov.u32 %r11, 55;
    AFTER:"""
    assert outcome(body, 3) == [[t * (t + 1) // 2, 55 if t < 10 else 0, 2 if t < 10 else 101] for t in range(32)]


def test_return_and_exit_end_one_thread():
    body = """
      mov.u32 %r10, 1; st.global.b32 [%rd9], %r10; setp.lt.u32 %p1, %r1, 3; @%p1 exit;
      setp.lt.u32 %p1, %r1, 6; @%p1 ret; setp.lt.u32 %p1, %r1, 9; @%p1 ret.uni; mov.u32 %r10, 2;"""
    assert outcome(body) == [[1 if t < 9 else 2] for t in range(32)]


BRX = """
      {setup}
      targets: .branchtargets $A, $B,
        $C;
      brx.idx{uni} %r11, targets;
    $A: mov.u32 %r10, 100; bra $END;
    $B: mov.u32 %r10, 200; bra $END;
    $C: mov.u32 %r10, 300;
    $END:"""


def test_branch_by_index():
    assert outcome(BRX.format(setup="rem.u32 %r11, %r1, 3;", uni="")) == [[100 * (t % 3 + 1)] for t in range(32)]
    assert outcome(BRX.format(setup="mov.u32 %r11, 1;", uni=".uni")) == [[200]] * 32


def test_branch_by_index_outside_the_table_is_a_fault():
    with pytest.raises(KernelFault, match="index outside the table") as e:
        outcome(BRX.format(setup="mov.u32 %r11, %r1;", uni=""))
    assert e.value.instruction == "brx.idx %r11, targets" and e.value.thread == (3, 0, 0)


def test_scopes_have_their_own_registers_and_labels():
    body = """
      .reg .b32 t; mov.u32 t, 1000; mov.u32 %r10, 0;
      {
        .reg .b32 t; .reg .pred q;
        mov.u32 t, 3;
      loop:
        { .reg .b32 t; mov.u32 t, 10; add.u32 %r10, %r10, t; bra skip; add.u32 %r10, %r10, 500; skip: }
        sub.u32 t, t, 1; setp.ne.u32 q, t, 0;
        @q bra loop;
      }
      {
        .reg .b32 t1;
        mov.u32 t1, 7;
      loop:
        sub.u32 t1, t1, 1; setp.ne.u32 %p1, t1, 0; add.u32 %r10, %r10, 1;
        @%p1 bra loop;
        bra end;
        add.u32 %r10, %r10, 4000;
      end:
      }
      add.u32 %r10, %r10, t;"""
    assert outcome(body) == [[1000 + 30 + 7]] * 32


def test_trap_names_the_thread_and_the_line():
    body = "setp.eq.u32 %p1, %r1, 5;\n@%p1 trap;"
    with pytest.raises(KernelFault, match="trap") as e:
        support.run(body, torch.zeros(1))
    assert e.value.thread == (5, 0, 0) and e.value.instruction == "@%p1 trap"
    assert support.frame(body).split("\n")[e.value.line - 1] == "@%p1 trap;"


def test_what_has_no_effect_here():
    assert (
        outcome(
            "mov.u32 %r10, 3; setp.ne.u32 %p1, %r1, %r1; @%p1 trap; nanosleep.u32 100;"
            "setmaxnreg.inc.sync.aligned.u32 232; setmaxnreg.dec.sync.aligned.u32 40; pmevent 1;"
        )
        == [[3]] * 32
    )


# ---- whole modules
HEADER = ".version 8.8\n.target sm_100a\n.address_size 64\n"


def launch(module_text: str, args: dict[str, object], **options: object) -> None:
    module = Module(HEADER + module_text, optimize="-O0")
    module.launch("k", args, (1,), (1,), timeout=20, **options)
    support.record(module)


def test_module_variables():
    text = """
    .const .align 4 .b32 table[4] = {1, 2, -3, 0x10};
    .visible .const .u16 one = 77;
    .global .align 8 .b64 start = 0x123456789A;
    .visible .global .align 4 .u32 counter;
    .global .align 1 .b8 bytes[8] = {1, 2, 255};
    .visible .entry k(.param .u64 out)
    {
      .reg .b32 %r<20>; .reg .b64 %rd<10>; .reg .b16 %h1;
      ld.param.u64 %rd1, [out];
      ld.const.u32 %r1, [table+4]; mov.u64 %rd2, table; ld.const.s32 %r2, [%rd2+8];
      ld.const.v2.u32 {%r3, %r4}, [table+8];
      ld.const.u16 %h1, [one]; cvt.u32.u16 %r5, %h1;
      cvta.const.u64 %rd4, %rd2; ld.u32 %r12, [%rd4+12]; cvta.to.const.u64 %rd5, %rd4;
      ld.const.u32 %r13, [%rd5];
      ld.global.u64 %rd3, [start]; mov.b64 {%r6, %r7}, %rd3;
      atom.global.add.u32 %r8, [counter], 5; ld.global.u32 %r9, [counter];
      ld.global.u8 %r10, [bytes+2]; ld.global.s8 %r11, [bytes+2]; ld.global.u8 %r14, [bytes+3];
      st.global.v4.u32 [%rd1], {%r1, %r2, %r3, %r4}; st.global.v4.u32 [%rd1+16], {%r5, %r6, %r7, %r8};
      st.global.v4.u32 [%rd1+32], {%r9, %r10, %r11, %r12}; st.global.v2.u32 [%rd1+48], {%r13, %r14};
      ret;
    }"""
    for _ in range(2):  # every launch starts from the initial values
        out = torch.zeros(14, dtype=torch.int32)
        launch(text, {"out": out})
        assert out.tolist() == [2, -3, -3, 16, 77, 0x3456789A, 0x12, 0, 5, 255, -1, 16, 1, 0]


def test_constant_memory_is_read_only():
    text = ".const .b32 x = 1;\n.visible .entry k() { .reg .b64 %rd1; mov.u64 %rd1, x;\n"
    text += " st.global.u32 [%rd1], 2;\n ret; }"
    with pytest.raises(KernelFault, match="write to an input"):
        launch(text, {})


PARAMETERS = """
    .visible .entry k(.param .u64 .ptr .global .align 8 out, .param .u8 p8, .param .s16 p16, .param .f32 p32,
      .param .f64 p64,
      .param .align 8 .b8 struct[24], .param .b32 q32, .param .s64 q64)
    {
      .reg .b32 %r<20>; .reg .b64 %rd<20>; .reg .b16 %h<4>;
      ld.param.u64 %rd1, [out];
      ld.param.u8 %h1, [p8]; cvt.u64.u16 %rd2, %h1; ld.param.s16 %r1, [p16]; cvt.s64.s32 %rd3, %r1;
      ld.param.f32 %r2, [p32]; cvt.u64.u32 %rd4, %r2; ld.param.f64 %rd5, [p64];
      ld.param.v2.u32 {%r3, %r4}, [struct]; mov.b64 %rd6, {%r4, %r3}; ld.param.b64 %rd7, [struct+8];
      ld.param.s8 %r5, [struct+17]; cvt.s64.s32 %rd8, %r5;
      ld.param.b32 %r6, [q32]; cvt.u64.u32 %rd9, %r6; ld.param.u64 %rd10, [q64];
      ld.param.v4.b16 {%h0, %h1, %h2, %h3}, [struct]; mov.b64 %rd11, {%h0, %h1, %h2, %h3};
      mov.b64 %rd12, struct; cvta.param.u64 %rd12, %rd12; ld.u64 %rd13, [%rd12+8];
      cvta.to.param.u64 %rd12, %rd12;
      st.global.v2.u64 [%rd1], {%rd2, %rd3}; st.global.v2.u64 [%rd1+16], {%rd4, %rd5};
      st.global.v2.u64 [%rd1+32], {%rd6, %rd7};
      st.global.v2.u64 [%rd1+48], {%rd8, %rd9}; st.global.v2.u64 [%rd1+64], {%rd10, %rd11};
      st.global.u64 [%rd1+80], %rd13;
      ret;
    }"""


@pytest.mark.parametrize(
    ("p8", "p16", "q32", "q64"),
    [(200, -5, 2**32 - 1, -1), (0, 2**15 - 1, -(2**31), 2**64 - 1), (-1, 65535, True, 0)],
)
def test_parameters_of_every_size(p8, p16, q32, q64):
    data = struct.pack("<IIqBbxxxxxx", 11, 12, -13, 200, -7)
    out = torch.zeros(11, dtype=torch.int64)
    args = {
        "out": out,
        "p8": p8,
        "p16": p16,
        "p32": 1.5,
        "p64": -2.25,
        "struct": data,
        "q32": q32,
        "q64": q64,
    }
    launch(PARAMETERS, args)
    (f32,), (f64,) = (
        struct.unpack("<I", struct.pack("<f", 1.5)),
        struct.unpack("<q", struct.pack("<d", -2.25)),
    )
    expected = [
        p8 & 255,
        number(p16, "s16"),
        f32,
        f64,
        12 | 11 << 32,
        -13,
        -7,
        q32 & 0xFFFFFFFF,
        number(q64, "s64"),
        11 | 12 << 32,
        -13,
    ]
    assert out.tolist() == expected


ADDRESSED = """
    .visible .entry k(.param .u64 out, .param .align 8 .b8 struct[24], .param .u32 at)
    {{
      .reg .b32 %r<4>; .reg .b64 %rd<8>;
      ld.param.u64 %rd1, [out]; ld.param.u32 %r1, [at]; cvt.u64.u32 %rd2, %r1;
      mov.b64 %rd3, struct; add.s64 %rd4, %rd3, %rd2;
      ld.param.u64 %rd5, [%rd4+{offset}]; st.global.u64 [%rd1], %rd5;
      ret;
    }}"""


@pytest.mark.parametrize("at, offset", [(0, 8), (8, 0), (16, -8)])
def test_parameters_at_computed_addresses(at, offset):
    out = torch.zeros(1, dtype=torch.int64)
    launch(ADDRESSED.format(offset=offset), {"out": out, "struct": struct.pack("<3q", 1, 22, 3), "at": at})
    assert out.item() == 22


@pytest.mark.parametrize("at, offset", [(0, -1), (0, 17), (24, 0)])
def test_computed_addresses_outside_the_parameters(at, offset):
    with pytest.raises(KernelFault, match=r"ld\.param: outside the parameters"):
        launch(ADDRESSED.format(offset=offset), {"out": torch.zeros(1), "struct": bytes(24), "at": at})


def test_two_kernels_of_one_module_have_their_own_names():
    text = HEADER + "".join(
        f""".visible .entry {name}(.param .u64 {name}_param_0)
        {{ .reg .b32 %r<2>; .reg .b64 %rd<2>; ld.param.u64 %rd1, [{name}_param_0]; mov.u32 %r1, {value};
          bra DONE;
          mov.u32 %r1, 0; DONE: st.global.u32 [%rd1], %r1; ret; }}
        """
        for name, value in (("first", 1), ("second$2", 2))
    )
    module = Module(text, optimize="-O0")
    for name, value in (("first", 1), ("second$2", 2)):
        out = torch.zeros(1, dtype=torch.int32)
        module.launch(name, {"out": out}, (1,), (1,))
        assert out.item() == value
