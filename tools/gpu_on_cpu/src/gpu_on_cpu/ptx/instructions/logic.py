"""PTX ISA, "Logic and Shift Instructions", and prmt."""

from __future__ import annotations

from re import Match

from gpu_on_cpu.ptx.emitter import Emitter, ctype
from gpu_on_cpu.ptx.instructions.selection import COMBINE
from gpu_on_cpu.ptx.table import instruction

CHAPTER = "Logic and Shift Instructions: "


@instruction("and, or, xor", CHAPTER + "and, or, xor", r"(and|or|xor)\.(pred|b16|b32|b64)")
def logic(e: Emitter, m: Match[str], a: list[str]) -> str:
    x, y = e.values(a[1:3], m[2])
    return e.set(a[0], f"{x} {COMBINE[m[1]]} {y}")


@instruction("not, cnot", CHAPTER + "not, cnot", r"(not)\.(pred|b16|b32|b64)", r"(cnot)\.(b16|b32|b64)")
def invert(e: Emitter, m: Match[str], a: list[str]) -> str:
    return e.set(a[0], f"{'!' if m[2] == 'pred' or m[1] == 'cnot' else '~'}{e.value(a[1], m[2])}")


@instruction("shl, shr", CHAPTER + "shl, shr", r"(shl)\.(b16|b32|b64)", r"(shr)\.(<INT>)")
def shift(e: Emitter, m: Match[str], a: list[str]) -> str:
    return e.set(a[0], f"ptx::{m[1]}<{ctype(m[2])}>({e.value(a[1], m[2])}, {e.value(a[2], 'u32')})")


@instruction("shf", CHAPTER + "shf", r"shf\.(l|r)\.(wrap|clamp)\.b32")
def funnel(e: Emitter, m: Match[str], a: list[str]) -> str:
    n = e.value(a[3], "u32")
    n = f"std::min({n}, 32u)" if m[2] == "clamp" else f"({n} & 31)"
    pair = f"((unsigned __int128)((uint64_t){e.value(a[2], 'u32')} << 32 | (uint64_t){e.value(a[1], 'u32')}))"
    return e.set(a[0], f"(uint32_t)({pair} >> {n})" if m[1] == "r" else f"(uint32_t)({pair} << {n} >> 32)")


@instruction("lop3", CHAPTER + "lop3", r"lop3\.b32")
def lop3(e: Emitter, m: Match[str], a: list[str]) -> str:
    x, y, z = e.values(a[1:4], "u32")
    table = int(a[4], 0)
    terms = [
        f"({'' if i & 4 else '~'}{x} & {'' if i & 2 else '~'}{y} & {'' if i & 1 else '~'}{z})"
        for i in range(8)
        if table >> i & 1
    ]
    return e.set(a[0], " | ".join(terms) or "0")


@instruction("prmt", "Data Movement and Conversion Instructions: prmt", r"prmt\.b32")
def prmt(e: Emitter, m: Match[str], a: list[str]) -> str:
    return e.set(a[0], f"ptx::prmt({', '.join(e.values(a[1:4], 'u32'))})")
