"""Many short pieces of PTX in one kernel, all on the same triples of 64-bit words: one compilation for all.

Also exact arithmetic on floats by fractions, as the truth for what those pieces compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

import numpy as np
import support
import torch

# A piece reads a16, a32, a64 (the word's low bits), pa (its lowest bit), likewise b and c, and writes d16,
# d32, d64, p or p|q; which, tells the first operand of its last instruction. e16, e32, e64 are its own.
SCOPE = """{{
  .reg .pred pa, pb, pc, p, q; .reg .b16 a16, b16, c16, d16, e16; .reg .b32 n, a32, b32, c32, d32, e32;
  .reg .b64 at, a64, b64, c64, d64, e64;
  mov.u32 n, %ctaid.x; mad.lo.u32 n, n, {threads}, %r1; mul.wide.u32 at, n, 8;
  {loads}
  mad.lo.u64 at, at, {count}, %rd4;
  {pieces}
}}"""
LOAD = """add.u64 e64, at, %rd{i}; ld.global.b64 {x}64, [e64]; cvt.u32.u64 {x}32, {x}64;
  cvt.u16.u64 {x}16, {x}64;
  and.b32 e32, {x}32, 1; setp.ne.u32 p{x}, e32, 0;"""


def store(text: str, slot: int) -> str:
    result = text.split(";")[-1].split(None, 1)[1].split(",")[0].strip()
    if result in ("d16", "d32", "d64"):
        return f"st.global.b{result[1:]} [at+{slot}], {result};"
    assert result in ("p", "p|q"), result
    both = "@q add.u32 d32, d32, 2;" if "|" in result else ""
    return f"selp.u32 d32, 1, 0, p; {both} st.global.b32 [at+{slot}], d32;"


def words(values: Iterable[int]) -> np.ndarray:
    return np.array([v & (1 << 64) - 1 for v in values], np.uint64)


def batch(
    pieces: Iterable[str], a: np.ndarray, b: np.ndarray, c: np.ndarray, threads: int = 32
) -> dict[str, np.ndarray]:
    """What every piece computes from the triples (a, b, c), whose number is a multiple of `threads`."""
    pieces = list(pieces)
    text = "\n  ".join(f"{p}; {store(p, 8 * i)}" for i, p in enumerate(pieces))
    loads = "\n  ".join(LOAD.format(x=x, i=i) for i, x in enumerate("abc", 1))
    body = SCOPE.format(threads=threads, loads=loads, count=len(pieces), pieces=text)
    inputs = [torch.from_numpy(np.ascontiguousarray(x, np.uint64).view(np.int64)) for x in (a, b, c)]
    d = torch.zeros(len(a), len(pieces), dtype=torch.int64)
    assert len(a) % threads == 0
    support.run(body, *inputs, d, threads=threads, blocks=len(a) // threads, outputs=("d",))
    return dict(zip(pieces, np.ascontiguousarray(d.numpy().T).view(np.uint64), strict=True))


def triples(edges: Sequence[int], random: np.ndarray, threads: int = 32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of edge values with a third that walks through them, then random triples; whole blocks."""
    n = len(edges)
    a = [edges[i // n] for i in range(n * n)]
    b = [edges[i % n] for i in range(n * n)]
    c = [edges[(i * 7 + i // n * 5) % n] for i in range(n * n)]
    parts = [np.concatenate([words(x), r]) for x, r in zip((a, b, c), random, strict=True)]
    whole = len(parts[0]) // threads * threads
    return parts[0][:whole], parts[1][:whole], parts[2][:whole]


# ---- integers
def number(word: int, kind: str) -> int:
    """A word's low bits as an integer of PTX type `kind`."""
    bits = int(kind[1:])
    x = int(word) & (1 << bits) - 1
    return x - (1 << bits) if kind[0] == "s" and x >> bits - 1 else x


def signed(x: int, bits: int) -> int:
    return number(x, f"s{bits}")


# ---- floats: formats as (bits of the significand, exponent of the smallest normal number, largest exponent)
FORMATS = {
    "f16": (11, -14, 15),
    "bf16": (8, -126, 127),
    "tf32": (11, -126, 127),
    "f32": (24, -126, 127),
    "f64": (53, -1022, 1023),
}


def floats(raw: np.ndarray, kind: str) -> np.ndarray:
    """The floats of type `kind` in the low bits of words; f64 as it is, others as f32."""
    if kind == "f64":
        return raw.view(np.float64)
    if kind == "f32":
        return raw.astype(np.uint32).view(np.float32)
    if kind == "f16":
        return raw.astype(np.uint16).view(np.float16).astype(np.float32)
    return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)


def rounded(q: Fraction, kind: str, mode: str) -> float:
    """A nonzero fraction as a float of type `kind`, rounded by .rn, .rz, .rm or .rp."""
    precision, smallest, largest = FORMATS[kind]
    size = abs(q)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent -= Fraction(2) ** exponent > size
    unit = Fraction(2) ** (max(exponent, smallest) - precision + 1)
    count, rest = divmod(size, unit)
    if mode == "rn":
        count += 2 * rest > unit or (2 * rest == unit and count % 2 == 1)
    elif rest and mode == ("rm" if q < 0 else "rp"):
        count += 1
    value, top = count * unit, (2 - Fraction(2) ** (1 - precision)) * Fraction(2) ** largest
    if value > top:
        away = mode == "rn" or mode == ("rm" if q < 0 else "rp")
        value = math.inf if away else top
    return -float(value) if q < 0 else float(value)


def exact(
    function: Callable[..., Fraction | None], special: Callable[..., float], kind: str, mode: str
) -> Callable[..., float]:
    """`function` of fractions, rounded; `special` of floats where an input or the result is 0 or no number.

    `function` returns None where the result is no nonzero number.
    """

    def reference(*x: float) -> float:
        result = function(*map(Fraction, x)) if all(map(math.isfinite, x)) else None
        return rounded(result, kind, mode) if result else special(*x)

    return reference


def zero_of_sum(x: float, y: float, mode: str) -> float:
    """The sum of two numbers that is zero: its sign by IEEE 754."""
    if math.copysign(1, x) == math.copysign(1, y):
        return math.copysign(0.0, x)
    return -0.0 if mode == "rm" else 0.0


def add(kind: str, mode: str) -> Callable[..., float]:
    def special(x: float, y: float) -> float:
        return x + y if x + y else zero_of_sum(x, y, mode)

    return exact(lambda x, y: x + y, special, kind, mode)


def sub(kind: str, mode: str) -> Callable[..., float]:
    plus = add(kind, mode)
    return lambda x, y: plus(x, -y)


def mul(kind: str, mode: str) -> Callable[..., float]:
    return exact(lambda x, y: x * y, lambda x, y: x * y, kind, mode)


def fma(kind: str, mode: str) -> Callable[..., float]:
    def special(x: float, y: float, z: float) -> float:
        if math.isfinite(x) and math.isfinite(y):
            if not math.isfinite(z):
                return z
            product = math.copysign(0.0 if x == 0 or y == 0 else 1.0, math.copysign(1, x) * math.copysign(1, y))
            return zero_of_sum(product, z, mode) if product == 0 else zero_of_sum(product, -product, mode)
        return x * y + z

    return exact(lambda x, y, z: x * y + z, special, kind, mode)


def div(kind: str, mode: str) -> Callable[..., float]:
    def special(x: float, y: float) -> float:
        with np.errstate(all="ignore"):
            return float(np.float64(x) / np.float64(y))

    return exact(lambda x, y: x / y if y else None, special, kind, mode)


def rcp(kind: str, mode: str) -> Callable[..., float]:
    divide = div(kind, mode)
    return lambda x: divide(1.0, x)


def sqrt(kind: str, mode: str) -> Callable[..., float]:
    def function(x: Fraction) -> Fraction | None:
        if x <= 0:
            return None
        scale = 4 ** max(0, 120 - (x.numerator.bit_length() - x.denominator.bit_length()) // 2)
        root = math.isqrt(x.numerator * scale // x.denominator)
        inexact = Fraction(root * root, scale) != x
        return Fraction(2 * root + inexact, 2 * math.isqrt(scale))  # a half more keeps it off every tie

    return exact(function, lambda x: x if x == 0 or x == math.inf else math.nan, kind, mode)


def flush(x: float, kind: str = "f32") -> float:
    """.ftz of one value."""
    return math.copysign(0.0, x) if abs(x) < 2.0 ** FORMATS[kind][1] else x


def flushed(function: Callable[..., float], kind: str = "f32") -> Callable[..., float]:
    return lambda *x: flush(function(*(flush(v, kind) for v in x)), kind)


def clamp(x: float) -> float:
    """.sat of one value."""
    return 0.0 if math.isnan(x) else min(max(x, 0.0), 1.0)


def smaller(x: float, y: float) -> float:
    if math.isnan(x) or math.isnan(y):
        return y if math.isnan(x) else x
    return min((x, y), key=lambda v: (v, math.copysign(1, v)))


def larger(x: float, y: float) -> float:
    return -smaller(-x, -y)


def or_nan(function: Callable[..., float]) -> Callable[..., float]:
    """.NaN of min and max."""
    return lambda *x: math.nan if any(map(math.isnan, x)) else function(*x)


def steps(x: np.ndarray) -> np.ndarray:
    """Floats numbered in their order, so that neighbours differ by 1."""
    i = x.view(np.int32 if x.dtype == np.float32 else np.int64).astype(object)
    return np.where(i < 0, -(i & (1 << 8 * x.itemsize - 1) - 1), i)


def assert_floats(
    actual: np.ndarray,
    expected: np.ndarray,
    about: Sequence[np.ndarray],
    *,
    ulps: int = 0,
    signs: bool = True,
) -> None:
    """Equal values, or at most `ulps` apart; any NaN for a NaN; the same sign of zero."""
    expected = np.asarray(expected, actual.dtype)
    nan = np.isnan(actual) & np.isnan(expected)
    same = nan | (actual == expected)
    if ulps:
        same |= (abs(steps(actual) - steps(expected)) <= ulps) & ~np.isnan(actual) & ~np.isnan(expected)
    if signs:
        same &= nan | (np.signbit(actual) == np.signbit(expected))
    wrong = np.flatnonzero(~same)
    assert not len(wrong), [(*(x[i] for x in about), actual[i], expected[i]) for i in wrong[:5]]
