"""Planted bugs: tensor maps: an 8x8 tile of 32-bit words of a, described at buf + 4096, copied to c."""

from __future__ import annotations

from faults import case
from faults.mbarriers import BAR_INIT, wait

MAP_VALUES = dict(
    rank=1,
    box_dim0=8,
    box_dim1=8,
    global_dim0=16,
    global_dim1=16,
    element_stride0=1,
    element_stride1=1,
    elemtype=2,
    interleave_layout=0,
    swizzle_mode=0,
    fill_mode=0,
)


FENCE_PROXY = "tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned"


def tensor_map(
    planted: dict[str, int | str] | None = None,
    fence: str = f"{FENCE_PROXY} [%rd10], [%r30], 128;",
) -> str:
    """Makes the map with the planted values where the bug is; its address goes to %rd10."""
    planted = planted or {}
    text = "add.u32 %r30, %r3, 4096; @!%p0 bra MADE; mov.u64 %rd11, 0; "
    text += " ".join(f"st.shared.u64 [%r30+{i}], %rd11;" for i in range(0, 128, 8))
    for key, value in MAP_VALUES.items():
        ordinal = f" {key[-1]}," if key[-1].isdigit() else ""
        text += f" mov.u32 %r31, {value}; @%p7 mov.u32 %r31, {planted.get(key, value)};"
        text += f" tensormap.replace.tile.{key.rstrip('01')}.shared::cta.b1024.b32 [%r30],{ordinal} %r31;"
    text += f" mov.u64 %rd11, %rd1; @%p7 add.u64 %rd11, %rd1, {planted.get('global_address', 0)};"
    text += " tensormap.replace.tile.global_address.shared::cta.b1024.b64 [%r30], %rd11;"
    text += f" mov.u64 %rd11, 64; @%p7 mov.u64 %rd11, {planted.get('global_stride', 64)};"
    text += " tensormap.replace.tile.global_stride.shared::cta.b1024.b64 [%r30], 0, %rd11;"
    text += " MADE: add.u64 %rd10, %rd3, 127; and.b64 %rd10, %rd10, -128; bar.sync 0; " + fence
    return text + " bar.sync 0; fence.proxy.tensormap::generic.acquire.gpu [%rd10], 128; mov.u32 %r32, 0; "


TENSOR_LOAD = (
    "@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r20], 256; "
    "@%p0 cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
    "[%r3], [%rd10, {%r32, %r32}], [%r20]; "
)
for field, value, reason in [
    ("rank", 2, "rank differs from the instruction's"),
    ("elemtype", 13, "element type not modelled"),
    ("interleave_layout", 1, "interleaved layouts are not modelled"),
    ("fill_mode", 1, "NaN fill is not modelled"),
    ("swizzle_mode", 4, "swizzle mode not modelled"),
    ("global_address", 8, "global address is not a multiple of 16 bytes"),
    ("box_dim0", 6, "inner box dimension is not a multiple of 16 bytes"),
    ("box_dim1", 257, "box dimension outside 1..256"),
    ("element_stride1", 2, "element strides are not modelled"),
    ("global_stride", 72, "stride is not a multiple of 16 bytes"),
]:
    case(
        f"map-{field}",
        f"tensor map: {reason}",
        BAR_INIT + tensor_map({field: value}) + TENSOR_LOAD + wait("W"),
        at="cp.async.bulk.tensor",
        thread=0,
    )
case(
    "map-span",
    "tensor map: inner box dimension exceeds the swizzle span",
    BAR_INIT + tensor_map({"swizzle_mode": 1, "box_dim0": 16, "box_dim1": 4}) + TENSOR_LOAD + wait("W"),
)
case(
    "map-below-span",
    "tensor map: inner box dimension smaller than the swizzle span is not modelled",
    BAR_INIT + tensor_map({"swizzle_mode": 2}) + TENSOR_LOAD + wait("W"),
)
case(
    "map-misaligned",
    "tensor map: misaligned",
    BAR_INIT + tensor_map() + "@%p7 add.u64 %rd10, %rd10, 16;" + TENSOR_LOAD + wait("W"),
)
case(
    "map-outside",
    "global access outside every argument",
    BAR_INIT + tensor_map() + "@%p7 mov.u64 %rd10, 4096;" + TENSOR_LOAD + wait("W"),
)
case(
    "map-reaches-outside",
    "global access outside every argument",
    BAR_INIT + tensor_map({"global_dim1": 64}) + "mov.u32 %r33, 0; "
    "@%p7 mov.u32 %r33, 28;" + TENSOR_LOAD.replace("{%r32, %r32}", "{%r32, %r33}") + wait("W"),
)
case(
    "map-bytes",
    "tensormap.cp_fenceproxy: a tensor map has 128 bytes",
    tensor_map(fence=f"@%p7 {FENCE_PROXY} [%rd10], [%r30], 64; @%p6 {FENCE_PROXY} [%rd10], [%r30], 128;"),
)
case(
    "map-read-only",
    "write to an input",
    tensor_map().replace("and.b64", "@%p7 add.u64 %rd10, %rd1, 127; and.b64"),
    outputs=("c",),
    at="cp_fenceproxy",
)
case(
    "map-no-barrier",
    "global-memory race: reads another thread's value, no barrier between",
    BAR_INIT
    + tensor_map()
    .replace("bar.sync 0; fence.proxy", "@%p6 bar.sync 0; fence.proxy")
    .replace("bar.sync 0; tensormap.cp", "bar.sync 0; @%p1 tensormap.cp")
    .replace("bar.sync 0; @%p1", "bar.sync 0; " + "@!%p1 bar.warp.sync -1; " * 8 + "@%p1")
    + TENSOR_LOAD.replace("@%p0", "@%p3")
    + wait("W"),
    threads=64,
    at="cp.async.bulk.tensor",
    thread=32,
)
case(
    "reduce-type",
    "tensor reduction: element type not modelled",
    tensor_map({"elemtype": 4, "box_dim1": 4, "box_dim0": 2}) + "@!%p0 bra END; "
    "cp.reduce.async.bulk.tensor.2d.global.shared::cta.add.tile.bulk_group "
    "[%rd10, {%r32, %r32}], [%r3]; cp.async.bulk.commit_group; cp.async.bulk.wait_group 0; END:",
)
