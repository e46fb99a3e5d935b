"""Loads, stores and atomics of every space, width and operator; the figures of traffic."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from support import record, run

from gpu_on_cpu.ptx.module import Module
from gpu_on_cpu.traffic import Access

OWN = "setp.eq.u32 %p0, %r1, 0; mul.wide.u32 %rd5, %r1, 4; add.u64 %rd6, %rd1, %rd5; add.u64 %rd7, %rd2, %rd5; "
# Where 64 bytes lie, as an address in %rd10 or %r10 and as the space of an instruction.
SPACES = {
    "global": ("", ".global", "%rd1"),
    "generic-global": ("", "", "%rd1"),
    "shared": ("{fill_shared}", ".shared", "%r10"),
    "shared-cta": ("{fill_shared}", ".shared::cta", "%r10"),
    "generic-shared": ("{fill_shared} cvt.u64.u32 %rd10, %r10; cvta.shared.u64 %rd10, %rd10;", "", "%rd10"),
    "local": ("{fill_local}", ".local", "%rd10"),
    "generic-local": ("{fill_local} cvta.local.u64 %rd10, %rd10;", "", "%rd10"),
}
FILL_SHARED = "mov.u32 %r10, buf;" + "".join(
    f"ld.global.u64 %rd20, [%rd1+{i}]; st.shared.u64 [buf+{i}], %rd20;" for i in range(0, 64, 8)
)
FILL_LOCAL = ".local .align 16 .b8 mine[64]; mov.u64 %rd10, mine;" + "".join(
    f"ld.global.u64 %rd20, [%rd1+{i}]; st.local.u64 [mine+{i}], %rd20;" for i in range(0, 64, 8)
)
TYPES = [f"{kind}{bits}" for kind in "bus" for bits in (8, 16, 32, 64)] + ["f32", "f64"]


def bits_of(kind: str) -> int:
    return int(kind[1:])


def setup(space: str) -> tuple[str, str, str]:
    prepare, name, address = SPACES[space]
    return "@!%p0 bra END;" + prepare.format(fill_shared=FILL_SHARED, fill_local=FILL_LOCAL), name, address


def read_bytes(memory: bytes, at: int, kind: str) -> int:
    """As a 64-bit register gets it."""
    return int.from_bytes(memory[at : at + bits_of(kind) // 8], "little", signed=kind[0] == "s") % 2**64


@pytest.mark.parametrize("space", SPACES)
def test_loads(space: str) -> None:
    """Every type into a 64-bit register: s extends the sign, the others zeros; offsets of both signs."""
    torch.manual_seed(0)
    source = torch.randint(0, 256, (64,), dtype=torch.uint8)
    prepare, name, address = setup(space)
    out = torch.zeros(len(TYPES), 2, dtype=torch.int64)
    end = "%r11" if address == "%r10" else "%rd11"
    body, expected = "", []
    for i, kind in enumerate(TYPES):
        size = bits_of(kind) // 8
        for j, at in enumerate((24, 64 - size)):
            where = f"[{address}+{at}]" if j == 0 else f"[{end}+{at - 64}]"
            body += f"ld{name}.{kind} %rd20, {where}; st.global.u64 [%rd2+{16 * i + 8 * j}], %rd20;"
            expected.append(read_bytes(source.numpy().tobytes(), at, kind))
    run(
        f"{OWN} {prepare} add.{'u32' if end == '%r11' else 'u64'} {end}, {address}, 64; {body} END:",
        source,
        out,
    )
    assert [x % 2**64 for x in out.flatten().tolist()] == expected


@pytest.mark.parametrize("space", SPACES)
def test_stores(space: str) -> None:
    """Every type, from a 64-bit register: what does not fit is cut off, the neighbours stay."""
    torch.manual_seed(0)
    source, out = (
        torch.randint(0, 256, (64,), dtype=torch.uint8),
        torch.zeros(len(TYPES), 64, dtype=torch.uint8),
    )
    prepare, name, address = setup(space)
    body = "mov.u64 %rd20, 0x8899AABBCCDDEEFF; mov.u64 %rd22, 0;"
    for i, kind in enumerate(TYPES):
        body += f"st{name}.{kind} [{address}+16], %rd20;"
        body += (
            "".join(
                f"ld{name}.u64 %rd21, [{address}+{k}]; st.global.u64 [%rd2+{64 * i + k}], %rd21;"
                for k in range(0, 64, 8)
            )
            + f"st{name}.u64 [{address}+16], %rd22;"
        )
    expected = source.repeat(len(TYPES), 1)
    value = (0x8899AABBCCDDEEFF).to_bytes(8, "little")
    for i, kind in enumerate(TYPES):
        expected[i, 16:24] = source[16:24] if i == 0 else 0
        expected[i, 16 : 16 + bits_of(kind) // 8] = torch.tensor(list(value[: bits_of(kind) // 8]), dtype=torch.uint8)
    run(f"{OWN} {prepare} {body} END:", source, out)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("space", ["global", "shared", "generic-shared", "local"])
def test_vectors(space: str) -> None:
    source = torch.randint(0, 256, (64,), dtype=torch.uint8)
    forms = [
        (n, kind)
        for n in (2, 4, 8)
        for kind in ("b8", "s16", "u32", "f32", "b64")
        if n * bits_of(kind) <= (256 if space == "global" else 128)
    ]
    out = torch.zeros(len(forms), 32, dtype=torch.uint8)
    prepare, name, address = setup(space)
    body = ""
    for i, (n, kind) in enumerate(forms):
        bank = {8: "%h", 16: "%h", 32: "%r4", 64: "%rd4"}[bits_of(kind)]
        registers = ", ".join(f"{bank}{k}" for k in range(n))
        body += (
            f"ld{name}.v{n}.{kind} {{{registers}}}, [{address}+32]; "
            f"st.global.v{n}.{kind} [%rd2+{32 * i}], {{{registers}}};"
        )
    expected = torch.zeros_like(out)
    for i, (n, kind) in enumerate(forms):
        size = n * bits_of(kind) // 8
        expected[i, :size] = source[32 : 32 + size]
    run(
        f"{OWN} {prepare} {body} ld{name}.v2.u32 {{_, %r2}}, [{address}]; "
        f"st{name}.v2.u32 [{address}], {{%r2, %r2}}; END:",
        source,
        out,
        traffic=True,
    )
    assert torch.equal(out, expected)


def test_operators_of_caches_and_order() -> None:
    """They change nothing in what one thread sees."""
    caches = [
        "",
        ".ca",
        ".cg",
        ".cs",
        ".lu",
        ".cv",
        ".L1::evict_last",
        ".L1::no_allocate.L2::128B",
        ".L2::256B",
    ]
    loads = [f"ld.global{nc}{c}.u32" for nc in ("", ".nc") for c in caches] + [
        f"ld.{order}{scope}.global.u32"
        for order in ("relaxed", "acquire")
        for scope in (".cta", ".cluster", ".gpu", ".sys")
    ]
    loads += ["ld.weak.global.u32", "ld.volatile.global.u32", "ld.volatile.u32"]
    stores = [f"st.global{c}.u32" for c in ("", ".wb", ".cg", ".cs", ".wt", ".L1::evict_first")]
    stores += [
        f"st.{order}{scope}.global.u32" for order in ("relaxed", "release") for scope in (".cta", ".gpu", ".sys")
    ] + ["st.volatile.global.u32", "st.weak.u32"]
    out = torch.zeros(len(loads) + len(stores), 32, dtype=torch.int32)
    a = torch.arange(7, 39, dtype=torch.int32)
    body = "".join(f"{op} %r2, [%rd6]; st.global.u32 [%rd7+{128 * i}], %r2;" for i, op in enumerate(loads))
    body += "".join(f"{op} [%rd7+{128 * (i + len(loads))}], %r2;" for i, op in enumerate(stores))
    hints = "createpolicy.fractional.L2::evict_first.b64 %rd20, 1.0;"
    hints += (
        "prefetch.global.L2 [%rd6]; prefetch.global.L1 [%rd6]; prefetchu.L1 [%rd6]; "
        "applypriority.global.L2::evict_normal [%rd6], 128;"
    )
    run(f"{OWN} {hints} ld.global.L1::evict_last.L2::cache_hint.u32 %r2, [%rd6], %rd20; {body}", a, out)
    assert torch.equal(out, a.expand_as(out))


MODULE = """
.version 8.8
.target sm_90
.address_size 64
.const .align 4 .b32 table[4] = {10, 20, 30, 40};
.global .align 4 .u32 counter[2];
.visible .entry k(.param .u64 out, .param .s8 s8, .param .u16 u16, .param .f32 f, .param .align 8 .b8 raw[16])
{
  .reg .b32 %r<20>; .reg .b64 %rd<8>; .reg .b16 %h<4>; .reg .pred %p<2>;
  ld.param.u64 %rd1, [out]; ld.param.s8 %r1, [s8]; ld.param.u16 %r2, [u16]; ld.param.f32 %r3, [f];
  ld.param.v2.u32 {%r4, %r5}, [raw]; ld.param.s32 %r6, [raw+8];
  ld.const.u32 %r7, [table+8]; mov.u64 %rd2, table; ld.const.v2.u32 {%r8, %r9}, [%rd2];
  atom.global.add.u32 %r10, [counter+4], 5; atom.global.add.u32 %r11, [counter+4], 1;
  ld.global.u32 %r12, [counter];
  st.global.v4.u32 [%rd1], {%r1, %r2, %r3, %r4}; st.global.v4.u32 [%rd1+16], {%r5, %r6, %r7, %r8};
  st.global.v4.u32 [%rd1+32], {%r9, %r10, %r11, %r12};
  ret;
}
"""


def test_parameters_constants_and_variables_of_the_module() -> None:
    out = torch.zeros(12, dtype=torch.int32)
    module = Module(MODULE, optimize="-O0")
    raw = b"".join(x.to_bytes(4, "little", signed=True) for x in (1, 2, -3, 4))
    module.launch("k", {"out": out, "s8": -5, "u16": 65535, "f": 1.0, "raw": raw}, (1,), (1,))
    assert out.tolist() == [-5, 65535, 0x3F800000, 1, 2, -3, 30, 10, 20, 0, 5, 0]
    record(module)


# ---- atomics
INTEGER = {
    "add": lambda o, b, c, n: o + b,
    "and": lambda o, b, c, n: o & b,
    "or": lambda o, b, c, n: o | b,
    "xor": lambda o, b, c, n: o ^ b,
    "exch": lambda o, b, c, n: b,
    "cas": lambda o, b, c, n: c if o == b else o,
    "min": lambda o, b, c, n: min(o, b),
    "max": lambda o, b, c, n: max(o, b),
    "inc": lambda o, b, c, n: 0 if o >= b else o + 1,
    "dec": lambda o, b, c, n: b if o == 0 or o > b else o - 1,
}
OPERATIONS = [(op, f"u{n}") for op in ("add", "min", "max") for n in (32, 64)] + [
    (op, f"s{n}") for op in ("add", "min", "max") for n in (32, 64)
]
OPERATIONS += [(op, f"b{n}") for op in ("and", "or", "xor", "exch", "cas") for n in (32, 64)] + [
    ("inc", "u32"),
    ("dec", "u32"),
    ("cas", "b16"),
]


@pytest.mark.parametrize("space", ["global", "generic-global", "shared", "generic-shared"])
def test_integer_atomics(space: str) -> None:
    """Old and new value of every operation on several pairs, by one thread."""
    prepare, name, address = setup(space)
    pairs = [(5, 5), (0, 9), (9, 0), (-1, 7), (7, -1), (-(2**63), 1), (2**31 - 1, 1), (12, 11), (11, 12)]
    out = torch.zeros(len(OPERATIONS) * len(pairs), 2, dtype=torch.int64)
    body, expected = "", []
    for (op, kind), (o, b) in itertools.product(OPERATIONS, pairs):
        n = bits_of(kind)
        third = f", {77}" if op == "cas" else ""
        bank = {16: "%h5", 32: "%r5", 64: "%rd25"}[n]
        operand = {16: "%h6", 32: "%r6", 64: "%rd26"}[n]
        body += (
            f"mov.b64 %rd20, {o}; mov.b64 %rd21, {b}; cvt.u16.u64 %h6, %rd21; cvt.u32.u64 %r6, %rd21; "
            "mov.b64 %rd26, %rd21;"
        )
        body += (
            f"st{name}.u64 [{address}+8], %rd20; "
            f"atom{name}.{op}.{kind} {bank}, [{address}+8], {operand}{third}; "
            f"ld{name}.u64 %rd22, [{address}+8];"
        )
        body += f"cvt.u64.u{n} %rd23, {bank};" if n < 64 else f"mov.b64 %rd23, {bank};"
        body += f"st.global.v2.u64 [%rd2+{16 * len(expected)}], {{%rd23, %rd22}};"
        old, value = (
            (x + (2 ** (n - 1) if kind[0] == "s" else 0)) % 2**n - (2 ** (n - 1) if kind[0] == "s" else 0)
            for x in (o, b)
        )
        new = INTEGER[op](old, value, 77, n) % 2**n
        expected.append([old % 2**n, (o % 2**64) >> n << n | new])
    run(f"{OWN} {prepare} {body} END:", torch.zeros(64, dtype=torch.uint8), out)
    assert [[x % 2**64 for x in row] for row in out.tolist()] == expected


SCOPES = [
    f"{sem}{scope}"
    for sem in ("", ".relaxed", ".acquire", ".release", ".acq_rel")
    for scope in ("", ".cta", ".cluster", ".gpu", ".sys")
]


@pytest.mark.parametrize("seed", range(3))
def test_scopes_and_sums_of_many_threads(seed: int) -> None:
    """128 threads in two blocks add to one place;
    before or behind the space, atom or red, in shared memory too."""
    counters, out = torch.zeros(2 * len(SCOPES) + 1, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
    body = ""
    for i, s in enumerate(SCOPES):
        behind = "".join(f".{word}" for word in reversed(s.split(".")[1:]))
        body += f"red{s}.global.add.u32 [%rd1+{8 * i}], 3; atom.global{behind}.add.u32 %r2, [%rd1+{8 * i + 4}], 5;"
    body += (
        "@%p0 st.shared.u32 [buf], 0; bar.sync 0; red.shared.add.u32 [buf], 2; "
        "atom.relaxed.cta.shared::cta.add.u32 %r2, [buf], 1; bar.sync 0; ld.shared.u32 %r3, [buf];"
    )
    body += (
        "mov.u32 %r4, %ctaid.x; mul.wide.u32 %rd8, %r4, 4; add.u64 %rd8, %rd8, %rd2; @%p0 st.global.u32 [%rd8], %r3;"
    )
    run(OWN + body, counters, out, threads=64, blocks=2, seed=seed)
    assert counters.tolist() == [3 * 128, 5 * 128] * len(SCOPES) + [0] and out.tolist() == [192, 192]


@pytest.mark.parametrize(("kind", "dtype"), [("f32", torch.float32), ("f64", torch.float64)])
@pytest.mark.parametrize("space", ["global", "shared"])
def test_float_atomics(space: str, kind: str, dtype: torch.dtype) -> None:
    prepare, name, address = setup(space)
    source = torch.tensor([0.1, 0.2, -3.0, 1e-3, 7, 8, 9, 10], dtype=dtype)
    source = torch.cat([source, torch.zeros(64 // dtype.itemsize - 8, dtype=dtype)])
    out = torch.zeros(4, dtype=dtype)
    bank, size = ("%r", 4) if kind == "f32" else ("%rd", 8)
    reads = "".join(f"ld{name}.{kind} {bank}2{i}, [{address}+{size * (2 + i)}];" for i in range(2))
    run(
        f"{OWN} {prepare} {reads} atom{name}.add.{kind} {bank}30, [{address}], {bank}20; "
        f"red{name}.add.{kind} [{address}+{size}], {bank}21; ld{name}.{kind} {bank}31, [{address}];"
        f"ld{name}.{kind} {bank}32, [{address}+{size}]; st.global.{kind} [%rd2], {bank}30; "
        f"st.global.{kind} [%rd2+{size}], {bank}31; st.global.{kind} [%rd2+{2 * size}], {bank}32; END:",
        source.clone(),
        out,
    )
    assert torch.equal(out, torch.stack([source[0], source[0] + source[2], source[1] + source[3], out[3]]))


@pytest.mark.parametrize("n", [2, 4])
def test_vector_float_atomics(n: int) -> None:
    a, values, old = torch.randn(32, n), torch.randn(32, n), torch.zeros(32, n)
    before, registers, results = (
        a.clone(),
        ", ".join(f"%r{20 + i}" for i in range(n)),
        ", ".join(f"%r{30 + i}" for i in range(n)),
    )
    launch = run(
        f"""mul.wide.u32 %rd5, %r1, {4 * n}; add.u64 %rd6, %rd1, %rd5; add.u64 %rd7, %rd2, %rd5;
            add.u64 %rd8, %rd3, %rd5; ld.global.v{n}.f32 {{{registers}}}, [%rd7];
        atom.global.add.v{n}.f32 {{{results}}}, [%rd6], {{{registers}}};
        st.global.v{n}.f32 [%rd8], {{{results}}}; red.global.gpu.relaxed.add.v{n}.f32 [%rd6], {{{registers}}};
        """,
        a,
        values,
        old,
        traffic=True,
    )
    assert torch.equal(a, before + values + values) and torch.equal(old, before)
    assert launch.traffic["a", "atomic"] == Access(2 * 128 * n, 2 * 128 * n, 128 * n, 128 * n, 2)


@pytest.mark.parametrize(("kind", "dtype"), [("f16", torch.float16), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("function", ["add", "min", "max"])
def test_half_atomics(function: str, kind: str, dtype: torch.dtype) -> None:
    """16 bits, packed, and vectors of both; global and shared."""
    torch.manual_seed(0)
    a, b = torch.randn(32, 8).to(dtype), torch.randn(8).to(dtype)
    before = a.clone()
    h, w = "{%h20, %h21, %h22, %h23, %h24, %h25, %h26, %h27}", "{%r20, %r21, %r22, %r23}"
    load = "".join(f"ld.global.b16 %h{20 + i}, [%rd2+{2 * i}];" for i in range(8)) + "".join(
        f"ld.global.b32 %r{20 + i}, [%rd2+{4 * i}];" for i in range(4)
    )
    noftz = ".noftz" if function == "add" else ""
    f = f"{function}{noftz}"
    rows = [
        f"atom.global.{f}.{kind} %h1, [%rd1], %h20; st.global.b16 [%rd3], %h1;",
        f"red.global.{f}.{kind} [%rd1+16], %h20;",
        f"atom.global.{f}.{kind}x2 %r5, [%rd1+32], %r20; st.global.b32 [%rd3+4], %r5;",
        f"red.relaxed.gpu.global.{f}.{kind}x2 [%rd1+48], %r20;",
        f"red.global.{f}.v2.{kind} [%rd1+64], {{%h20, %h21}};",
        f"red.global.{f}.v4.{kind} [%rd1+80], {{%h20, %h21, %h22, %h23}};",
        f"red.global.{f}.v8.{kind} [%rd1+96], {h};",
        f"red.global.{f}.v2.{kind}x2 [%rd1+112], {{%r20, %r21}};",
        f"atom.global.{f}.v4.{kind}x2 {{%r30, %r31, %r32, %r33}}, [%rd1+128], {w}; "
        f"st.global.v4.b32 [%rd3+16], {{%r30, %r31, %r32, %r33}};",
        "ld.global.b32 %r6, [%rd1+144]; st.shared.b32 [buf], %r6; "
        f"atom.shared.{f}.{kind}x2 %r7, [buf], %r20; ld.shared.b32 %r6, [buf]; "
        "st.global.b32 [%rd1+144], %r6;",
    ]
    counts = [1, 1, 2, 2, 2, 4, 8, 4, 8, 2]
    old = torch.zeros(16, dtype=dtype)
    run(f"{OWN} @!%p0 bra END; {load} {''.join(rows)} END:", a, b, old)
    expected = before.clone()
    for i, n in enumerate(counts):
        x, y = before[i, :n].double(), b[:n].double()
        expected[i, :n] = {"add": x + y, "min": torch.minimum(x, y), "max": torch.maximum(x, y)}[function].to(dtype)
    assert torch.equal(a, expected)
    assert old[0] == before[0, 0] and torch.equal(old[2:4], before[2, :2]) and torch.equal(old[8:], before[8])


# ---- traffic: hand-computed
def traffic(body: str, elements: int = 4096, **kw) -> Access:
    launch = run(
        OWN + body,
        torch.zeros(elements, dtype=torch.int32),
        torch.zeros(elements, dtype=torch.int32),
        traffic=True,
        **kw,
    )
    kinds = [launch.traffic[name, kind] for name in "ab" for kind in ("load", "store", "atomic")]
    (only,) = (k for k in kinds if k.instructions)
    return only


LOAD = "ld.global.u32 %r2, [%rd6];"
PATTERNS = {
    # name: (body, threads, blocks, requested, sectors, block_sectors, unique_sectors, instructions)
    "coalesced": (LOAD, 32, 1, 128, 128, 128, 128, 1),
    "coalesced store": ("st.global.u32 [%rd7], 1;", 32, 1, 128, 128, 128, 128, 1),
    "coalesced atomic": ("red.global.add.u32 [%rd6], 1;", 32, 1, 128, 128, 128, 128, 1),
    "two warps": (LOAD, 64, 1, 256, 256, 256, 256, 2),
    "wide": (
        "mul.wide.u32 %rd8, %r1, 16; add.u64 %rd8, %rd8, %rd1; ld.global.v4.u32 {%r2, %r3, %r4, %r5}, [%rd8];",
        32,
        1,
        512,
        512,
        512,
        512,
        1,
    ),
    "stride of 8 bytes": ("add.u64 %rd6, %rd6, %rd5; " + LOAD, 32, 1, 128, 256, 256, 256, 1),
    "stride of 32 bytes": (
        "mul.wide.u32 %rd8, %r1, 32; add.u64 %rd6, %rd1, %rd8; " + LOAD,
        32,
        1,
        128,
        1024,
        1024,
        1024,
        1,
    ),
    "broadcast": ("ld.global.u32 %r2, [%rd1+64];", 32, 1, 128, 32, 32, 32, 1),
    "broadcast to two warps": ("ld.global.u32 %r2, [%rd1+64];", 64, 1, 256, 64, 32, 32, 2),
    "one lane": ("@%p0 " + LOAD, 64, 1, 4, 32, 32, 32, 1),
    "every other lane": (
        "and.b32 %r3, %r1, 1; setp.eq.u32 %p1, %r3, 0; @%p1 " + LOAD,
        32,
        1,
        64,
        128,
        128,
        128,
        1,
    ),
    "no lane": (
        "setp.gt.u32 %p1, %r1, 99; @%p1 " + LOAD + "@%p0 ld.global.u32 %r2, [%rd1];",
        32,
        1,
        4,
        32,
        32,
        32,
        1,
    ),
    "misaligned start": ("ld.global.u32 %r2, [%rd6+4];", 32, 1, 128, 160, 160, 160, 1),
    "twice": (LOAD + LOAD, 32, 1, 256, 256, 128, 128, 2),
    "the same in three blocks": (LOAD, 32, 3, 384, 384, 384, 128, 3),
    "a loop of four": (
        "mov.u32 %r3, 4; NEXT: " + LOAD + "sub.u32 %r3, %r3, 1; setp.ne.u32 %p1, %r3, 0; @%p1 bra NEXT;",
        32,
        1,
        512,
        512,
        128,
        128,
        4,
    ),
    "a loop of different lengths": (
        "shr.u32 %r3, %r1, 4; add.u32 %r3, %r3, 1; "
        "NEXT: " + LOAD + "sub.u32 %r3, %r3, 1; setp.ne.u32 %p1, %r3, 0; "
        "@%p1 bra NEXT;",
        32,
        1,
        192,
        192,
        128,
        128,
        2,
    ),
    "bytes": (
        "cvt.u64.u32 %rd8, %r1; add.u64 %rd8, %rd8, %rd1; ld.global.u8 %r2, [%rd8];",
        32,
        1,
        32,
        32,
        32,
        32,
        1,
    ),
}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("seed", [0, 2])
def test_traffic(name: str, seed: int) -> None:
    body, threads, blocks, *figures = PATTERNS[name]
    assert traffic(body, threads=threads, blocks=blocks, seed=seed) == Access(*figures)


def test_traffic_of_lanes_in_two_tensors() -> None:
    """Half of the lanes of one instruction read a, the others b."""
    launch = run(
        OWN + "setp.lt.u32 %p1, %r1, 16; selp.b64 %rd8, %rd6, %rd7, %p1; ld.global.u32 %r2, [%rd8];",
        torch.zeros(32),
        torch.zeros(32),
        traffic=True,
    )
    assert launch.traffic["a", "load"] == launch.traffic["b", "load"] == Access(64, 64, 64, 64, 1)
    assert launch.traffic.total() == functools.reduce(Access.__add__, [Access(64, 64, 64, 64, 1)] * 2)


def test_traffic_of_a_view() -> None:
    """A tensor that starts 8 bytes into a sector."""
    view = torch.zeros(64, dtype=torch.int32)[2:34]
    launch = run(OWN + LOAD, view, traffic=True)
    assert launch.traffic["a", "load"] == Access(128, 160, 160, 160, 1)


def test_collisions_are_counted() -> None:
    """Lanes of one instruction that write different bytes to one place."""
    assert run(OWN + "st.shared.u32 [buf], 5;", torch.zeros(1)).collisions == 0
    assert run(OWN + "st.shared.u8 [buf], %r1;", torch.zeros(1)).collisions == 31
