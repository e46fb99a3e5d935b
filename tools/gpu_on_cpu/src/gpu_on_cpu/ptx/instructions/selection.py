"""PTX ISA, "Comparison and Selection Instructions" and "Half Precision Comparison Instructions"."""

from __future__ import annotations

from re import Match

from gpu_on_cpu.ptx.emitter import FLOATS, HALVES, Emitter, ctype, storage
from gpu_on_cpu.ptx.table import instruction

CHAPTER = "Comparison and Selection Instructions: "
ORDER = {
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
    "eq": "==",
    "ne": "!=",
    "lo": "<",
    "ls": "<=",
    "hi": ">",
    "hs": ">=",
}
ON_INTEGERS = "lt|le|gt|ge|eq|ne|lo|ls|hi|hs"
ON_FLOATS = "lt|le|gt|ge|eq|ne|ltu|leu|gtu|geu|equ|neu|num|nan"
COMBINE = {"and": "&", "or": "|", "xor": "^"}


def condition(op: str, x: str, y: str, kind: str) -> str:
    """The C++ condition of a comparison; with a NaN an ordered one of floats is false, an unordered one (..u) true."""
    if kind not in FLOATS + HALVES:
        return f"({x} {ORDER[op]} {y})"
    nan = f"({x} != {x} || {y} != {y})"
    if op in ("num", "nan"):
        return nan if op == "nan" else f"!{nan}"
    if op.endswith("u"):
        return f"({nan} || {x} {ORDER[op[:-1]]} {y})"
    return f"(!{nan} && {x} {ORDER[op]} {y})"


def compare(e: Emitter, m: Match[str], a: list[str], kind: str) -> str:
    """Statements that declare x and y, flushed if .ftz, and bool c_ = comparison."""
    t = "float" if kind in HALVES else ctype(kind)
    x, y = e.values(a, kind)
    if m.groupdict().get("ftz"):
        flush = "ptx::ftz_f16" if kind == "f16" else "ptx::ftz"
        x, y = f"{flush}({x})", f"{flush}({y})"
    return f"{t} x = {x}, y = {y}; bool c_ = {condition(m['op'], 'x', 'y', kind)}; "


SETP_FORMS = (
    rf"(?P<op>{ON_INTEGERS})(?:\.(?P<combine>and|or|xor))?\.(?P<t><INT>)",
    rf"(?P<op>{ON_FLOATS})(?:\.(?P<combine>and|or|xor))?<FTZ>\.(?P<t>f32|f16)",
    rf"(?P<op>{ON_FLOATS})(?:\.(?P<combine>and|or|xor))?\.(?P<t>f64|bf16)",
)


@instruction("setp", CHAPTER + "setp", *(r"setp\." + f for f in SETP_FORMS))
def setp(e: Emitter, m: Match[str], a: list[str]) -> str:
    first, _, second = a[0].partition("|")
    result, opposite = "c_", "!c_"
    if m["combine"]:
        other = e.value(a[3], "pred")
        result, opposite = (f"bool({c}) {COMBINE[m['combine']]} bool({other})" for c in (result, opposite))
    # both results are taken before either register changes: the third operand may be one of them
    return (
        compare(e, m, a[1:3], m["t"])
        + f"bool p_ = {result}, q_ = {opposite}; (void)q_; "
        + e.set(first, "p_")
        + (e.set(second, "q_") if second else "")
    )


@instruction(
    "setp (packed)",
    "Half Precision Comparison Instructions: setp",
    rf"setp\.(?P<op>{ON_FLOATS})(?P<combine>)\.(?P<t>b?f16)x2",
)
def setp_x2(e: Emitter, m: Match[str], a: list[str]) -> str:
    low, _, high = a[0].partition("|")
    if not high:
        raise e.fail("two destinations expected")
    from_ = f"ptx::from_{m['t']}"
    x, y = e.values(a[1:3], "u32")
    conditions = [condition(m["op"], f"{from_}({x} >> {s})", f"{from_}({y} >> {s})", m["t"]) for s in (0, 16)]
    return f"bool p_ = {conditions[0]}, q_ = {conditions[1]}; " + e.set(low, "p_") + e.set(high, "q_")


@instruction(
    "set",
    CHAPTER + "set",
    rf"set\.(?P<op>{ON_INTEGERS})\.(?P<d>u32|s32|f32)\.(?P<t><INT>)",
    rf"set\.(?P<op>{ON_FLOATS})<FTZ>\.(?P<d>u32|s32|f32)\.(?P<t>f32)",
    rf"set\.(?P<op>{ON_FLOATS})\.(?P<d>u32|s32|f32)\.(?P<t>f64)",
)
def set_(e: Emitter, m: Match[str], a: list[str]) -> str:
    result = e.set(a[0], "c_ ? 1.f : 0.f", "f32") if m["d"] == "f32" else e.set(a[0], "c_ ? ~0u : 0u")
    return compare(e, m, a[1:3], m["t"]) + result


@instruction("selp", CHAPTER + "selp", r"selp\.(<ANY>)")
def selp(e: Emitter, m: Match[str], a: list[str]) -> str:
    t = storage(m[1])
    return e.set(a[0], f"{e.value(a[3], 'pred')} ? ({t})({e.raw(a[1])}) : ({t})({e.raw(a[2])})")


@instruction("slct", CHAPTER + "slct", r"slct(?P<ftz>)\.(<INT>|<FLT>)\.(s32)", r"slct<FTZ>\.(<INT>|<FLT>)\.(f32)")
def slct(e: Emitter, m: Match[str], a: list[str]) -> str:
    t, kind = storage(m[2]), m[3]
    c = f"ptx::ftz({e.value(a[3], kind)})" if m["ftz"] else e.value(a[3], kind)
    return e.set(a[0], f"{c} >= 0 ? ({t})({e.raw(a[1])}) : ({t})({e.raw(a[2])})")
