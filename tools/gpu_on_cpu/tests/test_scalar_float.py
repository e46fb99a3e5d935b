"""Instructions on f32 and f64: rounded ones against exact fractions, approximate ones by numpy's fp64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import batch
import numpy as np
import pytest
from batch import clamp, flushed, larger, or_nan, smaller

MODES = ("rn", "rz", "rm", "rp")


class Case(NamedTuple):
    function: Callable[..., float]  # of one to three floats
    ulps: int = 0
    signs: bool = True  # the sign of a zero counts


# zeros, subnormals, the smallest normal numbers, around 1, ties, large, infinite, quiet and signalling NaN
EDGES32 = [
    0,
    1,
    3,
    0x400000,
    0x7FFFFF,
    0x800000,
    0x800001,
    0x20000000,
    0x1FFFFFFF,
    0x33000000,
    0x33800000,
    0x33800001,
]
EDGES32 += [
    0x34000000,
    0x34400000,
    0x3EAAAAAB,
    0x3F000000,
    0x3F7FFFFF,
    0x3F800000,
    0x3F800001,
    0x3FB504F3,
    0x40400000,
]
EDGES32 += [0x4B000001, 0x4B7FFFFF, 0x5F7FFFFF, 0x7F000000, 0x7F7FFFFF, 0x7F800000, 0x7FC00000, 0x7F800001]
EDGES32 += [
    0x80000000 | x
    for x in (
        0,
        1,
        0x7FFFFF,
        0x800000,
        0x33800000,
        0x3F800000,
        0x40400000,
        0x7F7FFFFF,
        0x7F800000,
        0x7FFFFFFF,
    )
]
EDGES64 = [
    0,
    1,
    3,
    (1 << 52) - 1,
    1 << 52,
    (1 << 52) + 1,
    0x1FF0000000000001,
    0x3CA0000000000000,
    0x3CA0000000000001,
]
EDGES64 += [
    0x3CB0000000000000,
    0x3FD5555555555555,
    0x3FE0000000000000,
    0x3FEFFFFFFFFFFFFF,
    0x3FF0000000000000,
]
EDGES64 += [
    0x3FF0000000000001,
    0x3FF6A09E667F3BCD,
    0x4008000000000000,
    0x4340000000000001,
    0x5FEFFFFFFFFFFFFF,
]
EDGES64 += [
    0x7FE0000000000000,
    0x7FEFFFFFFFFFFFFF,
    0x7FF0000000000000,
    0x7FF8000000000000,
    0x7FF0000000000001,
]
EDGES64 += [
    (1 << 63) | x for x in (0, 1, (1 << 52) - 1, 1 << 52, 0x3CA0000000000000, 0x3FF0000000000000, 0x7FF0000000000000)
]


def inputs(edges: list[int], kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of edges, then any bits, then numbers of similar size. An f32's word has another above it."""
    rng = np.random.default_rng(2)
    any_bits = rng.integers(0, 1 << 64, (3, 200), dtype=np.uint64)
    dtype, bits = (np.float32, np.uint32) if kind == "f32" else (np.float64, np.uint64)
    similar = rng.standard_normal((3, 200)).astype(dtype).view(bits).astype(np.uint64)
    result = batch.triples(edges, np.concatenate([any_bits, similar], 1))
    if kind == "f64":
        return result
    low = [x & np.uint64(0xFFFFFFFF) for x in result]
    return tuple(x | np.roll(x, 5 + i) << np.uint64(32) for i, x in enumerate(low))


WORDS = {"f32": inputs(EDGES32, "f32"), "f64": inputs(EDGES64, "f64")}
CASES: dict[str, dict[str, Case]] = {"f32": {}, "f64": {}}

# ---- one correct rounding, in every mode
for kind, mode in itertools.product(CASES, MODES):
    w = kind[1:]
    x, xy, xyz = (f"d{w}, {', '.join(s + w for s in names)}" for names in ("a", "ab", "abc"))
    rounded = {
        f"add.{mode}.{kind} {xy}": batch.add(kind, mode),
        f"sub.{mode}.{kind} {xy}": batch.sub(kind, mode),
        f"mul.{mode}.{kind} {xy}": batch.mul(kind, mode),
        f"fma.{mode}.{kind} {xyz}": batch.fma(kind, mode),
        f"div.{mode}.{kind} {xy}": batch.div(kind, mode),
        f"rcp.{mode}.{kind} {x}": batch.rcp(kind, mode),
        f"sqrt.{mode}.{kind} {x}": batch.sqrt(kind, mode),
    }
    CASES[kind] |= {text: Case(f) for text, f in rounded.items()}
    if kind == "f32":
        ftz = {text.replace(".f32", ".ftz.f32"): flushed(f) for text, f in rounded.items()}
        CASES[kind] |= {text: Case(f) for text, f in ftz.items()}
        for text, f in (rounded | ftz).items():
            if text[:3] in ("add", "sub", "mul", "fma"):
                CASES[kind][text.replace(".f32", ".sat.f32")] = Case(lambda *x, f=f: clamp(f(*x)), signs=False)

for kind, cases in CASES.items():
    w = kind[1:]
    x, xy, xyz = (f"d{w}, {', '.join(s + w for s in names)}" for names in ("a", "ab", "abc"))
    cases |= {
        f"add.{kind} {xy}": Case(batch.add(kind, "rn")),
        f"sub.{kind} {xy}": Case(batch.sub(kind, "rn")),
        f"mul.{kind} {xy}": Case(batch.mul(kind, "rn")),
        f"mad.rm.{kind} {xyz}": Case(batch.fma(kind, "rm")),
        f"min.{kind} {xy}": Case(smaller),
        f"max.{kind} {xy}": Case(larger),
        f"neg.{kind} {x}": Case(lambda x: -x),
        f"abs.{kind} {x}": Case(abs),
        f"copysign.{kind} {xy}": Case(lambda x, y: math.copysign(y, x)),
    }


# ---- f32 alone
def xorsign(function: Callable[[float, float], float]) -> Callable[[float, float], float]:
    def with_sign(x: float, y: float) -> float:
        return math.copysign(function(abs(x), abs(y)), math.copysign(1, x) * math.copysign(1, y))

    return with_sign


F32 = CASES["f32"]
XY, XYZ = "d32, a32, b32", "d32, a32, b32, c32"
F32 |= {
    "add.f32 d32, a32, 0f3F800001": Case(lambda x: batch.add("f32", "rn")(x, 1 + 2.0**-23)),
    f"add.sat.f32 {XY}": Case(lambda x, y: clamp(batch.add("f32", "rn")(x, y)), signs=False),
    f"mul.ftz.sat.f32 {XY}": Case(lambda x, y: clamp(flushed(batch.mul("f32", "rn"))(x, y)), signs=False),
    f"div.full.f32 {XY}": Case(batch.div("f32", "rn"), ulps=1),
    f"div.approx.f32 {XY}": Case(batch.div("f32", "rn"), ulps=1),
    f"div.full.ftz.f32 {XY}": Case(flushed(batch.div("f32", "rn")), ulps=1),
    f"neg.ftz.f32 {XY[:8]}": Case(flushed(lambda x: -x)),
    f"abs.ftz.f32 {XY[:8]}": Case(flushed(abs)),
}
for name, function in {"min": smaller, "max": larger}.items():
    F32 |= {
        f"{name}.NaN.f32 {XY}": Case(or_nan(function)),
        f"{name}.ftz.f32 {XY}": Case(flushed(function)),
        f"{name}.ftz.NaN.f32 {XY}": Case(flushed(or_nan(function))),
        f"{name}.f32 {XYZ}": Case(lambda x, y, z, f=function: f(f(x, y), z)),
        f"{name}.NaN.f32 {XYZ}": Case(or_nan(lambda x, y, z, f=function: f(f(x, y), z))),
        f"{name}.xorsign.abs.f32 {XY}": Case(xorsign(function)),
        f"{name}.NaN.xorsign.abs.f32 {XY}": Case(or_nan(xorsign(function))),
        f"{name}.ftz.xorsign.abs.f32 {XY}": Case(flushed(xorsign(function))),
    }


def fp64(function: np.ufunc) -> Callable[[float], float]:
    """An exact function for f32: computed in fp64."""

    def evaluate(x: float) -> float:
        with np.errstate(all="ignore"):
            return float(np.float32(function(np.float64(x))))

    return evaluate


def reciprocal_root(x: np.floating) -> np.floating:
    return 1 / np.sqrt(x)


APPROXIMATE = {"ex2": np.exp2, "lg2": np.log2, "sin": np.sin, "cos": np.cos, "rsqrt": reciprocal_root}
APPROXIMATE |= {"rcp": np.reciprocal, "sqrt": np.sqrt}
F32 |= {f"{name}.approx.f32 d32, a32": Case(fp64(f), ulps=1) for name, f in APPROXIMATE.items()}
F32 |= {f"{name}.approx.ftz.f32 d32, a32": Case(flushed(fp64(f)), ulps=1) for name, f in APPROXIMATE.items()}
F32["tanh.approx.f32 d32, a32"] = Case(fp64(np.tanh), ulps=1)


def longest(x: float) -> float:
    with np.errstate(all="ignore"):
        return float(reciprocal_root(np.longdouble(x)))


CASES["f64"] |= {
    "rsqrt.approx.f64 d64, a64": Case(longest, ulps=1),
    "rsqrt.approx.ftz.f64 d64, a64": Case(flushed(longest, "f64"), ulps=1),
    "rcp.approx.ftz.f64 d64, a64": Case(flushed(batch.rcp("f64", "rn"), "f64"), ulps=1),
}

# ---- pairs of f32
PACKED = {
    f"{n}.rn{z}.f32x2": f
    for z in ("", ".ftz")
    for n, f in {"add": batch.add, "sub": batch.sub, "mul": batch.mul, "fma": batch.fma}.items()
}
PACKED["add.f32x2"] = batch.add
PACKED_TEXTS = {f"{op} d64, a64, b64{', c64' if op.startswith('fma') else ''}": op for op in PACKED}

TESTS: dict[str, Callable[[float], bool]] = {
    "finite": math.isfinite,
    "infinite": math.isinf,
    "number": lambda x: not math.isnan(x),
    "notanumber": math.isnan,
}


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, np.ndarray]]:
    properties = (*TESTS, "normal", "subnormal")
    tests = {kind: [f"testp.{t}.{kind} p, a{kind[1:]}" for t in properties] for kind in CASES}
    return {
        kind: batch.batch([*cases, *tests[kind], *(PACKED_TEXTS if kind == "f32" else ())], *WORDS[kind])
        for kind, cases in CASES.items()
    }


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, cases in CASES.items() for text in cases])
def test_instruction(kind, text, results):
    case = CASES[kind][text]
    count = text.count(", ") - text.count(" 0f")
    x = [batch.floats(w, kind) for w in WORDS[kind][:count]]
    expected = np.array([case.function(*map(float, v)) for v in zip(*x, strict=True)])
    batch.assert_floats(batch.floats(results[kind][text], kind), expected, x, ulps=case.ulps, signs=case.signs)


@pytest.mark.parametrize("text", PACKED_TEXTS)
def test_packed(text, results):
    operation = PACKED[PACKED_TEXTS[text]]("f32", "rn")
    operation = flushed(operation) if ".ftz" in text else operation
    for shift in (0, 32):
        x = [batch.floats(w >> np.uint64(shift), "f32") for w in WORDS["f32"][: text.count(", ")]]
        expected = np.array([operation(*map(float, v)) for v in zip(*x, strict=True)])
        batch.assert_floats(batch.floats(results["f32"][text] >> np.uint64(shift), "f32"), expected, x)


@pytest.mark.parametrize("kind", CASES)
def test_testp(kind, results):
    x = batch.floats(WORDS[kind][0], kind)
    smallest = 2.0 ** batch.FORMATS[kind][1]
    tests = TESTS | {
        "normal": lambda v: math.isfinite(v) and (abs(v) >= smallest or v == 0),  # the ISA counts zero as normal
        "subnormal": lambda v: 0 < abs(v) < smallest,
    }
    for name, test in tests.items():
        got = results[kind][f"testp.{name}.{kind} p, a{kind[1:]}"]
        assert [bool(g) for g in got] == [test(float(v)) for v in x], name
