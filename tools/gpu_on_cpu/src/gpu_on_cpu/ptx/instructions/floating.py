"""PTX ISA, "Floating Point Instructions" and "Mixed Precision Floating Point Instructions" (sm_100)."""

from __future__ import annotations

from re import Match

from gpu_on_cpu.ptx.emitter import Emitter, ctype
from gpu_on_cpu.ptx.instructions.integer import SIGN
from gpu_on_cpu.ptx.table import instruction

CHAPTER = "Floating Point Instructions: "
MODES = {"rz": "FE_TOWARDZERO", "rm": "FE_DOWNWARD", "rp": "FE_UPWARD"}


def optional(m: Match[str], name: str) -> str:
    return m.groupdict().get(name) or ""


def compute(e: Emitter, m: Match[str], destination: str, expression: str, inputs: list[str]) -> str:
    """destination = expression of x, y, z, under the modifiers .rz/.rm/.rp, .ftz and .sat of the match."""
    kind = m["t"]
    values = e.values(inputs, kind)
    if optional(m, "ftz"):
        values = [f"ptx::ftz({v})" for v in values]
    mode = MODES.get(optional(m, "rnd"))
    named = ", ".join(f"{n} = {v}" for n, v in zip("xyz", values, strict=False))
    names = ", ".join("xyz"[: len(values)])
    t = ctype(kind)
    if mode:
        body = f"ptx::rounded<{mode}, {t}>([]({t} x, {t} y, {t} z) -> {t} {{ (void)y; (void)z; return {expression}; }}, {names}{', x' if len(values) == 1 else ''})"
    else:
        body = f"{t}({expression})"
    for modifier, function in (("ftz", "ftz"), ("sat", "saturate")):
        body = f"ptx::{function}({body})" if optional(m, modifier) else body
    return f"{t} {named}; " + e.set(destination, body, kind)


@instruction(
    "add, sub, mul (float)",
    CHAPTER + "add, sub, mul",
    r"(add|sub|mul)<RND><FTZ><SAT>\.(?P<t>f32)",
    r"(add|sub|mul)<RND>\.(?P<t>f64)",
)
def arithmetic(e: Emitter, m: Match[str], a: list[str]) -> str:
    return compute(e, m, a[0], f"x {SIGN[m[1]]} y", a[1:3])


@instruction(
    "fma, mad (float)",
    CHAPTER + "fma, mad",
    r"(?:fma|mad)<RND><FTZ><SAT>\.(?P<t>f32)",
    r"(?:fma|mad)<RND>\.(?P<t>f64)",
)
def fma(e: Emitter, m: Match[str], a: list[str]) -> str:
    return compute(e, m, a[0], "std::fma(x, y, z)", a[1:4])


# .full and .approx may be off by 2 units in the last place on a GPU; here they are exact.
@instruction(
    "div (float)",
    CHAPTER + "div",
    r"div\.(?:full|approx)<FTZ>\.(?P<t>f32)",
    r"div\.(?P<rnd>rn|rz|rm|rp)<FTZ>\.(?P<t>f32)",
    r"div\.(?P<rnd>rn|rz|rm|rp)\.(?P<t>f64)",
)
def divide(e: Emitter, m: Match[str], a: list[str]) -> str:
    return compute(e, m, a[0], "x / y", a[1:3])


@instruction(
    "add, sub, mul, fma (packed f32)",
    CHAPTER + "add, sub, mul, fma",
    r"(add|sub|mul|fma)(?:\.rn)?<FTZ>\.f32x2",
)
def packed(e: Emitter, m: Match[str], a: list[str]) -> str:
    def half(shift: int) -> str:
        x = [f"ptx::F((uint64_t)({e.raw(q)}) >> {shift})" for q in a[1:]]
        x = [f"ptx::ftz({v})" for v in x] if m["ftz"] else x
        result = f"float(std::fma({', '.join(x)}))" if m[1] == "fma" else f"float({x[0]} {SIGN[m[1]]} {x[1]})"
        return f"ptx::U(ptx::ftz({result}))" if m["ftz"] else f"ptx::U({result})"

    return e.set(a[0], f"(uint64_t){half(32)} << 32 | {half(0)}")


@instruction(
    "min, max (float)",
    CHAPTER + "min, max",
    r"(min|max)<FTZ>(?P<nan>\.NaN)?(?P<xorsign>\.xorsign\.abs)?\.(?P<t>f32)",
    r"(min|max)(?P<nan>)(?P<xorsign>)\.(?P<t>f64)",
)
def minmax(e: Emitter, m: Match[str], a: list[str]) -> str:
    if len(a) == 4 and (m["xorsign"] or m["t"] == "f64"):
        raise e.fail("three inputs")
    function = f"ptx::f{m[1]}{'_nan' if m['nan'] else ''}"
    if not m["xorsign"]:
        nested = f"{function}({function}(x, y), z)" if len(a) == 4 else f"{function}(x, y)"
        return compute(e, m, a[0], nested, a[1:])
    # the result is not negative but for its sign, which is the exclusive or of the inputs' signs
    expression = (
        f"std::copysign({function}(std::fabs(x), std::fabs(y)), std::signbit(x) != std::signbit(y) ? -1.f : 1.f)"
    )
    return compute(e, m, a[0], expression, a[1:3])


@instruction("neg, abs (float)", CHAPTER + "neg, abs", r"(neg|abs)<FTZ>\.(?P<t>f32)", r"(neg|abs)\.(?P<t>f64)")
def sign(e: Emitter, m: Match[str], a: list[str]) -> str:
    return compute(e, m, a[0], "-x" if m[1] == "neg" else "std::fabs(x)", a[1:2])


@instruction("copysign", CHAPTER + "copysign", r"copysign\.(?P<t><FLT>)")
def copysign(e: Emitter, m: Match[str], a: list[str]) -> str:  # the sign of the first operand, the rest of the second
    return compute(e, m, a[0], "std::copysign(y, x)", a[1:3])


TESTS = {
    "finite": "std::isfinite(x)",
    "infinite": "std::isinf(x)",
    "number": "x == x",
    "notanumber": "x != x",
    "normal": "(std::isnormal(x) || x == 0)",
    "subnormal": "std::fpclassify(x) == FP_SUBNORMAL",
}


@instruction("testp", CHAPTER + "testp", rf"testp\.({'|'.join(TESTS)})\.(<FLT>)")
def testp(e: Emitter, m: Match[str], a: list[str]) -> str:
    return f"{ctype(m[2])} x = {e.value(a[1], m[2])}; " + e.set(a[0], TESTS[m[1]])


UNARY = {
    "rcp": "1 / x",
    "sqrt": "std::sqrt(x)",
    "rsqrt": "1 / std::sqrt((double)x)",
    "ex2": "std::exp2((double)x)",
    "lg2": "std::log2((double)x)",
    "tanh": "std::tanh((double)x)",
    "sin": "std::sin((double)x)",
    "cos": "std::cos((double)x)",
}


# The approximations are computed exactly here and rounded once.
@instruction(
    "rcp, sqrt, rsqrt, ex2, lg2, sin, cos, tanh",
    CHAPTER + "rcp, sqrt, rsqrt, sin, cos, lg2, ex2, tanh",
    r"(rcp|sqrt)\.(?:approx|(?P<rnd>rn|rz|rm|rp))<FTZ>\.(?P<t>f32)",
    r"(rcp|sqrt)\.(?P<rnd>rn|rz|rm|rp)\.(?P<t>f64)",
    r"(rsqrt|ex2|lg2|sin|cos)\.approx<FTZ>\.(?P<t>f32)",
    r"(tanh)\.approx\.(?P<t>f32)",
    r"(rcp|rsqrt)\.approx(?P<ftz>\.ftz)\.(?P<t>f64)",
    r"(rsqrt)\.approx\.(?P<t>f64)",
)
def unary(e: Emitter, m: Match[str], a: list[str]) -> str:
    return compute(e, m, a[0], UNARY[m[1]], a[1:2])


@instruction(
    "add, sub, fma (mixed precision)",
    "Mixed Precision Floating Point Instructions: add, sub, fma",
    r"(add|sub|fma)(?:\.rn)?\.f32\.(<H>)",
)
def mixed(e: Emitter, m: Match[str], a: list[str]) -> str:
    x, last = e.value(a[1], m[2]), e.value(a[-1], "f32")
    expression = f"std::fma({x}, {e.value(a[2], m[2])}, {last})" if m[1] == "fma" else f"{x} {SIGN[m[1]]} {last}"
    return e.set(a[0], expression, "f32")
