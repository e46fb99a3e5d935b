"""PTX ISA, "Integer Arithmetic Instructions" and "Extended-Precision Integer Arithmetic Instructions"."""

from __future__ import annotations

from re import Match

from gpu_on_cpu.ptx.emitter import Emitter, ctype
from gpu_on_cpu.ptx.parser import BITS
from gpu_on_cpu.ptx.table import instruction

CHAPTER = "Integer Arithmetic Instructions: "
EXTENDED = "Extended-Precision Integer Arithmetic Instructions: "
SIGN = {"add": "+", "sub": "-", "mul": "*"}


def unsigned(kind: str) -> str:
    return "u" + kind[1:]


@instruction(
    "add, sub, mul.lo (integer)",
    CHAPTER + "add, sub, mul",
    r"(add|sub)\.([su](?:16|32|64))",
    r"(mul)\.lo\.([su](?:16|32|64))",
)
def arithmetic(e: Emitter, m: Match[str], a: list[str]) -> str:
    u = unsigned(m[2])
    x, y = e.values(a[1:3], u)
    wide = "uint32_t" if u == "u16" else ctype(u)  # 16-bit products would overflow int
    return e.set(a[0], f"({ctype(u)})(({wide}){x} {SIGN[m[1]]} ({wide}){y})")


@instruction("add (packed integers)", CHAPTER + "add", r"add\.[su]16x2")
def add_x2(e: Emitter, m: Match[str], a: list[str]) -> str:
    x, y = e.values(a[1:3], "u32")
    return e.set(a[0], f"(({x} & 0xFFFF0000u) + ({y} & 0xFFFF0000u)) | (uint16_t)({x} + {y})")


@instruction("add, sub with saturation", CHAPTER + "add, sub", r"(add|sub)\.sat\.s32")
def saturating(e: Emitter, m: Match[str], a: list[str]) -> str:
    x, y = e.values(a[1:3], "s32")
    return e.set(a[0], f"ptx::clamp_int<int32_t>((int64_t){x} {SIGN[m[1]]} (int64_t){y})")


@instruction("mul.wide, mad.wide", CHAPTER + "mul, mad", r"(mul|mad)\.wide\.([su](?:16|32))")
def wide(e: Emitter, m: Match[str], a: list[str]) -> str:
    kind = m[2][0] + str(2 * BITS[m[2]])
    x, y = e.values(a[1:3], m[2])
    plus = f" + {e.value(a[3], unsigned(kind))}" if m[1] == "mad" else ""
    return e.set(a[0], f"({ctype(unsigned(kind))})(({ctype(kind)}){x} * {y}){plus}")


@instruction("mul.hi, mad.hi", CHAPTER + "mul, mad", r"(mul|mad)\.hi\.([su](?:16|32|64))")
def high(e: Emitter, m: Match[str], a: list[str]) -> str:
    double = {"16": "int32_t", "32": "int64_t", "64": "__int128"}[m[2][1:]]
    double = double if m[2][0] == "s" else {"__int128": "unsigned __int128"}.get(double, "u" + double)
    x, y = e.values(a[1:3], m[2])
    plus = f" + {e.value(a[3], unsigned(m[2]))}" if m[1] == "mad" else ""
    return e.set(a[0], f"({ctype(unsigned(m[2]))})(({double}){x} * {y} >> {BITS[m[2]]}){plus}")


@instruction("mad.lo", CHAPTER + "mad", r"mad\.lo\.([su](?:16|32|64))")
def mad(e: Emitter, m: Match[str], a: list[str]) -> str:
    x, y, z = e.values(a[1:4], unsigned(m[1]))
    return e.set(a[0], f"(uint64_t){x} * {y} + {z}")


@instruction("mul24, mad24", CHAPTER + "mul24, mad24", r"(mul|mad)24\.lo\.([su]32)")
def mul24(e: Emitter, m: Match[str], a: list[str]) -> str:
    def cut(x: str) -> str:
        return f"((int32_t)({e.value(x, 'u32')} << 8) >> 8)" if m[2] == "s32" else f"({e.value(x, 'u32')} & 0xFFFFFFu)"

    plus = f" + {e.value(a[3], 'u32')}" if m[1] == "mad" else ""
    return e.set(a[0], f"(uint64_t)((int64_t){cut(a[1])} * {cut(a[2])}){plus}")


@instruction("sad", CHAPTER + "sad", r"sad\.([su](?:16|32|64))")
def sad(e: Emitter, m: Match[str], a: list[str]) -> str:
    x, y, z = e.values(a[1:4], m[1])
    u = ctype(unsigned(m[1]))
    return e.set(a[0], f"({u}){z} + ({x} < {y} ? ({u}){y} - ({u}){x} : ({u}){x} - ({u}){y})")


@instruction("div, rem (integer)", CHAPTER + "div, rem", r"(div|rem)\.([su](?:16|32|64))", reports=True)
def divide(e: Emitter, m: Match[str], a: list[str]) -> str:
    function = {"div": "divide", "rem": "remainder"}[m[1]]
    return e.set(a[0], f"ptx::{function}<{ctype(m[2])}>({', '.join(e.values(a[1:3], m[2]))})")


@instruction(
    "min, max (integer)",
    CHAPTER + "min, max",
    r"(min|max)(?P<relu>)\.([su](?:16|32|64))",
    r"(min|max)(?P<relu>\.relu)\.(s32)",
)
def minmax(e: Emitter, m: Match[str], a: list[str]) -> str:
    x = f"std::{m[1]}<{ctype(m[3])}>({', '.join(e.values(a[1:3], m[3]))})"
    return e.set(a[0], f"std::max<{ctype(m[3])}>({x}, 0)" if m["relu"] else x)


@instruction(
    "min, max (packed integers)",
    CHAPTER + "min, max",
    r"(min|max)(?P<relu>)\.([su]16)x2",
    r"(min|max)(?P<relu>\.relu)\.(s16)x2",
)
def minmax_x2(e: Emitter, m: Match[str], a: list[str]) -> str:
    def half(shift: int) -> str:
        t = ctype(m[3])
        x, y = (f"({t})({v} >> {shift})" for v in e.values(a[1:3], "u32"))
        result = f"std::{m[1]}<{t}>({x}, {y})"
        return "(uint32_t)(uint16_t)" + (f"std::max<{t}>({result}, 0)" if m["relu"] else result)

    return e.set(a[0], f"{half(16)} << 16 | {half(0)}")


@instruction("neg (integer)", CHAPTER + "neg", r"neg\.(s(?:16|32|64))")
def neg(e: Emitter, m: Match[str], a: list[str]) -> str:
    return e.set(a[0], f"0 - {e.value(a[1], unsigned(m[1]))}")


@instruction("abs (integer)", CHAPTER + "abs", r"abs\.(s(?:16|32|64))")
def absolute(e: Emitter, m: Match[str], a: list[str]) -> str:
    u = unsigned(m[1])
    return e.set(a[0], f"{e.value(a[1], m[1])} < 0 ? 0 - {e.value(a[1], u)} : {e.value(a[1], u)}")


@instruction("popc", CHAPTER + "popc", r"popc\.b(32|64)")
def popc(e: Emitter, m: Match[str], a: list[str]) -> str:
    return e.set(a[0], f"__builtin_popcountll({e.value(a[1], 'b' + m[1])})")


@instruction("clz", CHAPTER + "clz", r"clz\.b(32|64)")
def clz(e: Emitter, m: Match[str], a: list[str]) -> str:
    x = e.value(a[1], "b" + m[1])
    return e.set(a[0], f"{x} ? __builtin_clzll({x}) - {64 - int(m[1])} : {m[1]}")


@instruction("bfind", CHAPTER + "bfind", r"bfind(\.shiftamt)?\.([su](?:32|64))")
def bfind(e: Emitter, m: Match[str], a: list[str]) -> str:
    x = f"ptx::bfind<{ctype(m[2])}>({e.value(a[1], m[2])})"
    return e.set(a[0], f"{x} == ~0u ? ~0u : {int(m[2][1:]) - 1} - {x}" if m[1] else x)


@instruction("brev", CHAPTER + "brev", r"brev\.(b32|b64)")
def brev(e: Emitter, m: Match[str], a: list[str]) -> str:
    return e.set(a[0], f"ptx::brev<{ctype(m[1])}>({e.value(a[1], m[1])})")


@instruction("bfe", CHAPTER + "bfe", r"bfe\.([su](?:32|64))")
def bfe(e: Emitter, m: Match[str], a: list[str]) -> str:
    return e.set(
        a[0],
        f"ptx::bfe<{ctype(m[1])}>({e.value(a[1], m[1])}, {e.value(a[2], 'u32')}, {e.value(a[3], 'u32')})",
    )


@instruction("bfi", CHAPTER + "bfi", r"bfi\.(b32|b64)")
def bfi(e: Emitter, m: Match[str], a: list[str]) -> str:
    return e.set(a[0], f"ptx::bfi<{ctype(m[1])}>({', '.join(e.values(a[1:3], m[1]) + e.values(a[3:5], 'u32'))})")


def bit_count(e: Emitter, mode: str, x: str) -> str:
    return f"std::min({e.value(x, 'u32')}, 32u)" if mode == "clamp" else f"({e.value(x, 'u32')} & 31)"


@instruction("szext", CHAPTER + "szext", r"szext\.(clamp|wrap)\.([su])32")
def szext(e: Emitter, m: Match[str], a: list[str]) -> str:
    return e.set(a[0], f"ptx::bfe<{ctype(m[2] + '32')}>({e.value(a[1], 'u32')}, 0, {bit_count(e, m[1], a[2])})")


@instruction("bmsk", CHAPTER + "bmsk", r"bmsk\.(clamp|wrap)\.b32")
def bmsk(e: Emitter, m: Match[str], a: list[str]) -> str:
    position = e.value(a[1], "u32") if m[1] == "clamp" else bit_count(e, m[1], a[1])
    return e.set(a[0], f"ptx::shl<uint32_t>((uint32_t)((1ull << {bit_count(e, m[1], a[2])}) - 1), {position})")


@instruction("dp4a", CHAPTER + "dp4a", r"dp4a\.([su])32\.([su])32")
def dp4a(e: Emitter, m: Match[str], a: list[str]) -> str:
    types = ", ".join("int8_t" if s == "s" else "uint8_t" for s in m.groups())
    return e.set(a[0], f"ptx::dp4a<{types}>({', '.join(e.values(a[1:4], 'u32'))})")


# ---- the carry flag is the variable cc_ of the translated kernel
def with_carry(e: Emitter, destination: str, sum_: str, kind: str, borrow: bool, sets: bool) -> str:
    """`sum_` is an expression of __int128; its bit above the type is the carry, or says that there was a borrow."""
    carry = f"cc_ = {'wide_ < 0' if borrow else f'(wide_ >> {BITS[kind]}) & 1'}; " if sets else ""
    return f"__int128 wide_ = {sum_}; {carry}" + e.set(destination, f"({ctype(unsigned(kind))})wide_")


@instruction(
    "add.cc, addc, sub.cc, subc",
    EXTENDED + "add.cc, addc, sub.cc, subc",
    r"(add|sub)(c)?(\.cc)?\.([su](?:32|64))",
)
def carry_arithmetic(e: Emitter, m: Match[str], a: list[str]) -> str:
    x, y = (f"(__int128){v}" for v in e.values(a[1:3], unsigned(m[4])))
    sign = SIGN[m[1]]
    return with_carry(e, a[0], f"{x} {sign} {y}" + (f" {sign} cc_" if m[2] else ""), m[4], m[1] == "sub", bool(m[3]))


@instruction("mad.cc, madc", EXTENDED + "mad.cc, madc", r"mad(c)?\.(lo|hi)(\.cc)?\.([su](?:32|64))")
def carry_mad(e: Emitter, m: Match[str], a: list[str]) -> str:
    kind, bits = m[4], BITS[m[4]]
    x, y = (f"({'__int128' if kind[0] == 's' else 'unsigned __int128'}){v}" for v in e.values(a[1:3], kind))
    part = f"{x} * {y} >> {bits}" if m[2] == "hi" else f"{x} * {y}"
    total = f"(__int128)({ctype(unsigned(kind))})({part}) + (__int128){e.value(a[3], unsigned(kind))}" + (
        " + cc_" if m[1] else ""
    )
    return with_carry(e, a[0], total, kind, False, bool(m[3]))
