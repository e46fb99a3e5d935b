"""Integer, bit, logic and shift instructions against Python's integers."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from batch import batch, number, signed, triples
from support import run

from gpu_on_cpu.errors import KernelFault

RANDOM = np.random.default_rng(0)
# Each word's low 8, 16, 32 and 64 bits are edge values of these sizes, or shift counts and positions.
EDGES = [
    0,
    1,
    2,
    3,
    7,
    8,
    15,
    16,
    17,
    31,
    32,
    33,
    63,
    64,
    65,
    127,
    128,
    255,
    256,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x8001_8000,
]
EDGES += [
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFFF,
    0xFFFF_FFFE,
    0x1_0000_0000,
    0x7FFF_FFFF_FFFF_FFFF,
    1 << 63,
    (1 << 64) - 1,
]
EDGES += [
    (1 << 64) - 2,
    0x8000_0000_7FFF_FFFF,
    0x5555_AAAA_8080_7F7F,
    0x0102_0304_0506_0708,
    (1 << 64) - (1 << 31),
]
A, B, C = triples(EDGES, RANDOM.integers(0, 1 << 64, (3, 272), dtype=np.uint64))

Case = tuple[str, Callable[..., int]]  # the types that the inputs are read as; the result, whose low bits count
CASES: dict[str, Case] = {}


def each(*kinds: str) -> list[tuple[str, int]]:
    return [(k, int(k[1:])) for k in kinds]


ALL = each("u16", "u32", "u64", "s16", "s32", "s64")


def quotient(x: int, y: int) -> int:
    return abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)


for t, w in ALL:
    two, three = f"d{w}, a{w}, b{w}", f"d{w}, a{w}, b{w}, c{w}"
    CASES |= {
        f"add.{t} {two}": (t, lambda x, y, z: x + y),
        f"sub.{t} {two}": (t, lambda x, y, z: x - y),
        f"mul.lo.{t} {two}": (t, lambda x, y, z: x * y),
        f"mul.hi.{t} {two}": (t, lambda x, y, z, w=w: x * y >> w),
        f"mad.lo.{t} {three}": (t, lambda x, y, z: x * y + z),
        f"mad.hi.{t} {three}": (t, lambda x, y, z, w=w: (x * y >> w) + z),
        f"sad.{t} {three}": (t, lambda x, y, z: z + abs(x - y)),
        f"min.{t} {two}": (t, lambda x, y, z: min(x, y)),
        f"max.{t} {two}": (t, lambda x, y, z: max(x, y)),
        f"shr.{t} d{w}, a{w}, b32": (f"{t} u32 u32", lambda x, n, z: x >> n),
    }
    divisor = f"setp.eq.{t} p, b{w}, 0; selp.b{w} d{w}, 7, b{w}, p"
    CASES |= {
        f"{divisor}; div.{t} d{w}, a{w}, d{w}": (t, lambda x, y, z: quotient(x, y or 7)),
        f"{divisor}; rem.{t} d{w}, a{w}, d{w}": (t, lambda x, y, z: x - (y or 7) * quotient(x, y or 7)),
    }
for t, w in each("s16", "s32", "s64"):
    CASES |= {
        f"neg.{t} d{w}, a{w}": (t, lambda x, y, z: -x),
        f"abs.{t} d{w}, a{w}": (t, lambda x, y, z: abs(x)),
    }
for t, w in each("u16", "s16", "u32", "s32"):
    CASES |= {
        f"mul.wide.{t} d{2 * w}, a{w}, b{w}": (t, lambda x, y, z: x * y),
        f"mad.wide.{t} d{2 * w}, a{w}, b{w}, c{2 * w}": (f"{t} {t} u{2 * w}", lambda x, y, z: x * y + z),
    }
CASES |= {
    "add.s32 d32, a32, -5": ("s32", lambda x, y, z: x - 5),
    "add.u64 d64, a64, 0xFFFFFFFFFFFFFFFF": ("u64", lambda x, y, z: x - 1),
    "mul.lo.u32 d32, a32, 0x10U": ("u32", lambda x, y, z: 16 * x),
    "add.sat.s32 d32, a32, b32": ("s32", lambda x, y, z: min(max(x + y, -(2**31)), 2**31 - 1)),
    "sub.sat.s32 d32, a32, b32": ("s32", lambda x, y, z: min(max(x - y, -(2**31)), 2**31 - 1)),
    "min.relu.s32 d32, a32, b32": ("s32", lambda x, y, z: max(min(x, y), 0)),
    "max.relu.s32 d32, a32, b32": ("s32", lambda x, y, z: max(x, y, 0)),
    "mul24.lo.u32 d32, a32, b32": ("u24", lambda x, y, z: x * y),
    "mul24.lo.s32 d32, a32, b32": ("s24", lambda x, y, z: x * y),
    "mad24.lo.u32 d32, a32, b32, c32": ("u24 u24 u32", lambda x, y, z: x * y + z),
    "mad24.lo.s32 d32, a32, b32, c32": ("s24 s24 s32", lambda x, y, z: x * y + z),
}


def pairs(function: Callable[[int, int], int], sign: str) -> Case:
    def both(x: int, y: int, z: int) -> int:
        low, high = (function(number(x >> s, f"{sign}16"), number(y >> s, f"{sign}16")) for s in (0, 16))
        return low & 0xFFFF | (high & 0xFFFF) << 16

    return "u32", both


for name, function in {"min": min, "max": max}.items():
    CASES |= {f"{name}.{s}16x2 d32, a32, b32": pairs(function, s) for s in "us"}
    CASES[f"{name}.relu.s16x2 d32, a32, b32"] = pairs(lambda x, y, f=function: max(f(x, y), 0), "s")
CASES |= {f"add.{s}16x2 d32, a32, b32": pairs(lambda x, y: x + y, s) for s in "us"}


# ---- bits
def reverse(x: int, w: int) -> int:
    return int(f"{x:0{w}b}"[::-1], 2)


def leading(x: int, w: int) -> int:
    """The position of the highest bit that differs from the sign; -1 if there is none."""
    return (x if x >= 0 else ~x).bit_length() - 1


def field(x: int, position: int, length: int, t: str) -> int:
    """bfe. `x` has a sign if `t` has: then its bits beyond the type repeat it."""
    position, length = position & 255, length & 255
    bits = x >> min(position, int(t[1:])) & (1 << length) - 1 if length else 0
    return signed(bits, length) if t[0] == "s" and length else bits


def inserted(x: int, y: int, position: int, length: int) -> int:
    position, length = position & 255, length & 255
    mask = (1 << length) - 1 << position
    return y & ~mask | x << position & mask


def extended(x: int, n: int, kind: str) -> int:
    return number(x, f"{kind}{n}") if n else 0


for w in (32, 64):
    b = f"b{w}"
    CASES |= {
        f"popc.{b} d32, a{w}": (b, lambda x, y, z: x.bit_count()),
        f"clz.{b} d32, a{w}": (b, lambda x, y, z, w=w: w - x.bit_length()),
        f"brev.{b} d{w}, a{w}": (b, lambda x, y, z, w=w: reverse(x, w)),
        f"bfi.{b} d{w}, a{w}, b{w}, c32, 9": (f"{b} {b} u32", lambda x, y, n: inserted(x, y, n, 9)),
        f"bfi.{b} d{w}, a{w}, c{w}, 5, b32": (f"{b} u32 {b}", lambda x, n, z: inserted(x, z, 5, n)),
    }
    for s in "us":
        t = f"{s}{w}"
        CASES |= {
            f"bfind.{t} d32, a{w}": (t, lambda x, y, z, w=w: leading(x, w)),
            f"bfind.shiftamt.{t} d32, a{w}": (
                t,
                lambda x, y, z, w=w: w - 1 - n if (n := leading(x, w)) >= 0 else -1,
            ),
            f"bfe.{t} d{w}, a{w}, b32, c32": (f"{t} u32 u32", lambda x, y, z, t=t: field(x, y, z, t)),
        }
for s in "us":
    CASES |= {
        f"szext.clamp.{s}32 d32, a32, b32": ("b32", lambda x, n, z, s=s: extended(x, min(n, 32), s)),
        f"szext.wrap.{s}32 d32, a32, b32": ("b32", lambda x, n, z, s=s: extended(x, n % 32, s)),
    }
CASES |= {
    "bmsk.clamp.b32 d32, a32, b32": ("b32", lambda x, n, z: (1 << min(n, 32)) - 1 << min(x, 32)),
    "bmsk.wrap.b32 d32, a32, b32": ("b32", lambda x, n, z: (1 << n % 32) - 1 << x % 32),
}
for s, u in itertools.product("us", repeat=2):
    CASES[f"dp4a.{s}32.{u}32 d32, a32, b32, c32"] = (
        "b32",
        lambda x, y, z, s=s, u=u: z + sum(number(x >> i, f"{s}8") * number(y >> i, f"{u}8") for i in (0, 8, 16, 24)),
    )

# ---- logic and shifts
for w in (16, 32, 64):
    b = f"b{w}"
    CASES |= {
        f"and.{b} d{w}, a{w}, b{w}": (b, lambda x, y, z: x & y),
        f"or.{b} d{w}, a{w}, b{w}": (b, lambda x, y, z: x | y),
        f"xor.{b} d{w}, a{w}, b{w}": (b, lambda x, y, z: x ^ y),
        f"not.{b} d{w}, a{w}": (b, lambda x, y, z: ~x),
        f"cnot.{b} d{w}, a{w}": (b, lambda x, y, z: x == 0),
        f"shl.{b} d{w}, a{w}, b32": (f"{b} u32 u32", lambda x, n, z: x << min(n, 64)),
        f"shr.{b} d{w}, a{w}, b32": (f"{b} u32 u32", lambda x, n, z: x >> n),
    }
CASES |= {
    "and.pred p, pa, pb": ("u1", lambda x, y, z: x & y),
    "or.pred p, pa, pb": ("u1", lambda x, y, z: x | y),
    "or.pred p, pa, !pb": ("u1", lambda x, y, z: x | 1 - y),
    "xor.pred p, pa, pb": ("u1", lambda x, y, z: x ^ y),
    "not.pred p, pa": ("u1", lambda x, y, z: 1 - x),
    "shf.l.wrap.b32 d32, a32, b32, c32": ("b32", lambda x, y, n: ((y << 32 | x) << n % 32) >> 32),
    "shf.r.wrap.b32 d32, a32, b32, c32": ("b32", lambda x, y, n: (y << 32 | x) >> n % 32),
    "shf.l.clamp.b32 d32, a32, b32, c32": ("b32", lambda x, y, n: ((y << 32 | x) << min(n, 32)) >> 32),
    "shf.r.clamp.b32 d32, a32, b32, c32": ("b32", lambda x, y, n: (y << 32 | x) >> min(n, 32)),
}


def by_table(table: int) -> Callable[[int, int, int], int]:
    def lookup(x: int, y: int, z: int) -> int:
        return sum((table >> ((x >> i & 1) * 4 + (y >> i & 1) * 2 + (z >> i & 1)) & 1) << i for i in range(32))

    return lookup


def permuted(x: int, y: int, selector: int) -> int:
    source = (x | y << 32).to_bytes(8, "little")
    chosen = [selector >> i & 15 for i in (0, 4, 8, 12)]
    return int.from_bytes([source[c & 7] if c < 8 else 0xFF * (source[c & 7] >> 7) for c in chosen], "little")


CASES |= {f"lop3.b32 d32, a32, b32, c32, {t}": ("b32", by_table(t)) for t in (0, 1, 0x1B, 0x80, 0x96, 0xCA, 0xE8, 255)}
CASES["prmt.b32 d32, a32, b32, c32"] = ("b32", permuted)
CASES["prmt.b32 d32, a32, b32, 0x7B5A"] = ("b32", lambda x, y, z: permuted(x, y, 0x7B5A))


def test_lop3_has_the_truth_table_of_the_isa():
    """The ISA's recipe: the table of a function is that function of 0xF0, 0xCC and 0xAA."""
    for function in (
        lambda x, y, z: x & y & z,
        lambda x, y, z: (x & y) | (~x & z),
        lambda x, y, z: x ^ y ^ z,
    ):
        x, y, z = 0x12345678, 0x9ABCDEF0, 0x0F1E2D3C
        assert by_table(function(0xF0, 0xCC, 0xAA) & 255)(x, y, z) == function(x, y, z) & 0xFFFFFFFF


# ---- the carry flag: 64- and 128-bit arithmetic from parts
def wide(low: int, high: int, w: int) -> int:
    return (high & (1 << w) - 1) << w | low & (1 << w) - 1


for w, t in ((w, f"{s}{w}") for w in (32, 64) for s in "us"):
    b, e = f"b{w}", f"e{w}"
    operands = f"{e}, a{w}, b{w}"
    # (a, b) + (b, c), (a, b) - (c, a): two parts, low and high, and what is carried out of them
    chain = f"add.cc.{t} {e}, a{w}, b{w}; addc.cc.{t} d{w}, b{w}, c{w}"
    borrow = f"sub.cc.{t} {e}, a{w}, c{w}; subc.cc.{t} d{w}, b{w}, a{w}"
    CASES |= {
        f"add.cc.{t} d{w}, a{w}, b{w}": (b, lambda x, y, z: x + y),
        f"sub.cc.{t} d{w}, a{w}, b{w}": (b, lambda x, y, z: x - y),
        chain: (b, lambda x, y, z, w=w: wide(x, y, w) + wide(y, z, w) >> w),
        f"{chain}; addc.{t} d{w}, 0, 0": (b, lambda x, y, z, w=w: wide(x, y, w) + wide(y, z, w) >> 2 * w),
        borrow: (b, lambda x, y, z, w=w: wide(x, y, w) - wide(z, x, w) >> w),
        f"{borrow}; subc.{t} d{w}, 5, 0": (b, lambda x, y, z, w=w: 5 - (wide(x, y, w) < wide(z, x, w))),
        # a * b + (c, a), whole, in two parts
        f"mad.lo.cc.{t} {operands}, c{w}; madc.hi.{t} d{w}, a{w}, b{w}, a{w}": (
            t,
            lambda x, y, z, w=w: x * y + wide(z, x, w) >> w,
        ),
        f"mad.lo.cc.{t} d{w}, a{w}, b{w}, c{w}": (t, lambda x, y, z: x * y + z),
        f"mad.hi.cc.{t} {operands}, c{w}; addc.{t} d{w}, 0, 0": (
            t,
            lambda x, y, z, w=w: ((x * y >> w) & (1 << w) - 1) + (z & (1 << w) - 1) >> w,
        ),
        f"add.cc.{t} {e}, a{w}, c{w}; madc.lo.cc.{t} {operands}, c{w}; "
        f"madc.hi.cc.{t} {e}, a{w}, b{w}, c{w}; addc.{t} d{w}, 0, 0": (
            t,
            lambda x, y, z, w=w: carried_madc(x, y, z, w),
        ),
        f"add.cc.{t} {e}, a{w}, c{w}; madc.lo.{t} d{w}, a{w}, b{w}, c{w}": (
            t,
            lambda x, y, z, w=w: x * y + z + ((x & (1 << w) - 1) + (z & (1 << w) - 1) >> w),
        ),
    }


def carried_madc(x: int, y: int, z: int, w: int) -> int:
    """What add.cc, madc.lo.cc and madc.hi.cc carry on from one to the next and out of the last."""
    mask = (1 << w) - 1
    carry = (x & mask) + (z & mask) >> w
    carry = (x * y & mask) + (z & mask) + carry >> w
    return (x * y >> w & mask) + (z & mask) + carry >> w


@pytest.fixture(scope="module")
def results() -> dict[str, np.ndarray]:
    return batch(CASES, A, B, C)


@pytest.mark.parametrize("text", CASES)
def test_instruction(text, results):
    kinds, function = CASES[text]
    kinds = (kinds.split() * 3)[:3]
    last = text.split(";")[-1].split()[1]
    mask = 1 if last.startswith("p") else (1 << int(last.strip(",")[1:])) - 1
    for i, got in enumerate(results[text]):
        x, y, z = (number(v[i], k) for v, k in zip((A, B, C), kinds, strict=True))
        assert int(got) == function(x, y, z) & mask, (x, y, z)


def test_128_bit_product_by_carries():
    """The schoolbook product of two pairs of 64-bit words, modulo 2^256, in the form nvcc writes it."""
    body = """
      mul.wide.u32 %rd5, %r1, 16; mul.wide.u32 %rd6, %r1, 32;
      add.u64 %rd7, %rd1, %rd5; add.u64 %rd8, %rd2, %rd5; add.u64 %rd9, %rd4, %rd6;
      ld.global.v2.u64 {%rd10, %rd11}, [%rd7]; ld.global.v2.u64 {%rd12, %rd13}, [%rd8];
      mul.lo.u64 %rd20, %rd10, %rd12; mul.hi.u64 %rd21, %rd10, %rd12;
      mad.lo.cc.u64 %rd21, %rd10, %rd13, %rd21; madc.hi.u64 %rd22, %rd10, %rd13, 0;
      mad.lo.cc.u64 %rd21, %rd11, %rd12, %rd21; madc.hi.cc.u64 %rd22, %rd11, %rd12, %rd22;
      addc.u64 %rd23, 0, 0;
      mad.lo.cc.u64 %rd22, %rd11, %rd13, %rd22; madc.hi.u64 %rd23, %rd11, %rd13, %rd23;
      st.global.v2.u64 [%rd9], {%rd20, %rd21}; st.global.v2.u64 [%rd9+16], {%rd22, %rd23};"""
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 1 << 64, (2, 32, 2), dtype=np.uint64)
    x[:4] = y[:4] = (1 << 64) - 1
    d = torch.zeros(32, 4, dtype=torch.int64)
    run(body, torch.from_numpy(x.view(np.int64)), torch.from_numpy(y.view(np.int64)), d=d)
    for p, q, r in zip(x, y, d.numpy().view(np.uint64), strict=True):
        product = (int(p[0]) | int(p[1]) << 64) * (int(q[0]) | int(q[1]) << 64)
        assert sum(int(word) << 64 * i for i, word in enumerate(r)) == product


@pytest.mark.parametrize(("opcode", "word"), [("div.s32", "division"), ("rem.u32", "remainder")])
def test_division_by_zero_is_a_fault(opcode, word):
    with pytest.raises(KernelFault, match=f"integer {word} by zero") as e:
        run(f"{opcode} %r2, %r1, 0;", torch.zeros(1))
    assert e.value.instruction == f"{opcode} %r2, %r1, 0"
