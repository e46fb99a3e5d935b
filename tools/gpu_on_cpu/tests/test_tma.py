"""mbarriers, bulk and tensor copies, tensor maps and cp.async."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from support import record, run

from gpu_on_cpu.ptx.module import Module
from gpu_on_cpu.ptx.tensor_map import TensorMap


# ---- mbarrier
def test_mbarrier_phases() -> None:
    """What one thread sees: (instruction, did the wait succeed) in program order."""
    wait = "mbarrier.{}_wait{}.shared.b64 %p1, [buf], {}; selp.u32 %r5, 1, 0, %p1; st.global.u32 [%rd1+{}], %r5;"
    steps: list[tuple[str, int | None]] = [
        ("mbarrier.init.shared.b64 [buf], 3;", None),
        (wait.format("test", ".parity", 0, "{}"), 0),
        (wait.format("test", ".parity", 1, "{}"), 1),  # the phase before the first
        ("mbarrier.arrive.shared.b64 %rd10, [buf];", None),
        ("mbarrier.arrive.release.cta.shared::cta.b64 %rd11, [buf], 1;", None),
        (wait.format("test", "", "%rd10", "{}"), 0),
        ("mbarrier.arrive.shared::cta.b64 %rd12, [buf];", None),
        (wait.format("test", "", "%rd10", "{}"), 1),
        (wait.format("try", "", "%rd12", "{}"), 1),
        (wait.format("test", ".parity", 0, "{}"), 1),
        (wait.format("test", ".parity", 1, "{}"), 0),
        ("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [buf], 32;", None),
        ("mbarrier.arrive.shared.b64 %rd13, [buf], 2;", None),
        ("mbarrier.arrive.expect_tx.shared.b64 _, [buf], 16;", None),
        (wait.format("test", ".parity", 1, "{}"), 0),  # all arrived, 48 bytes missing
        (
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [buf+64], [%rd2], 48, [buf]; "
            "W: mbarrier.try_wait.parity.shared.b64 %p1, [buf], 1; @!%p1 bra W;",
            None,
        ),
        (wait.format("test", ".parity", 1, "{}"), 1),
        (wait.format("test", "", "%rd13", "{}"), 1),
        (wait.format("test", ".parity", 0, "{}"), 0),
        ("mbarrier.inval.shared.b64 [buf]; mbarrier.init.shared.b64 [buf], 1;", None),
        (wait.format("test", ".parity", 0, "{}"), 0),
        ("mbarrier.arrive.shared.b64 _, [buf];", None),
        (wait.format("try", ".parity", 0, "{}"), 1),
    ]
    body = (
        ("setp.ne.u32 %p0, %r1, 0; @%p0 bra END; ")
        + " ".join(text.format(4 * i) if result is not None else text for i, (text, result) in enumerate(steps))
        + " END:"
    )
    for seed in range(3):
        out = torch.full((len(steps),), -1, dtype=torch.int32)
        run(body, out, torch.arange(16, dtype=torch.int32), seed=seed)
        assert out.tolist() == [-1 if r is None else r for _, r in steps]


@pytest.mark.parametrize("seed", range(4))
def test_mbarrier_orders_all_its_arrivals(seed: int) -> None:
    """64 threads write, arrive and wait, twice around."""
    out = torch.zeros(2, 64, dtype=torch.int32)
    rounds = "".join(
        f"""add.u32 %r5, %r1, {100 * phase}; st.shared.u32 [%r3+{1024 * phase}], %r5;
            mbarrier.arrive.shared.b64 %rd10, [buf];
        W{phase}: mbarrier.try_wait.shared.b64 %p1, [buf], %rd10; @!%p1 bra W{phase};
        ld.shared.u32 %r6, [%r4+{1024 * phase}]; st.global.u32 [%rd6+{256 * phase}], %r6;"""
        for phase in range(2)
    )
    run(
        f"""setp.eq.u32 %p0, %r1, 0; @%p0 mbarrier.init.shared.b64 [buf], 64; shl.b32 %r2, %r1, 2;
            mov.u32 %r3, buf; add.u32 %r3, %r3, 1024;
        sub.u32 %r4, %r3, %r2; add.u32 %r4, %r4, 252; add.u32 %r3, %r3, %r2; mul.wide.u32 %rd5, %r1, 4;
        add.u64 %rd6, %rd1, %rd5; bar.sync 0; {rounds}""",
        out,
        threads=64,
        seed=seed,
    )
    back = torch.arange(63, -1, -1, dtype=torch.int32)
    assert torch.equal(out, torch.stack([back, back + 100]))


# ---- bulk copies
@pytest.mark.parametrize("seed", range(3))
def test_bulk_copies(seed: int) -> None:
    """Global to shared to global; traffic is that of one instruction each way."""
    source, out = torch.randint(256, (256,), dtype=torch.uint8), torch.zeros(256, dtype=torch.uint8)
    launch = run(
        """setp.ne.u32 %p0, %r1, 0; @%p0 bra END; mbarrier.init.shared.b64 [buf], 1;
            mbarrier.arrive.expect_tx.shared.b64 _, [buf], 112; mov.u64 %rd9, 0;
        cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes.L2::cache_hint [buf+256], [%rd1+16],
          112, [buf], %rd9;
        W: mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 %p1, [buf], 0; @!%p1 bra W;
        cp.async.bulk.global.shared::cta.bulk_group [%rd2+32], [buf+272], 80; cp.async.bulk.commit_group;
        cp.async.bulk.wait_group.read 0; cp.async.bulk.wait_group 0; END:""",
        source,
        out,
        seed=seed,
        traffic=True,
    )
    expected = torch.zeros_like(out)
    expected[32:112] = source[32:112]
    assert torch.equal(out, expected)
    load, store = launch.traffic["a", "load"], launch.traffic["b", "store"]
    assert (load.requested, load.sectors, load.block_sectors, load.unique_sectors, load.instructions) == (
        112,
        128,
        128,
        128,
        1,
    )
    assert (
        store.requested,
        store.sectors,
        store.block_sectors,
        store.unique_sectors,
        store.instructions,
    ) == (80, 96, 96, 96, 1)


@pytest.mark.parametrize("seed", range(3))
def test_wait_group_keeps_the_newest(seed: int) -> None:
    """After wait_group.read 1 the source of the first of two groups may change; wait_group 0 is for all."""
    out = torch.zeros(3, 4, dtype=torch.int32)
    store = (
        "fence.proxy.async; cp.async.bulk.global.shared::cta.bulk_group [%rd1+{}], [buf+{}], 16; "
        "cp.async.bulk.commit_group;"
    )
    fill = "mov.u32 %r5, {}; st.shared.v4.u32 [buf+{}], {{%r5, %r5, %r5, %r5}};"
    run(
        f"""setp.ne.u32 %p0, %r1, 0; @%p0 bra END;
            {fill.format(1, 0)} {store.format(0, 0)} {fill.format(2, 16)} {store.format(16, 16)}
        cp.async.bulk.wait_group.read 1;
        {fill.format(3, 0)} {store.format(32, 0)} cp.async.bulk.wait_group 0;
        END: cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0;""",
        out,
        seed=seed,
    )
    assert out.tolist() == [[1] * 4, [2] * 4, [3] * 4]


# ---- tensor copies. A kernel with a tensor map as a parameter, made by the host
TENSOR_FRAME = """
.version 8.8
.target sm_90a
.address_size 64
.visible .entry k(.param .align 64 .b8 map[128], .param .u64 t, .param .u64 at, .param .u64 data)
{{
  .reg .pred %p<8>; .reg .b32 %r<64>; .reg .b64 %rd<32>;
  .shared .align 1024 .b8 buf[8192]; .shared .align 8 .b64 bar;
  ld.param.u64 %rd2, [at]; ld.param.u64 %rd3, [data]; mov.b64 %rd1, map; mov.u32 %r1, %tid.x;
  setp.eq.u32 %p0, %r1, 0;
  mov.u32 %r10, {n}; mov.u32 %r11, 0; shl.b32 %r12, %r1, 4; mov.u32 %r13, buf; add.u32 %r13, %r13, %r12;
  cvt.u64.u32 %rd4, %r12; add.u64 %rd3, %rd3, %rd4;
  @%p0 mbarrier.init.shared.b64 [bar], 1; bar.sync 0;
  NEXT: {coordinates}
  {body}
  add.u64 %rd2, %rd2, {step}; add.u64 %rd3, %rd3, {size}; sub.u32 %r10, %r10, 1; setp.ne.u32 %p1, %r10, 0;
  @%p1 bra NEXT;
  ret;
}}
"""
LOAD = """@%p0 mbarrier.arrive.expect_tx.shared.b64 _, [bar], {size};
  @%p0 cp.async.bulk.tensor.{rank}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [buf], [%rd1,
    {{{names}}}], [bar];
  WAIT: mbarrier.try_wait.parity.shared.b64 %p1, [bar], %r11; @!%p1 bra WAIT; xor.b32 %r11, %r11, 1;
  {pieces} bar.sync 0;"""
STORE = """{pieces} fence.proxy.async.shared::cta; bar.sync 0;
  @%p0 {instruction} [%rd1, {{{names}}}], [buf]; @%p0 cp.async.bulk.commit_group;
  @%p0 cp.async.bulk.wait_group 0; bar.sync 0;"""
BYTES_AT_ONCE = 32 * 16


def kernel(template: str, rank: int, n: int, size: int, instruction: str = "") -> Module:
    """Pieces of 16 bytes go between buf and data, by 32 threads."""
    piece = (
        "ld.shared.v4.u32 {{%r20, %r21, %r22, %r23}}, [%r13+{0}]; "
        "st.global.v4.u32 [%rd3+{0}], {{%r20, %r21, %r22, %r23}};"
    )
    if instruction:
        piece = (
            "ld.global.v4.u32 {{%r20, %r21, %r22, %r23}}, [%rd3+{0}]; "
            "st.shared.v4.u32 [%r13+{0}], {{%r20, %r21, %r22, %r23}};"
        )
    guarded = "add.u32 %r14, %r12, {0}; setp.lt.u32 %p2, %r14, {1}; @!%p2 bra P{0}; {2} P{0}:"
    pieces = " ".join(guarded.format(i, size, piece.format(i)) for i in range(0, size, BYTES_AT_ONCE))
    names = ", ".join(f"%r{40 + i}" for i in range(rank))
    body = template.format(size=size, rank=rank, names=names, pieces=pieces, instruction=instruction)
    coordinates = " ".join(f"ld.global.u32 %r{40 + i}, [%rd2+{4 * i}];" for i in range(rank))
    return Module(
        TENSOR_FRAME.format(n=n, coordinates=coordinates, body=body, step=4 * rank, size=size), optimize="-O0"
    )


def swizzled(image: np.ndarray, swizzle: int) -> np.ndarray:
    """The bytes of a box as they lie in shared memory: 16-byte unit u of row r of the pattern at u ^ r."""
    if not swizzle:
        return image
    moved = np.empty_like(image)
    units = {32: 2, 64: 4, 128: 8}[swizzle]
    for at in range(0, len(image), 16):
        target = at // 16 ^ at // 128 % units
        moved[target * 16 : target * 16 + 16] = image[at : at + 16]
    return moved


def places(box: tuple[int, ...], at: list[int], shape: tuple[int, ...]):
    """(index in the box, index in the tensor or None outside);
    `at` is innermost first, as in the instruction."""
    for index in itertools.product(*map(range, box)):
        there = tuple(i + a for i, a in zip(index, reversed(at), strict=True))
        yield index, there if all(0 <= i < n for i, n in zip(there, shape, strict=True)) else None


CASES = [
    ((37,), (16,), 0, torch.float32),
    ((37,), (32,), 32, torch.uint8),
    ((9, 24), (4, 16), 0, torch.float16),
    ((9, 64), (8, 32), 128, torch.int32),
    ((20, 64), (16, 32), 64, torch.bfloat16),
    ((20, 64), (16, 16), 32, torch.float16),
    ((5, 6, 16), (2, 3, 8), 0, torch.float64),
    ((3, 4, 5, 16), (2, 2, 3, 16), 64, torch.float32),
    ((2, 3, 4, 3, 16), (2, 1, 2, 2, 8), 0, torch.int64),
]


def random_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.randint(1, 100, shape).to(dtype)


def corners(shape: tuple[int, ...], box: tuple[int, ...]) -> torch.Tensor:
    """Coordinates, innermost first: inside, over the edges of every dimension, wholly outside."""
    torch.manual_seed(0)
    random = [
        torch.tensor([int(torch.randint(-b - 1, n + 2, ())) for n, b in zip(shape[::-1], box[::-1], strict=True)])
        for _ in range(10)
    ]
    fixed = [
        [0] * len(shape),
        [-1] * len(shape),
        [n - 1 for n in shape[::-1]],
        [*shape[::-1]],
        [-b for b in box[::-1]],
    ]
    return torch.cat([torch.tensor(fixed), torch.stack(random)]).int()


@pytest.mark.parametrize(("shape", "box", "swizzle", "dtype"), CASES)
def test_tensor_load(shape: tuple[int, ...], box: tuple[int, ...], swizzle: int, dtype: torch.dtype) -> None:
    at = corners(shape, box)
    storage = random_tensor((*shape[:-1], shape[-1] + 16), dtype)  # rows are longer than the tensor
    tensor = storage[..., : shape[-1]]
    size = int(np.prod(box)) * dtype.itemsize
    out = torch.zeros(len(at), size, dtype=torch.uint8)
    module = kernel(LOAD, len(shape), len(at), size)
    for seed in (0, 1):
        args = {
            "map": TensorMap(tensor, shape, tensor.stride(), box, swizzle),
            "t": tensor,
            "at": at,
            "data": out,
        }
        module.launch("k", args, (1,), (32,), seed=seed, outputs=("data",))
        for i, coordinates in enumerate(at.tolist()):
            expected = torch.zeros(box, dtype=dtype)
            for index, there in places(box, coordinates, shape):
                if there is not None:
                    expected[index] = tensor[there]
            image = swizzled(expected.view(-1).view(torch.uint8).numpy(), swizzle)
            assert np.array_equal(out[i].numpy(), image), coordinates
    record(module)


STORES = [
    ("cp.async.bulk.tensor.{}d.global.shared::cta.tile.bulk_group", lambda old, new: new, None),
    (
        "cp.reduce.async.bulk.tensor.{}d.global.shared::cta.add.tile.bulk_group",
        lambda old, new: old + new,
        (torch.float32, torch.int32),
    ),
    ("cp.reduce.async.bulk.tensor.{}d.global.shared::cta.min.tile.bulk_group", min, (torch.int32,)),
    ("cp.reduce.async.bulk.tensor.{}d.global.shared::cta.max.tile.bulk_group", max, (torch.int32,)),
]


@pytest.mark.parametrize(("shape", "box", "swizzle", "dtype"), CASES)
@pytest.mark.parametrize(("instruction", "function", "types"), STORES)
def test_tensor_store(instruction, function, types, shape, box, swizzle, dtype) -> None:
    """One box after another; what is outside the tensor is not written."""
    if types is not None and dtype not in types:
        dtype = {2: torch.float32, 1: torch.int32}[len(types)] if dtype.itemsize == 4 else types[0]
        if torch.empty(0, dtype=dtype).element_size() * box[-1] not in (
            swizzle or 16 * (dtype.itemsize * box[-1] // 16),
        ):
            box = (*box[:-1], (swizzle or 64) // 4)
    at = corners(shape, box)
    padded = (shape[-1] + 16) // 16 * 16 + 16
    storage = random_tensor((*shape[:-1], padded), dtype)
    tensor = storage[..., : shape[-1]]
    boxes = random_tensor((len(at), *box), dtype) - 50
    size = int(np.prod(box)) * dtype.itemsize
    images = torch.stack([torch.from_numpy(swizzled(b.reshape(-1).view(torch.uint8).numpy(), swizzle)) for b in boxes])
    expected = storage.clone()
    for i, coordinates in enumerate(at.tolist()):
        for index, there in places(box, coordinates, shape):
            if there is not None:
                expected[there] = function(expected[there].item(), boxes[i][index].item())
    module = kernel(STORE, len(shape), len(at), size, instruction.format(len(shape)))
    module.launch(
        "k",
        {
            "map": TensorMap(tensor, shape, tensor.stride(), box, swizzle),
            "t": storage,
            "at": at,
            "data": images,
        },
        (1,),
        (32,),
        outputs=("t",),
    )
    assert torch.equal(storage, expected)
    record(module)


# ---- tensor maps made by the kernel
def test_map_made_by_the_kernel() -> None:
    """tensormap.replace of every field in shared memory, copied out, then changed in global memory."""
    a, out = torch.arange(16 * 24, dtype=torch.int32).view(16, 24), torch.zeros(3, 4, 8, dtype=torch.int32)
    shared_fields = "".join(
        f"tensormap.replace.tile.{field}.shared::cta.b1024.b32 [buf+1024], {value};"
        for field, value in [
            ("rank", 1),
            ("box_dim", "0, 8"),
            ("box_dim", "1, 4"),
            ("global_dim", "0, 24"),
            ("global_dim", "1, 16"),
            ("element_stride", "0, 1"),
            ("element_stride", "1, 1"),
            ("elemtype", 3),
            ("interleave_layout", 0),
            ("swizzle_mode", 0),
            ("fill_mode", 0),
        ]
    )
    load = """@%p0 fence.proxy.tensormap::generic.acquire.gpu [%rd10], 128;
        @%p0 mbarrier.arrive.expect_tx.shared.b64 _, [buf+2048], 128;
        @%p0 cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [buf], [%rd10,
          {{%r7, %r8}}], [buf+2048];
        W{0}: mbarrier.try_wait.parity.shared.b64 %p1, [buf+2048], {1}; @!%p1 bra W{0};
        ld.shared.u32 %r9, [%r3]; st.global.u32 [%rd6+{2}], %r9; bar.sync 0;"""
    run(
        f"""setp.eq.u32 %p0, %r1, 0; @%p0 mbarrier.init.shared.b64 [buf+2048], 1; mov.u64 %rd11, 0;
            shl.b32 %r2, %r1, 2; mov.u32 %r3, buf; add.u32 %r3, %r3, %r2;
        st.shared.u32 [%r3+1024], 0; bar.sync 0; add.u64 %rd10, %rd3, 127; and.b64 %rd10, %rd10, -128;
        mul.wide.u32 %rd5, %r1, 4; add.u64 %rd6, %rd2, %rd5;
        @!%p0 bra MADE;
        {shared_fields} tensormap.replace.tile.global_address.shared::cta.b1024.b64 [buf+1024], %rd1;
        mov.u64 %rd11, 96;
        tensormap.replace.tile.global_stride.shared::cta.b1024.b64 [buf+1024], 0, %rd11; MADE: bar.sync 0;
        tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [%rd10],
          [buf+1024], 128;
        bar.sync 0; mov.u32 %r7, 8; mov.u32 %r8, 3; {load.format(0, 0, 0)}
        @%p0 tensormap.replace.tile.global_dim.global.b1024.b32 [%rd10], 0, 12;
        fence.proxy.tensormap::generic.release.gpu; bar.sync 0; {load.format(1, 1, 128)}
        add.u64 %rd1, %rd1, 96; @%p0 tensormap.replace.tile.global_address.global.b1024.b64 [%rd10], %rd1;
        bar.sync 0; {load.format(2, 0, 256)}""",
        a,
        out,
        torch.zeros(64, dtype=torch.int32),
    )
    clipped, moved = a.clone(), a.clone()
    clipped[:, 12:] = moved[:, 12:] = 0
    assert torch.equal(out, torch.stack([a[3:7, 8:16], clipped[3:7, 8:16], moved[4:8, 8:16]]))


# ---- pipelines
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tiles", [1, 3, 8])
def test_three_stages(tiles: int, seed: int) -> None:
    """Warp 0 loads tiles of 256 bytes into three stages, 64 consumers add theirs up."""
    a, out = torch.randint(100, (tiles, 64), dtype=torch.int32), torch.zeros(64, dtype=torch.int32)
    mbarrier = "mbarrier.init.shared.b64 [buf+{}], {};"
    init = "".join(mbarrier.format(4096 + 8 * i, 1) + mbarrier.format(4128 + 8 * i, 64) for i in range(3))
    run(
        f"""setp.eq.u32 %p0, %r1, 0; mov.u32 %r2, buf; mov.u32 %r10, 0; mov.u32 %r11, 0; mov.u32 %r12, 0;
            mov.u32 %r20, 0;
        @!%p0 bra READY;
        {init}
        fence.mbarrier_init.release.cluster; READY: bar.sync 0; setp.lt.u32 %p1, %r1, 32; @!%p1 bra CONSUME;
        @!%p0 bra END;
        PRODUCE: shl.b32 %r3, %r10, 3; add.u32 %r3, %r3, %r2; shl.b32 %r4, %r10, 8; add.u32 %r4, %r4, %r2;
        xor.b32 %r13, %r11, 1;
        EMPTY: mbarrier.try_wait.parity.shared.b64 %p2, [%r3+4128], %r13; @!%p2 bra EMPTY;
        mbarrier.arrive.expect_tx.shared.b64 _, [%r3+4096], 256;
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r4], [%rd1], 256, [%r3+4096];
        add.u64 %rd1, %rd1, 256; add.u32 %r10, %r10, 1; setp.eq.u32 %p3, %r10, 3; @%p3 mov.u32 %r10, 0;
        @%p3 xor.b32 %r11, %r11, 1;
        add.u32 %r12, %r12, 1; setp.lt.u32 %p4, %r12, {tiles}; @%p4 bra PRODUCE; bra END;
        CONSUME: sub.u32 %r5, %r1, 32; shl.b32 %r5, %r5, 2;
        STEP: shl.b32 %r3, %r10, 3; add.u32 %r3, %r3, %r2; shl.b32 %r4, %r10, 8; add.u32 %r4, %r4, %r2;
        add.u32 %r4, %r4, %r5;
        FULL: mbarrier.try_wait.parity.shared.b64 %p2, [%r3+4096], %r11; @!%p2 bra FULL;
        ld.shared.u32 %r6, [%r4]; add.u32 %r20, %r20, %r6; mbarrier.arrive.shared.b64 _, [%r3+4128];
        add.u32 %r10, %r10, 1; setp.eq.u32 %p3, %r10, 3; @%p3 mov.u32 %r10, 0; @%p3 xor.b32 %r11, %r11, 1;
        add.u32 %r12, %r12, 1; setp.lt.u32 %p4, %r12, {tiles}; @%p4 bra STEP;
        cvt.u64.u32 %rd5, %r5; add.u64 %rd6, %rd2, %rd5; st.global.u32 [%rd6], %r20; END:""",
        a,
        out,
        threads=96,
        seed=seed,
    )
    assert torch.equal(out, a.sum(0).int())


# ---- cp.async
def test_cp_async() -> None:
    """Sizes, src-size (the rest becomes 0), ignore-src (all 0), the order of groups."""
    a, out = torch.randint(1, 2**31, (32, 16), dtype=torch.int32), torch.full((32, 16), -1, dtype=torch.int32)
    launch = run(
        """shl.b32 %r2, %r1, 6; mov.u32 %r3, buf; add.u32 %r3, %r3, %r2; cvt.u64.u32 %rd5, %r2;
            add.u64 %rd6, %rd1, %rd5; add.u64 %rd7, %rd2, %rd5;
        and.b32 %r4, %r1, 15; setp.lt.u32 %p1, %r1, 5; and.b32 %r5, %r1, 3;
        cp.async.cg.shared.global [%r3], [%rd6], 16, %r4;
        cp.async.ca.shared::cta.global.L2::128B [%r3+16], [%rd6+16], 4;
        cp.async.ca.shared.global [%r3+20], [%rd6+20], 4, %r5;
        cp.async.ca.shared.global [%r3+24], [%rd6+24], 8; cp.async.commit_group;
        cp.async.cg.shared.global [%r3+32], [%rd6+32], 16, %p1; cp.async.commit_group;
        cp.async.ca.shared.global [%r3+48], [%rd6+48], 16;
        cp.async.commit_group; cp.async.wait_group 2; ld.shared.v4.u32 {%r20, %r21, %r22, %r23}, [%r3];
        st.global.v4.u32 [%rd7], {%r20, %r21, %r22, %r23};
        ld.shared.v4.u32 {%r20, %r21, %r22, %r23}, [%r3+16];
        st.global.v4.u32 [%rd7+16], {%r20, %r21, %r22, %r23};
        cp.async.wait_group 1; ld.shared.v4.u32 {%r20, %r21, %r22, %r23}, [%r3+32];
        st.global.v4.u32 [%rd7+32], {%r20, %r21, %r22, %r23};
        cp.async.wait_all; ld.shared.v4.u32 {%r20, %r21, %r22, %r23}, [%r3+48];
        st.global.v4.u32 [%rd7+48], {%r20, %r21, %r22, %r23};""",
        a,
        out,
        traffic=True,
    )
    expected = a.clone().view(torch.uint8).view(32, 64)
    for t in range(32):
        expected[t, t % 16 : 16] = 0
        expected[t, 20 + t % 4 : 24] = 0
        if t < 5:
            expected[t, 32:48] = 0
    assert torch.equal(out.view(torch.uint8).view(32, 64), expected)
    assert launch.traffic["a", "load"].requested == sum(
        t % 16 + 4 + t % 4 + 8 + (0 if t < 5 else 16) + 16 for t in range(32)
    )
