"""PTX ISA, "Data Movement and Conversion Instructions: Asynchronous copy", and tensor maps."""

from __future__ import annotations

from re import Match

from gpu_on_cpu.ptx.emitter import Emitter, vector
from gpu_on_cpu.ptx.table import instruction

CHAPTER = "Data Movement and Conversion Instructions: "
NON_BULK = CHAPTER + "Non-bulk copy"
BULK = CHAPTER + "Bulk copy"
TENSOR = CHAPTER + "Tensor copy"
TENSORMAP = CHAPTER + "Tensormap manipulation"


@instruction("cp.async", NON_BULK, r"cp\.async\.(ca|cg)\.<SHARED>\.global(?:\.L2::\w+)*", reports=True)
def cp_async(e: Emitter, m: Match[str], a: list[str]) -> str:
    size = int(a[2], 0)
    if size not in ((16,) if m[1] == "cg" else (4, 8, 16)):
        raise e.fail("size")
    valid = str(size)
    if len(a) > 3:  # src-size, or the predicate ignore-src
        ignore = e.kernel.registers.get(a[3].lstrip("!")) == "pred"
        valid = f"{e.value(a[3], 'pred')} ? 0 : {size}" if ignore else e.value(a[3], "u32")
    return f"ptx::cp_async({e.address(a[0])}, {e.address(a[1])}, {size}, {valid}, {e.site});"


@instruction("cp.async.commit_group", NON_BULK, r"cp\.async\.commit_group")
def commit(e: Emitter, m: Match[str], a: list[str]) -> str:
    return "ptx::cp_async_commit();"


@instruction("cp.async.wait_group", NON_BULK, r"cp\.async\.wait_group", reports=True)
def wait(e: Emitter, m: Match[str], a: list[str]) -> str:
    return f"ptx::cp_async_wait({int(a[0], 0)});"


@instruction("cp.async.wait_all", NON_BULK, r"cp\.async\.wait_all", reports=True)
def wait_all(e: Emitter, m: Match[str], a: list[str]) -> str:
    return "ptx::cp_async_wait_all();"


# ---- bulk copies: of plain bytes, and of tiles of a tensor
TO_SHARED = r"\.shared::(?:cluster|cta)\.global"
COMPLETE = r"\.mbarrier::complete_tx::bytes"
HINT = r"(?:\.L2::cache_hint)?"


@instruction("cp.async.bulk (to shared)", BULK, rf"cp\.async\.bulk{TO_SHARED}{COMPLETE}{HINT}", reports=True)
def bulk_load(e: Emitter, m: Match[str], a: list[str]) -> str:
    return f"ptx::bulk_load({e.address(a[0])}, {e.address(a[1])}, {e.value(a[2], 'u32')}, {e.address(a[3])}, {e.site});"


@instruction(
    "cp.async.bulk (to global)",
    BULK,
    rf"cp\.async\.bulk\.global\.shared::cta\.bulk_group{HINT}",
    reports=True,
)
def bulk_store(e: Emitter, m: Match[str], a: list[str]) -> str:
    return f"ptx::bulk_store({e.address(a[0])}, {e.address(a[1])}, {e.value(a[2], 'u32')}, {e.site});"


def tensor_operand(e: Emitter, operand: str, rank: int) -> tuple[str, str]:
    """'[%rd1, {%r1, %r2}]' -> (address of the tensor map, its coordinates)."""
    map_, _, rest = operand.strip("[] ").partition(",")
    coordinates = vector(rest)
    if len(coordinates) != rank:
        raise e.fail("number of coordinates")
    return e.address(map_.strip()), ", ".join(e.values(coordinates, "s32"))


@instruction(
    "cp.async.bulk.tensor (to shared)",
    TENSOR,
    rf"cp\.async\.bulk\.tensor\.([1-5])d{TO_SHARED}(?:\.tile)?{COMPLETE}{HINT}",
    reports=True,
)
def tensor_load(e: Emitter, m: Match[str], a: list[str]) -> str:
    map_, coordinates = tensor_operand(e, a[1], int(m[1]))
    return f"int32_t c_[] = {{{coordinates}}}; ptx::tensor_load({m[1]}, {e.address(a[0])}, {map_}, c_, {e.address(a[2])}, {e.site});"


@instruction(
    "cp.async.bulk.tensor, cp.reduce.async.bulk.tensor (to global)",
    TENSOR,
    rf"cp\.(?:async|(?P<reduce>reduce)\.async)\.bulk\.tensor\.(?P<rank>[1-5])d\.global\.shared::cta(?:\.(?P<op>add|min|max))?(?:\.tile)?\.bulk_group{HINT}",
    reports=True,
)
def tensor_store(e: Emitter, m: Match[str], a: list[str]) -> str:
    if bool(m["reduce"]) != bool(m["op"]):
        raise e.fail()
    map_, coordinates = tensor_operand(e, a[0], int(m["rank"]))
    op = (m["op"] or "store").upper()
    return f"int32_t c_[] = {{{coordinates}}}; ptx::tensor_store({m['rank']}, ptx::TensorStore::{op}, {map_}, c_, {e.address(a[1])}, {e.site});"


@instruction("cp.async.bulk.commit_group", BULK, r"cp\.async\.bulk\.commit_group", reports=True)
def bulk_commit(e: Emitter, m: Match[str], a: list[str]) -> str:
    return "ptx::bulk_commit();"


@instruction("cp.async.bulk.wait_group", BULK, r"cp\.async\.bulk\.wait_group(\.read)?", reports=True)
def bulk_wait(e: Emitter, m: Match[str], a: list[str]) -> str:
    return f"ptx::bulk_wait({int(a[0], 0)}, {'true' if m[1] else 'false'});"


# With the number of places that an ordinal chooses from; 0: no ordinal.
FIELDS = {
    "global_address": ("ADDRESS", 0),
    "rank": ("RANK", 0),
    "box_dim": ("BOX_DIM", 5),
    "global_dim": ("GLOBAL_DIM", 5),
    "global_stride": ("GLOBAL_STRIDE", 4),
    "element_stride": ("ELEMENT_STRIDE", 5),
    "elemtype": ("ELEMTYPE", 0),
    "interleave_layout": ("INTERLEAVE", 0),
    "swizzle_mode": ("SWIZZLE", 0),
    "fill_mode": ("FILL", 0),
}


@instruction(
    "tensormap.replace",
    TENSORMAP,
    rf"tensormap\.replace\.tile\.({'|'.join(FIELDS)})(?:\.(global|<SHARED>))?\.b1024\.b(32|64)",
    reports=True,
)
def tensormap_replace(e: Emitter, m: Match[str], a: list[str]) -> str:
    if not m[2]:
        raise e.fail("generic address")
    field, places = FIELDS[m[1]]
    index = int(a[1], 0) if len(a) == 3 else 0
    if len(a) != (3 if places else 2) or index >= max(places, 1):
        raise e.fail("ordinal")
    return f"ptx::tensormap_replace(ptx::MapField::{field}, {e.address(a[0])}, {'true' if m[2] != 'global' else 'false'}, {index}, {e.value(a[-1], 'b' + m[3])}, {e.site});"


@instruction(
    "tensormap.cp_fenceproxy",
    TENSORMAP,
    r"tensormap\.cp_fenceproxy\.global\.<SHARED>\.tensormap::generic\.release\.(?:cta|gpu|sys)\.sync\.aligned",
    reports=True,
)
def tensormap_copy(e: Emitter, m: Match[str], a: list[str]) -> str:
    return f"ptx::tensormap_copy_fence({e.address(a[0])}, {e.address(a[1])}, {int(a[2], 0)}, {e.site});"
