"""PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions" (sm_90a)."""

from __future__ import annotations

from re import Match

from gpu_on_cpu.ptx.emitter import Emitter, vector
from gpu_on_cpu.ptx.table import instruction

CHAPTER = "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions: "


@instruction("wgmma.fence", CHAPTER + "wgmma.fence", r"wgmma\.fence\.sync\.aligned", reports=True)
def fence(e: Emitter, m: Match[str], a: list[str]) -> str:
    return "ptx::wgmma_fence();"


@instruction("wgmma.commit_group", CHAPTER + "wgmma.commit_group", r"wgmma\.commit_group\.sync\.aligned", reports=True)
def commit(e: Emitter, m: Match[str], a: list[str]) -> str:
    return "ptx::wgmma_commit();"


@instruction("wgmma.wait_group", CHAPTER + "wgmma.wait_group", r"wgmma\.wait_group\.sync\.aligned", reports=True)
def wait(e: Emitter, m: Match[str], a: list[str]) -> str:
    return f"ptx::wgmma_wait({int(a[0], 0)});"


def immediates(e: Emitter, m: Match[str], in_registers: bool, rest: list[str]) -> tuple[str, str, str, str]:
    """(sign of A, sign of B, transpose A, transpose B) from the immediates behind the predicate."""
    transposable = m["in"] != "tf32"
    if len(rest) != 2 + (0 if not transposable else 1 if in_registers else 2):
        raise e.fail("number of immediates")
    if any(x not in ("1", "-1") for x in rest[:2]) or any(x not in ("0", "1") for x in rest[2:]):
        raise e.fail("immediates")
    a, b = ("0", *rest[2:]) if in_registers and transposable else rest[2:] if transposable else ("0", "0")
    return rest[0], rest[1], a, b


@instruction(
    "wgmma.mma_async",
    CHAPTER + "wgmma.mma_async",
    r"wgmma\.mma_async\.sync\.aligned\.m64n(?P<n>\d+)k(?P<k>16)\.(?P<acc>f32)\.(?P<in>f16|bf16)\.(?P=in)",
    r"wgmma\.mma_async\.sync\.aligned\.m64n(?P<n>\d+)k(?P<k>16)\.(?P<acc>f16)\.(?P<in>f16)\.f16",
    r"wgmma\.mma_async\.sync\.aligned\.m64n(?P<n>\d+)k(?P<k>8)\.(?P<acc>f32)\.(?P<in>tf32)\.tf32",
    reports=True,
)
def mma_async(e: Emitter, m: Match[str], a: list[str]) -> str:
    d, in_registers, n, f16 = vector(a[0]), a[1].startswith("{"), int(m["n"]), m["acc"] == "f16"
    if n % 8 or not 8 <= n <= 256 or len(d) != n // (4 if f16 else 2):
        raise e.fail("shape")
    sign_a, sign_b, transpose_a, transpose_b = immediates(e, m, in_registers, a[4:])
    registers = f"const uint32_t* a_[] = {{{e.pointers(vector(a[1]))}}}; " if in_registers else ""
    operand = "{a_, 0}" if in_registers else f"{{nullptr, {e.value(a[1], 'u64')}}}"
    return (
        f"uint32_t* d_[] = {{{e.pointers(d)}}}; {registers}ptx::wgmma<ptx::{m['in'].upper()}>({n}, {m['k']}, {'true' if f16 else 'false'}, d_, {operand}, "
        f"{e.value(a[2], 'u64')}, {e.value(a[3], 'pred')}, {sign_a}, {sign_b}, {transpose_a}, {transpose_b});"
    )
