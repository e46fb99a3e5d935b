"""cvt, against Python's integers and exact fractions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

import batch
import numpy as np
import pytest
from batch import clamp, flush, larger, number

INTEGERS = [f"{s}{w}" for w in (8, 16, 32, 64) for s in "us"]
MODES = ("rn", "rz", "rm", "rp")
SOURCES = {"f32": "a32", "f64": "b64", "f16": "c16", "bf16": "c16"}  # where the second kernel has its floats


class Case(NamedTuple):
    to: str
    of: str
    function: Callable[[float], float]
    signs: bool = True  # the sign of a zero counts


def saturating(x: float, kind: str) -> int:
    bits = int(kind[1:])
    low = -(1 << bits - 1) if kind[0] == "s" else 0
    return int(min(max(x, low), low + (1 << bits) - 1))


def to_float(q: Fraction | float, kind: str, mode: str = "rn") -> float:
    """A number, rounded; zeros, infinities and NaN as they are."""
    return batch.rounded(Fraction(q), kind, mode) if math.isfinite(q) and q else float(q)


# ---- from integers: in a16, a32 or a64
FROM_INTEGERS: dict[str, Case] = {}
for to, of in itertools.product(INTEGERS, INTEGERS):
    registers = f"d{max(int(to[1:]), 32)}, a{max(int(of[1:]), 32)}"
    FROM_INTEGERS[f"cvt.{to}.{of} {registers}"] = Case(to, of, lambda x: x)
    FROM_INTEGERS[f"cvt.sat.{to}.{of} {registers}"] = Case(to, of, lambda x, to=to: saturating(x, to))
FROM_INTEGERS["cvt.u8.s32 d16, a32"] = Case("u8", "s32", lambda x: x)
for to, of, mode in itertools.product(("f32", "f64"), INTEGERS, MODES):
    registers = f"d{to[1:]}, a{max(int(of[1:]), 16)}"
    FROM_INTEGERS[f"cvt.{mode}.{to}.{of} {registers}"] = Case(to, of, lambda x, to=to, mode=mode: to_float(x, to, mode))
    FROM_INTEGERS[f"cvt.{mode}.sat.{to}.{of} {registers}"] = Case(to, of, clamp, signs=False)
for to, of in itertools.product(("f16", "bf16"), INTEGERS[:6]):
    registers = f"d16, a{max(int(of[1:]), 16)}"
    FROM_INTEGERS[f"cvt.rn.{to}.{of} {registers}"] = Case(to, of, lambda x, to=to: to_float(x, to))
    FROM_INTEGERS[f"cvt.rn.sat.{to}.{of} {registers}"] = Case(to, of, clamp, signs=False)

# ---- from floats
FROM_FLOATS: dict[str, Case] = {}
TO_INTEGER = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}


def to_integer(x: float, mode: str, to: str, of: str) -> int:
    if math.isnan(x):
        return 1 << int(to[1:]) - 1 if "64" in to + of else 0
    return saturating(TO_INTEGER[mode](x) if math.isfinite(x) else x, to)


def integral(x: float, mode: str) -> float:
    return math.copysign(float(TO_INTEGER[mode](x)), x) if math.isfinite(x) else x


for of, mode in itertools.product(SOURCES, TO_INTEGER):
    for to in INTEGERS:
        registers = f"d{max(int(to[1:]), 32)}, {SOURCES[of]}"
        case = Case(to, of, lambda x, mode=mode, to=to, of=of: to_integer(x, mode, to, of))
        FROM_FLOATS |= {
            f"cvt.{mode}.{to}.{of} {registers}": case,
            f"cvt.{mode}.sat.{to}.{of} {registers}": case,
        }
        if of == "f32":
            FROM_FLOATS[f"cvt.{mode}.ftz.{to}.{of} {registers}"] = case._replace(
                function=lambda x, f=case.function: f(flush(x))
            )
    registers = f"d{SOURCES[of][1:]}, {SOURCES[of]}"
    FROM_FLOATS |= {
        f"cvt.{mode}.{of}.{of} {registers}": Case(of, of, lambda x, mode=mode: integral(x, mode)),
        f"cvt.{mode}.sat.{of}.{of} {registers}": Case(
            of, of, lambda x, mode=mode: clamp(integral(x, mode)), signs=False
        ),
    }
    if of == "f32":
        FROM_FLOATS[f"cvt.{mode}.ftz.f32.f32 {registers}"] = Case(of, of, lambda x, mode=mode: integral(flush(x), mode))

for to, of in (
    ("f64", "f32"),
    ("f32", "f32"),
    ("f64", "f64"),
    *itertools.product(("f32", "f64"), ("f16", "bf16")),
):
    registers = f"d{to[1:]}, {SOURCES[of]}"
    FROM_FLOATS |= {
        f"cvt.{to}.{of} {registers}": Case(to, of, lambda x: x),
        f"cvt.sat.{to}.{of} {registers}": Case(to, of, clamp, signs=False),
    }
    if "f32" in (to, of):
        FROM_FLOATS[f"cvt.ftz.{to}.{of} {registers}"] = Case(to, of, flush)
for mode in MODES:
    narrow = {
        "": lambda x, mode=mode: to_float(x, "f32", mode),
        ".ftz": lambda x, mode=mode: flush(to_float(x, "f32", mode)),
    }
    FROM_FLOATS |= {f"cvt.{mode}{ftz}.f32.f64 d32, b64": Case("f32", "f64", f) for ftz, f in narrow.items()}
    FROM_FLOATS[f"cvt.{mode}.sat.f32.f64 d32, b64"] = Case(
        "f32", "f64", lambda x, f=narrow[""]: clamp(f(x)), signs=False
    )


def to_half(kind: str, mode: str, relu: bool, satfinite: bool) -> Callable[[float], float]:
    top = batch.rounded(Fraction(2) ** 2000, kind, "rz")

    def convert(x: float) -> float:
        x = to_float(x, kind, mode)
        x = x if math.isnan(x) or not relu else larger(x, 0.0)
        return x if math.isnan(x) or not satfinite else min(max(x, -top), top)

    return convert


PAIRS: dict[str, tuple[str, Callable[[float], float]]] = {}
for to, mode, relu, satfinite in itertools.product(("f16", "bf16"), ("rn", "rz"), (False, True), (False, True)):
    modifiers = mode + (".relu" if relu else "") + (".satfinite" if satfinite else "")
    function = to_half(to, mode, relu, satfinite)
    FROM_FLOATS[f"cvt.{modifiers}.{to}.f32 d16, a32"] = Case(to, "f32", function)
    PAIRS[f"shr.u64 e64, a64, 32; cvt.u32.u64 e32, e64; cvt.{modifiers}.{to}x2.f32 d32, a32, e32"] = (
        to,
        function,
    )
FROM_FLOATS |= {
    "cvt.rn.ftz.f16.f32 d16, a32": Case("f16", "f32", lambda x: to_float(flush(x), "f16")),
    "cvt.rn.sat.f16.f32 d16, a32": Case("f16", "f32", lambda x: clamp(to_float(x, "f16")), signs=False),
    "cvt.rn.tf32.f32 d32, a32": Case("f32", "f32", lambda x: to_float(x, "tf32")),
    # a little more lifts a tie over the middle, and nothing else
    "cvt.rna.tf32.f32 d32, a32": Case("f32", "f32", lambda x: to_float(x * (1 + 2.0**-40), "tf32")),
}
for to, of in itertools.product(("f16", "bf16"), ("f64", "f16", "bf16")):
    FROM_FLOATS[f"cvt.rn.{to}.{of} d16, {SOURCES[of]}"] = Case(to, of, lambda x, to=to: to_float(x, to))


# ---- values
def integers() -> np.ndarray:
    """Edges of all sizes, what rounds differently per mode as f32, f64, f16 and bf16, and any bits."""
    rng = np.random.default_rng(5)
    edges = {s * ((1 << n) + k) for n in range(65) for k in range(-3, 4) for s in (1, -1)}
    edges |= {(3 << n) + k << m for n in (7, 10, 23, 52) for k in (-1, 0, 1, 2, 3) for m in (0, 3, 10)}
    any_bits = rng.integers(0, 1 << 64, 400, dtype=np.uint64) >> rng.integers(0, 64, 400, dtype=np.uint64)
    values = np.concatenate([batch.words(sorted(edges)), any_bits])
    return values[: len(values) // 32 * 32]


def floats() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """f32 (both halves), f64 and 16-bit words: around integers, halves and limits of types, and ties."""
    rng = np.random.default_rng(6)
    limits = [
        2.0**n
        for n in (
            -1075,
            -150,
            -149,
            -134,
            -133,
            -127,
            -126,
            -25,
            -24,
            -15,
            -14,
            -1,
            0,
            1,
            7,
            8,
            15,
            16,
            23,
            31,
            32,
            52,
            63,
            64,
            127,
            128,
        )
    ]
    limits += [
        v + h
        for v in (0.0, 1.0, 2.0, 127.0, 128.0, 255.0, 32767.0, 65535.0, 2.0**31, 2.0**32)
        for h in (0.25, 0.5, 0.75, -0.5)
    ]
    limits += [65504.0, 65519.0, 65520.0, 3.4028234663852886e38, 3.4e38, 1.7e308, math.inf, math.nan, 0.0]
    exact = np.array([*limits, *(-v for v in limits)])
    exact = np.concatenate([exact, np.nextafter(exact, np.inf), np.nextafter(exact, -np.inf), exact * 4096])
    with np.errstate(all="ignore"):
        single = exact.astype(np.float32)
        single = np.concatenate(
            [single, np.nextafter(single, np.float32(np.inf)), np.nextafter(single, np.float32(-np.inf))]
        )
    # ties of f16, bf16 and tf32, and their neighbours; any bits
    ties = (rng.integers(0, 1 << 32, 300) & ~0x1FFF | rng.choice([0, 0x1000, 0x0FFF, 0x1001], 300)).astype(np.uint32)
    bf16_ties = (rng.integers(0, 1 << 16, 300) << 16 | rng.choice([0x8000, 0x7FFF, 0x8001], 300)).astype(np.uint32)
    low = np.concatenate([single.view(np.uint32), ties, bf16_ties, rng.integers(0, 1 << 32, 300, dtype=np.uint32)])
    low = low[: len(low) // 32 * 32].astype(np.uint64)
    wide = np.concatenate([exact, rng.standard_normal(200) * 1e4, np.float64(single[:400]) * (1 + 2.0**-30)]).view(
        np.uint64
    )
    # f64 whose rounding to f32 first would make a tie of f16 or bf16
    nearly = (1 + (2 * np.arange(64) + 1) * 2.0**-11) * (1 + 2.0**-40 * np.resize([1, -1], 64))
    nearly = np.concatenate(
        [nearly, (1 + (2 * np.arange(64) + 1) * 2.0**-8) * (1 + 2.0**-40 * np.resize([1, -1], 64))]
    ).view(np.uint64)
    wide = np.concatenate([wide, nearly, rng.integers(0, 1 << 64, 200, dtype=np.uint64)])
    halves = np.concatenate([exact.astype(np.float16).view(np.uint16), rng.integers(0, 1 << 16, 800, dtype=np.uint16)])
    return (
        low | np.roll(low, 7) << np.uint64(32),
        np.resize(wide, len(low)),
        np.resize(halves, len(low)).astype(np.uint64),
    )


A = integers()
with np.errstate(all="ignore"):
    FLOATS = dict(zip("abc", floats(), strict=True))


@pytest.fixture(scope="module")
def results() -> dict[str, np.ndarray]:
    return batch.batch(FROM_INTEGERS, A, A, A) | batch.batch([*FROM_FLOATS, *PAIRS], *FLOATS.values())


def check(case: Case, text: str, got: np.ndarray, x: list[float] | list[int]) -> None:
    expected = [case.function(v) for v in x]
    if case.to in INTEGERS:  # a register wider than the type gets its sign
        mask = (1 << int(text.split()[1][1:-1])) - 1
        assert [(v, int(g)) for v, g in zip(x, got, strict=True)] == [
            (v, number(e, case.to) & mask) for v, e in zip(x, expected, strict=True)
        ]
    else:
        batch.assert_floats(batch.floats(got, case.to), np.array(expected), [np.array(x, object)], signs=case.signs)


@pytest.mark.parametrize("text", FROM_INTEGERS)
def test_from_integer(text, results):
    case = FROM_INTEGERS[text]
    check(case, text, results[text], [number(w, case.of) for w in A])


@pytest.mark.parametrize("text", FROM_FLOATS)
def test_from_float(text, results):
    case = FROM_FLOATS[text]
    check(case, text, results[text], batch.floats(FLOATS[SOURCES[case.of][0]], case.of).tolist())


@pytest.mark.parametrize("text", PAIRS)
def test_two_floats_to_a_pair(text, results):
    """The first source becomes the upper half."""
    kind, function = PAIRS[text]
    for shift, source in ((16, 0), (0, 32)):
        x = batch.floats(FLOATS["a"] >> np.uint64(source), "f32")
        expected = np.array([function(v) for v in x.tolist()])
        batch.assert_floats(batch.floats(results[text] >> np.uint64(shift), kind), expected, [x])
