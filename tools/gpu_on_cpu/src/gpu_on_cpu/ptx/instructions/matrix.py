"""PTX ISA, "Warp Level Matrix Instructions": ldmatrix, stmatrix, mma."""

from __future__ import annotations

from re import Match

from gpu_on_cpu.ptx.emitter import Emitter, vector
from gpu_on_cpu.ptx.table import instruction

CHAPTER = "Warp Level Matrix Instructions: "


@instruction(
    "ldmatrix",
    CHAPTER + "ldmatrix",
    r"ldmatrix\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.<SHARED>\.b16",
    reports=True,
)
def ldmatrix(e: Emitter, m: Match[str], a: list[str]) -> str:
    return f"uint32_t t_[4]; ptx::ldmatrix({m[1]}, {'true' if m[2] else 'false'}, {e.address(a[1])}, t_); " + " ".join(
        e.set(r, f"t_[{i}]") for i, r in enumerate(vector(a[0]))
    )


@instruction(
    "stmatrix",
    CHAPTER + "stmatrix",
    r"stmatrix\.sync\.aligned\.m8n8\.x([124])(\.trans)?\.<SHARED>\.b16",
    reports=True,
)
def stmatrix(e: Emitter, m: Match[str], a: list[str]) -> str:
    values = ", ".join(e.values(vector(a[1]), "u32"))
    return f"uint32_t t_[] = {{{values}}}; ptx::stmatrix({m[1]}, {'true' if m[2] else 'false'}, {e.address(a[0])}, t_);"


def call(e: Emitter, a: list[str], function: str, kind: str, d_type: str, d_count: int, k_bytes: int) -> str:
    """k_bytes: of a row of A. A lane has four of every 16 bytes of two rows of A and of a column of B."""
    d, x, y, z = map(vector, a)
    if len(d) != d_count or len(z) != d_count or len(x) != k_bytes // 8 or len(y) != k_bytes // 16:
        raise e.fail("number of registers")
    return (
        f"uint32_t a_[] = {{{', '.join(e.values(x, 'u32'))}}}, b_[] = {{{', '.join(e.values(y, 'u32'))}}}; "
        f"{d_type} d_[{d_count}], c_[] = {{{', '.join(e.values(z, kind))}}}; ptx::{function}(d_, a_, b_, c_); "
        + " ".join(e.set(r, f"d_[{i}]", kind) for i, r in enumerate(d))
    )


@instruction(
    "mma (f32 accumulators)",
    CHAPTER + "mma",
    r"mma\.sync\.aligned\.m16n8k(8|16)\.row\.col\.f32\.(f16|bf16)\.\2\.f32",
    r"mma\.sync\.aligned\.m16n8k(4|8)\.row\.col\.f32\.(tf32)\.tf32\.f32",
    reports=True,
)
def mma(e: Emitter, m: Match[str], a: list[str]) -> str:
    return call(e, a, f"mma<ptx::{m[2].upper()}, {m[1]}>", "f32", "float", 4, int(m[1]) * (4 if m[2] == "tf32" else 2))


@instruction(
    "mma (f16 accumulators)",
    CHAPTER + "mma",
    r"mma\.sync\.aligned\.m16n8k(8|16)\.row\.col\.f16\.f16\.f16\.f16",
    reports=True,
)
def mma_f16(e: Emitter, m: Match[str], a: list[str]) -> str:
    return call(e, a, f"mma_f16<{m[1]}>", "u32", "uint32_t", 2, int(m[1]) * 2)


@instruction(
    "mma (8-bit integers)",
    CHAPTER + "mma",
    r"mma\.sync\.aligned\.m16n8k(16|32)\.row\.col\.s32\.([su]8)\.([su]8)\.s32",
    reports=True,
)
def mma_int(e: Emitter, m: Match[str], a: list[str]) -> str:
    return call(e, a, f"mma_int<ptx::{m[2].upper()}, ptx::{m[3].upper()}, {m[1]}>", "s32", "int32_t", 4, int(m[1]))
