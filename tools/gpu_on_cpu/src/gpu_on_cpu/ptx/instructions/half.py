"""PTX ISA, "Half Precision Floating Point Instructions": f16 and bf16, alone and in pairs."""

from __future__ import annotations

from re import Match

from gpu_on_cpu.ptx.emitter import Emitter
from gpu_on_cpu.ptx.table import instruction

CHAPTER = "Half Precision Floating Point Instructions: "
# in fp64, rounded to 16 bit once
EXPRESSIONS = {
    "add": "x + y",
    "sub": "x - y",
    "mul": "x * y",
    "fma": "ptx::fma_odd(x, y, z)",
    "min": "ptx::fmin(x, y)",
    "max": "ptx::fmax(x, y)",
    "min.NaN": "ptx::fmin_nan(x, y)",
    "max.NaN": "ptx::fmax_nan(x, y)",
    "neg": "-x",
    "abs": "std::fabs(x)",
    "ex2.approx": "std::exp2(x)",
    "ex2.approx.ftz": "(std::exp2(x) < 0x1p-126 ? 0. : std::exp2(x))",  # bf16
    "tanh.approx": "std::tanh(x)",
}


def compute(e: Emitter, kind: str, pair: bool, expression: str, a: list[str]) -> str:
    function = f"ptx::map16{'x2' if pair else ''}<{'true' if kind == 'bf16' else 'false'}>"
    values = e.values(a[1:], "b32" if pair else "b16")
    values += values[:1] if len(values) == 1 else []
    lambda_ = f"[](double x, double y, double z) {{ (void)x; (void)y; (void)z; return double({expression}); }}"
    return e.set(a[0], f"{function}({lambda_}, {', '.join(values)})")


@instruction(
    "add, sub, mul, fma (16 bit)",
    CHAPTER + "add, sub, mul, fma",
    r"(add|sub|mul)(?:\.rn)?(?P<sat>\.sat)?(?P<relu>)\.(?P<t>f16)(?P<x2>x2)?",
    r"(fma)\.rn(?P<sat>\.sat)?(?P<relu>\.relu)?\.(?P<t>f16)(?P<x2>x2)?",
    r"(add|sub|mul)(?:\.rn)?(?P<sat>)(?P<relu>)\.(?P<t>bf16)(?P<x2>x2)?",
    r"(fma)\.rn(?P<sat>)(?P<relu>\.relu)?\.(?P<t>bf16)(?P<x2>x2)?",
)
def arithmetic(e: Emitter, m: Match[str], a: list[str]) -> str:
    expression = EXPRESSIONS[m[1]]
    if m["sat"]:
        expression = f"ptx::saturate<double>({expression})"
    if m["relu"]:
        expression = f"ptx::fmax_nan<double>({expression}, 0.)"
    return compute(e, m["t"], bool(m["x2"]), expression, a)


@instruction(
    "min, max, neg, abs (16 bit)",
    CHAPTER + "min, max, neg, abs",
    r"((?:min|max)(?:\.NaN)?|neg|abs)\.(<H>)(x2)?",
)
def selection(e: Emitter, m: Match[str], a: list[str]) -> str:
    return compute(e, m[2], bool(m[3]), EXPRESSIONS[m[1]], a)


@instruction(
    "ex2, tanh (16 bit)",
    CHAPTER + "ex2, tanh",
    r"(tanh\.approx)\.(<H>)(x2)?",
    r"(ex2\.approx)\.(f16)(x2)?",
    r"(ex2\.approx\.ftz)\.(bf16)(x2)?",
)
def transcendental(e: Emitter, m: Match[str], a: list[str]) -> str:
    return compute(e, m[2], bool(m[3]), EXPRESSIONS[m[1]], a)
