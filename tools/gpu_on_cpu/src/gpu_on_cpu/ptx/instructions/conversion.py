"""PTX ISA, "Data Movement and Conversion Instructions": mov, cvta, isspacep, cvt."""

from __future__ import annotations

from re import Match

from gpu_on_cpu.ptx.emitter import HALVES, Emitter, ctype, vector
from gpu_on_cpu.ptx.instructions.floating import MODES, optional
from gpu_on_cpu.ptx.parser import BITS
from gpu_on_cpu.ptx.table import instruction

CHAPTER = "Data Movement and Conversion Instructions: "
TO_INTEGER = {"rni": "rint", "rzi": "trunc", "rmi": "floor", "rpi": "ceil"}
INTEGER = r"[su](?:8|16|32|64)"


@instruction("mov", CHAPTER + "mov", r"mov\.(pred|<ANY>)")
def mov(e: Emitter, m: Match[str], a: list[str]) -> str:
    if a[0].startswith("{"):
        parts = vector(a[0])
        width = BITS[m[1]] // len(parts)
        return f"uint64_t t_ = {e.raw(a[1])}; " + " ".join(
            e.set(r, f"t_ >> {i * width}") for i, r in enumerate(parts) if r != "_"
        )
    if a[1].startswith("{"):
        parts = vector(a[1])
        width = BITS[m[1]] // len(parts)
        return e.set(
            a[0],
            " | ".join(f"(uint64_t)(uint{width}_t)({e.raw(r)}) << {i * width}" for i, r in enumerate(parts)),
        )
    return e.set(a[0], e.raw(a[1]))


# Only shared addresses differ between their window and the generic space; local, global and parameter addresses do not.
@instruction("cvta", CHAPTER + "cvta", r"cvta(\.to)?\.(<SHARED>|global|local|const|param)\.u64")
def cvta(e: Emitter, m: Match[str], a: list[str]) -> str:
    base = f" {'-' if m[1] else '+'} ptx::shared_base()" if m[2].startswith("shared") else ""
    return e.set(a[0], f"(uint64_t)({e.raw(a[1])}){base}")


@instruction("isspacep", CHAPTER + "isspacep", r"isspacep\.(<SHARED>|global)")
def isspacep(e: Emitter, m: Match[str], a: list[str]) -> str:
    if m[1].startswith("shared"):
        return e.set(a[0], f"ptx::is_shared({e.raw(a[1])})")
    local = [
        f"x - (uint64_t){e.variable(v.name)} < {v.size}" for v in e.kernel.variables.values() if v.space == "local"
    ]
    return f"uint64_t x = {e.raw(a[1])}; " + e.set(a[0], f"!({' || '.join(['ptx::is_shared(x)', *local])})")


@instruction("cvt (integers)", CHAPTER + "cvt", rf"cvt<SAT>\.({INTEGER})\.({INTEGER})")
def integers(e: Emitter, m: Match[str], a: list[str]) -> str:
    to, x = ctype(m[2]), e.value(a[1], m[3])
    return e.set(a[0], f"ptx::clamp_int<{to}>({x})" if m["sat"] else f"({to}){x}")


@instruction(
    "cvt (integer to float)",
    CHAPTER + "cvt",
    rf"cvt\.(?P<rnd>rn|rz|rm|rp)<SAT>\.(?P<to>f32|f64|f16|bf16)\.(?P<from>{INTEGER})",
)
def integer_to_float(e: Emitter, m: Match[str], a: list[str]) -> str:
    source, to, mode = ctype(m["from"]), m["to"], MODES.get(m["rnd"])
    if to in HALVES and mode:
        raise e.fail("rounding mode")
    t = "double" if to in HALVES else ctype(to)  # 16-bit floats round once from fp64
    x = e.value(a[1], m["from"])
    if to in HALVES and BITS[m["from"]] == 64:
        raise e.fail("64-bit integer to 16-bit float")
    if mode:  # the conversion itself is what rounds
        x = f"ptx::convert<{mode}, {t}, {source}>({x})"
    else:
        x = f"({t}){x}"
    return e.set(a[0], f"ptx::saturate<{t}>({x})" if m["sat"] else x, to)


@instruction(
    "cvt (float to integer)",
    CHAPTER + "cvt",
    rf"cvt\.(rni|rzi|rmi|rpi)<FTZ><SAT>\.({INTEGER})\.(f32)",
    rf"cvt\.(rni|rzi|rmi|rpi)(?P<ftz>)<SAT>\.({INTEGER})\.(f64|f16|bf16)",
)
def float_to_integer(e: Emitter, m: Match[str], a: list[str]) -> str:  # saturates with or without .sat
    x = e.value(a[1], m[5])
    x = f"ptx::ftz({x})" if m["ftz"] else x
    return e.set(a[0], f"ptx::to_int<{ctype(m[4])}>(std::{TO_INTEGER[m[1]]}({x}))")


@instruction(
    "cvt (float to integral float)",
    CHAPTER + "cvt",
    r"cvt\.(rni|rzi|rmi|rpi)<FTZ><SAT>\.(f32)\.f32",
    r"cvt\.(rni|rzi|rmi|rpi)(?P<ftz>)<SAT>\.(f64|f16|bf16)\.\4",
)
def integral(e: Emitter, m: Match[str], a: list[str]) -> str:
    x = e.value(a[1], m[4])
    x = f"ptx::ftz({x})" if m["ftz"] else x
    x = f"std::{TO_INTEGER[m[1]]}({x})"
    return e.set(a[0], f"ptx::saturate({x})" if m["sat"] else x, m[4])


@instruction(
    "cvt (f32, f64)",
    CHAPTER + "cvt",
    r"cvt<FTZ><SAT>\.(?P<to>f32)\.(?P<from>f32)",
    r"cvt<FTZ><SAT>\.(?P<to>f64)\.(?P<from>f32)",
    r"cvt<SAT>\.(?P<to>f64)\.(?P<from>f64)",
    r"cvt\.(?P<rnd>rn|rz|rm|rp)<FTZ><SAT>\.(?P<to>f32)\.(?P<from>f64)",
)
def floats(e: Emitter, m: Match[str], a: list[str]) -> str:
    x, t = e.value(a[1], m["from"]), ctype(m["to"])
    ftz = optional(m, "ftz")
    x = f"ptx::ftz({x})" if ftz and m["from"] == "f32" else x
    mode = MODES.get(optional(m, "rnd"))
    x = f"ptx::convert<{mode}, {t}, {ctype(m['from'])}>({x})" if mode else f"({t}){x}"
    x = f"ptx::ftz({x})" if ftz and m["to"] == "f32" else x
    return e.set(a[0], f"ptx::saturate<{t}>({x})" if m["sat"] else x, m["to"])


@instruction(
    "cvt (16 bit to wider)",
    CHAPTER + "cvt",
    r"cvt<FTZ><SAT>\.(f32)\.(<H>)",
    r"cvt(?P<ftz>)<SAT>\.(f64)\.(<H>)",
)
def from_half(e: Emitter, m: Match[str], a: list[str]) -> str:
    x = f"({ctype(m[3])}){e.value(a[1], m[4])}"
    x = f"ptx::ftz({x})" if m["ftz"] else x
    return e.set(a[0], f"ptx::saturate({x})" if m["sat"] else x, m[3])


def round_half(m: Match[str], x: str, kind: str) -> str:
    """The bits of f32 or f64 expression `x` as a 16-bit float, under .rz, .relu and .satfinite."""
    bf = "true" if kind == "bf16" else "false"
    if optional(m, "relu"):
        x = f"ptx::fmax_nan<float>({x}, 0.f)"
    if optional(m, "sat"):
        x = f"ptx::saturate({x})"
    bits = f"ptx::to16_rz<{bf}>({x})" if m["rnd"] == "rz" else f"ptx::to16<{bf}>({x})"
    return f"ptx::clamp_finite<{bf}>({bits})" if optional(m, "satfinite") else bits


HALF_MODIFIERS = r"(?P<rnd>rn|rz)(?P<relu>\.relu)?(?P<satfinite>\.satfinite)?"


@instruction(
    "cvt (to 16 bit)",
    CHAPTER + "cvt",
    rf"cvt\.{HALF_MODIFIERS}\.(?P<to><H>)\.(?P<from>f32)",
    r"cvt\.(?P<rnd>rn)<FTZ><SAT>\.(?P<to>f16)\.(?P<from>f32)",
    r"cvt\.(?P<rnd>rn)\.(?P<to><H>)\.(?P<from>f64|f16|bf16)",
)
def to_half(e: Emitter, m: Match[str], a: list[str]) -> str:
    x = e.value(a[1], m["from"])
    x = f"ptx::ftz({x})" if optional(m, "ftz") else x
    return e.set(a[0], round_half(m, x, m["to"]))


@instruction("cvt (two f32 to a pair)", CHAPTER + "cvt", rf"cvt\.{HALF_MODIFIERS}\.(<H>)x2\.f32")
def to_half_pair(e: Emitter, m: Match[str], a: list[str]) -> str:  # the first source goes to the upper half
    high, low = (round_half(m, x, m[4]) for x in e.values(a[1:3], "f32"))
    return e.set(a[0], f"(uint32_t){high} << 16 | {low}")


@instruction("cvt (to tf32)", CHAPTER + "cvt", r"cvt\.(rna|rn)\.tf32\.f32")
def to_tf32(e: Emitter, m: Match[str], a: list[str]) -> str:
    return e.set(a[0], f"ptx::to_tf32_{m[1]}({e.value(a[1], 'f32')})")
