"""PTX ISA, "TensorCore 5th Generation Family Instructions" (sm_100a)."""

from __future__ import annotations

from re import Match

from gpu_on_cpu.ptx.emitter import Emitter, vector
from gpu_on_cpu.ptx.table import instruction

CHAPTER = "TensorCore 5th Generation Family Instructions: "


@instruction(
    "tcgen05.alloc",
    CHAPTER + "tcgen05.alloc",
    r"tcgen05\.alloc\.cta_group::1\.sync\.aligned(?:\.<SHARED>)?\.b32",
    reports=True,
)
def alloc(e: Emitter, m: Match[str], a: list[str]) -> str:
    return f"ptx::tmem_alloc({e.address(a[0])}, {e.value(a[1], 'u32')});"


@instruction(
    "tcgen05.dealloc",
    CHAPTER + "tcgen05.dealloc",
    r"tcgen05\.dealloc\.cta_group::1\.sync\.aligned\.b32",
    reports=True,
)
def dealloc(e: Emitter, m: Match[str], a: list[str]) -> str:
    return f"ptx::tmem_dealloc({e.value(a[0], 'u32')}, {e.value(a[1], 'u32')});"


@instruction(
    "tcgen05.relinquish_alloc_permit",
    CHAPTER + "tcgen05.relinquish_alloc_permit",
    r"tcgen05\.relinquish_alloc_permit\.cta_group::1\.sync\.aligned",
    reports=True,
)
def relinquish(e: Emitter, m: Match[str], a: list[str]) -> str:
    return "ptx::tmem_relinquish();"


# Registers per repetition (.x1) of each shape.
SHAPES = {"32x32b": 1, "16x32bx2": 1, "16x64b": 1, "16x128b": 2, "16x256b": 4}


@instruction(
    "tcgen05.ld, tcgen05.st",
    CHAPTER + "tcgen05.ld, tcgen05.st",
    rf"tcgen05\.(ld|st)\.sync\.aligned\.({'|'.join(SHAPES)})\.x(\d+)\.b32",
    reports=True,
)
def move(e: Emitter, m: Match[str], a: list[str]) -> str:
    split = a.pop(2 if m[1] == "ld" else 1) if m[2] == "16x32bx2" else "0"
    registers, where = (vector(a[0]), a[1]) if m[1] == "ld" else (vector(a[1]), a[0])
    if len(registers) != int(m[3]) * SHAPES[m[2]]:
        raise e.fail("number of registers")
    arguments = f"ptx::TmemShape::L{m[2]}, {e.address(where)}, {split}, t_, {len(registers)}"
    if m[1] == "ld":
        return f"uint32_t* t_[] = {{{e.pointers(registers)}}}; ptx::tmem_load({arguments});"
    return f"uint32_t t_[] = {{{', '.join(e.values(registers, 'u32'))}}}; ptx::tmem_store({arguments});"


@instruction("tcgen05.wait", CHAPTER + "tcgen05.wait", r"tcgen05\.wait::(ld|st)\.sync\.aligned", reports=True)
def wait(e: Emitter, m: Match[str], a: list[str]) -> str:
    return f"ptx::tmem_wait_{m[1]}();"


@instruction(
    "tcgen05.commit",
    CHAPTER + "tcgen05.commit",
    r"tcgen05\.commit\.cta_group::1\.mbarrier::arrive::one(?:\.shared::cluster)?\.b64",
    reports=True,
)
def commit(e: Emitter, m: Match[str], a: list[str]) -> str:
    return f"ptx::tcgen05_commit({e.address(a[0])});"


@instruction("tcgen05.mma", CHAPTER + "tcgen05.mma", r"tcgen05\.mma\.cta_group::1\.kind::(f16|tf32)", reports=True)
def mma(e: Emitter, m: Match[str], a: list[str]) -> str:
    if len(a) != 5:
        raise e.fail("number of operands")
    in_tmem = a[1].startswith("[")
    first = e.address(a[1]) if in_tmem else e.value(a[1], "u64")
    return (
        f"ptx::tcgen05_mma({e.address(a[0])}, {'true' if in_tmem else 'false'}, {first}, {e.value(a[2], 'u64')}, "
        f"{e.value(a[3], 'u32')}, {e.value(a[4], 'pred')}, {'true' if m[1] == 'tf32' else 'false'});"
    )
