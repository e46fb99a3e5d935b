"""Instructions on f16 and bf16, alone and in pairs: every first operand against torch, samples exactly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import batch
import numpy as np
import pytest
import torch
from batch import clamp, larger, or_nan, smaller

KINDS = {"f16": torch.float16, "bf16": torch.bfloat16}
Scalar = Callable[..., float]
Tensors = Callable[..., torch.Tensor]


def ordered(raw: np.ndarray) -> np.ndarray:
    """16-bit floats numbered in their order, so that neighbours differ by 1."""
    i = raw.astype(np.int32)
    return np.where(i & 0x8000, -(i & 0x7FFF), i)


# ---- every 16-bit number as the first operand of the packed forms, each with four others
def all_pairs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = np.arange(1 << 16, dtype=np.uint16)
    edges = np.array(
        [
            0,
            0x8000,
            1,
            0x8001,
            0x3C00,
            0xBC00,
            0x3F80,
            0x7BFF,
            0x7C00,
            0x7F7F,
            0x7F80,
            0xFF80,
            0x7FFF,
            0x0400,
            0x0080,
        ],
        np.uint16,
    )
    others = [
        rng.permutation(x),
        rng.permutation(x),
        x ^ rng.integers(0, 1 << 11, x.shape, dtype=np.uint16),
        edges[x % 15],
    ]
    return np.tile(x, 4), np.concatenate(others)


def maximum_number(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    result = torch.where((x > y) | ((x == y) & ~x.signbit()), x, y)
    return torch.where(x.isnan(), y, torch.where(y.isnan(), x, result))


def minimum_number(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return -maximum_number(-x, -y)


def with_nan(function: Tensors) -> Tensors:
    return lambda x, y: torch.where(x.isnan() | y.isnan(), math.nan, function(x, y))


PACKED: dict[str, Tensors] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "min": minimum_number,
    "max": maximum_number,
    "min.NaN": with_nan(minimum_number),
    "max.NaN": with_nan(maximum_number),
    "neg": torch.neg,
    "abs": torch.abs,
    "ex2.approx": torch.exp2,
    "tanh.approx": torch.tanh,
}
UNARY = ("neg", "abs", "ex2.approx", "tanh.approx")


def opcode(op: str, kind: str) -> str:
    return f"{op}.ftz.{kind}" if (op, kind) == ("ex2.approx", "bf16") else f"{op}.{kind}"


def packed_text(op: str, kind: str) -> str:
    return f"{opcode(op, kind)}x2 d32, a32{'' if op in UNARY else ', b32'}"


@pytest.fixture(scope="module")
def every() -> dict[str, dict[str, np.ndarray]]:
    a, b = (x.view(np.uint32).astype(np.uint64) for x in all_pairs())
    return {kind: batch.batch([packed_text(op, kind) for op in PACKED], a, b, b, threads=128) for kind in KINDS}


@pytest.mark.parametrize(("op", "kind"), list(itertools.product(PACKED, KINDS)))
def test_every_first_operand(op, kind, every):
    def tensor(raw: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(raw.view(np.int16)).view(KINDS[kind])

    raw = every[kind][packed_text(op, kind)].astype(np.uint32).view(np.uint16)
    x, y = map(tensor, all_pairs())
    if op.endswith("approx"):
        expected = PACKED[op](x.double()).float()
        smallest = torch.finfo(KINDS[kind]).smallest_normal
        if kind == "bf16" and op == "ex2.approx":
            expected[expected < smallest] = 0
        expected, got = expected.to(KINDS[kind]), tensor(raw)
        close = abs(ordered(raw) - ordered(expected.view(torch.int16).numpy().view(np.uint16))) <= 1
        assert (torch.from_numpy(close) | (got.isnan() & expected.isnan())).all()
    else:
        wide = (x.float(),) if op in UNARY else (x.float(), y.float())
        expected = PACKED[op](*wide).to(KINDS[kind]).float()
        about = [v.numpy() for v in wide]
        batch.assert_floats(tensor(raw).float().numpy(), expected.numpy(), about)


# ---- edge values and what only one form has, against fractions
EDGES = {
    "f16": [
        0,
        1,
        2,
        0x3FF,
        0x400,
        0x401,
        0x1000,
        0x1001,
        0x2C01,
        0x3800,
        0x3BFF,
        0x3C00,
        0x3C01,
        0x4200,
        0x6BFF,
        0x7BFF,
        0x7C00,
        0x7E00,
    ],
    "bf16": [
        0,
        1,
        2,
        0x7F,
        0x80,
        0x81,
        0x1F80,
        0x1F81,
        0x3B81,
        0x3F00,
        0x3F7F,
        0x3F80,
        0x3F81,
        0x4040,
        0x7EFF,
        0x7F7F,
        0x7F80,
        0x7FC0,
    ],
}


def samples(kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of 16-bit numbers in the low half of each word and an f32 in the upper; also products half way
    between two bf16 with an addend that decides."""
    rng = np.random.default_rng(4)
    edges = [*EDGES[kind], *(x | 0x8000 for x in EDGES[kind])]
    any_bits = rng.integers(0, 1 << 16, (3, 400), dtype=np.uint64)
    near = (np.uint64(0x3C00 if kind == "f16" else 0x3F80) + rng.integers(0, 0x400, (3, 400), dtype=np.uint64)) ^ (
        any_bits & np.uint64(0x8000)
    )
    ties = np.array(
        list(
            itertools.product(
                (0x3F83, 0x3F8D, 0xBFAB), (0x3F80 | x for x in (8, 12, 32, 96)), (1, 0x8001, 0x20, 0x8F00)
            )
        ),
        np.uint64,
    ).T
    low = batch.triples(edges, np.concatenate([any_bits, near, ties], 1))
    single = rng.standard_normal((3, len(low[0]))).astype(np.float32) * np.exp2(rng.integers(-30, 30, len(low[0])))
    upper = single.astype(np.float32).view(np.uint32).astype(np.uint64)
    return tuple(
        x | np.roll(x, 3 + i) << np.uint64(16) | u << np.uint64(32)
        for i, (x, u) in enumerate(zip(low, upper, strict=True))
    )


def relu(function: Scalar) -> Scalar:
    return or_nan_of(lambda *x: larger(function(*x), 0.0), function)


def or_nan_of(function: Scalar, inner: Scalar) -> Scalar:
    return lambda *x: math.nan if math.isnan(inner(*x)) else function(*x)


def operations(kind: str) -> dict[str, Scalar]:
    fma = batch.fma(kind, "rn")
    found = {
        f"fma.rn.{kind}": fma,
        f"fma.rn.relu.{kind}": relu(fma),
        f"min.{kind}": smaller,
        f"max.{kind}": larger,
        f"min.NaN.{kind}": or_nan(smaller),
        f"max.NaN.{kind}": or_nan(larger),
        f"neg.{kind}": lambda x: -x,
        f"abs.{kind}": abs,
    }
    for name, make in {"add": batch.add, "sub": batch.sub, "mul": batch.mul}.items():
        function = make(kind, "rn")
        found |= {f"{name}.{kind}": function, f"{name}.rn.{kind}": function}
        if kind == "f16":
            found[f"{name}.sat.{kind}"] = found[f"{name}.rn.sat.{kind}"] = lambda *x, f=function: clamp(f(*x))
    if kind == "f16":
        found["fma.rn.sat.f16"] = lambda *x: clamp(fma(*x))
    return found


def rounded_once(function: Callable[[float], float], kind: str) -> Scalar:
    """A function in fp64, rounded to 16 bits by fractions."""

    def evaluate(x: float) -> float:
        y = function(x)
        y = batch.rounded(batch.Fraction(y), kind, "rn") if math.isfinite(y) and y else y
        return batch.flush(y, kind) if kind == "bf16" and function is np.exp2 else y

    return evaluate


OPERATIONS = {kind: operations(kind) for kind in KINDS}
APPROXIMATE = {
    kind: {opcode(op, kind): rounded_once(f, kind) for op, f in (("ex2.approx", np.exp2), ("tanh.approx", np.tanh))}
    for kind in KINDS
}


def mixed(kind: str) -> dict[str, Scalar]:
    add, sub, fma = (f("f32", "rn") for f in (batch.add, batch.sub, batch.fma))
    return {f"{op}{rn}.f32.{kind}": f for op, f in {"add": add, "sub": sub}.items() for rn in ("", ".rn")} | {
        f"fma.rn.f32.{kind}": fma
    }


def arity(op: str) -> int:
    return 3 if op.startswith("fma") else 1 if op.startswith(UNARY) else 2


def text(op: str) -> str:
    n = arity(op)
    if ".f32." in op:
        return f"shr.u64 e64, c64, 32; cvt.u32.u64 e32, e64; {op} d32, {', '.join(('a16', 'b16')[: n - 1])}, e32"
    width = 32 if op.endswith("x2") else 16
    return f"{op} {', '.join(f'{r}{width}' for r in 'dabc'[: n + 1])}"


WORDS = {kind: samples(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, np.ndarray]]:
    found = {}
    for kind in KINDS:
        ops = [*OPERATIONS[kind], *APPROXIMATE[kind]]
        found[kind] = batch.batch(map(text, [*ops, *(f"{op}x2" for op in ops), *mixed(kind)]), *WORDS[kind])
    return found


@pytest.mark.parametrize(
    ("kind", "op"), [(kind, op) for kind in KINDS for op in (*OPERATIONS[kind], *APPROXIMATE[kind])]
)
def test_samples(kind, op, results):
    """One number, and both halves of a pair."""
    function = (OPERATIONS[kind] | APPROXIMATE[kind])[op]
    for form, shift in ((op, 0), (f"{op}x2", 0), (f"{op}x2", 16)):
        raw = results[kind][text(form)] >> np.uint64(shift) & np.uint64(0xFFFF)
        x = [batch.floats(w >> np.uint64(shift), kind) for w in WORDS[kind][: arity(op)]]
        with np.errstate(all="ignore"):
            expected = np.array([function(*map(float, v)) for v in zip(*x, strict=True)])
        batch.assert_floats(batch.floats(raw, kind), expected, x, signs=".sat" not in op)


@pytest.mark.parametrize(("kind", "op"), [(kind, op) for kind in KINDS for op in mixed(kind)])
def test_mixed_precision(kind, op, results):
    a, b, c = WORDS[kind]
    x = [batch.floats(w, kind) for w in (a, b)[: arity(op) - 1]] + [batch.floats(c >> np.uint64(32), "f32")]
    expected = np.array([mixed(kind)[op](*map(float, v)) for v in zip(*x, strict=True)])
    batch.assert_floats(batch.floats(results[kind][text(op)], "f32"), expected, x)
