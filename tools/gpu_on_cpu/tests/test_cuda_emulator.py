"""What emulated CUDA C++ computes, against PyTorch, numpy and the definitions of the PTX ISA."""

from __future__ import annotations

import pathlib
import runpy

import numpy as np
import pytest
import torch

from gpu_on_cpu import cuda

HERE = pathlib.Path(__file__).parent
PRIMITIVES = HERE / "cuda" / "primitives.cu"
CONV = runpy.run_path(str(HERE.parent / "examples" / "conv3x3" / "run.py"))
LANES = np.arange(32)


def zeros(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype)


@pytest.mark.parametrize("dtype, unit", [(torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)])
@pytest.mark.parametrize("shape", [(2, 7, 5, 64, 72), (1, 9, 9, 32, 8), (3, 3, 1, 32, 136)])
def test_convolution(dtype: torch.dtype, unit: float, shape: tuple[int, ...]) -> None:
    n, h, w, c, k = shape
    torch.manual_seed(0)
    x, weights = torch.randn(n, h, w, c).to(dtype), (torch.randn(k, 3, 3, c) / 24).to(dtype)
    expected = CONV["reference"](x, weights)
    first = None
    for seed in range(3):
        y, sums, squares = CONV["conv3x3"](x, weights, seed)
        assert bool(((y - expected).abs() <= unit * expected.abs() + 2e-5).all())
        stored = y.double().reshape(-1, k)
        torch.testing.assert_close(sums, stored.sum(0), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(squares, (stored**2).sum(0), rtol=1e-5, atol=1e-4)
        first = y if first is None else first
        assert torch.equal(y, first)  # every sum has one order


@pytest.mark.parametrize("sanitizer, shape", [("address", (1, 5, 7, 32, 72)), ("thread", (1, 3, 3, 32, 8))])
def test_convolution_under_sanitizers(sanitizer: str, shape: tuple[int, ...]) -> None:
    n, h, w, c, k = shape
    x, weights = torch.randn(n, h, w, c).bfloat16(), (torch.randn(k, 3, 3, c) / 24).bfloat16()
    y, _, _ = CONV["conv3x3"](x, weights, 1, sanitizer)
    expected = CONV["reference"](x, weights)
    assert bool(((y - expected).abs() <= 2.0**-8 * expected.abs() + 2e-5).all())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shuffles(seed: int) -> None:
    widths = [1, 2, 4, 8, 16, 32]
    out = zeros(len(widths), 32, 4, 32)
    cuda.emulate(PRIMITIVES, "run_shuffles", [out, torch.tensor(widths, dtype=torch.int32), len(widths)], seed=seed)
    for i, width in enumerate(widths):
        group = LANES // width * width
        for b in range(32):
            sources = [group + b % width, LANES - b, LANES + b, LANES ^ b]
            moves = [True, sources[1] >= group, sources[2] < group + width, sources[3] < group + width]
            for kind in range(4):
                expected = 100 + np.where(moves[kind], sources[kind], LANES)
                np.testing.assert_array_equal(
                    out[i, b, kind].numpy(), expected, f"width {width}, operand {b}, kind {kind}"
                )


def test_shuffles_of_other_types() -> None:
    for launcher, dtype in [("shuffle_double", torch.float64), ("shuffle_bf16", torch.bfloat16)]:
        x, y = torch.randn(32).to(dtype), torch.zeros(32, dtype=dtype)
        cuda.emulate(PRIMITIVES, launcher, [x, y])
        assert torch.equal(y, x[LANES ^ 5])


@pytest.mark.parametrize("seed", [0, 1])
def test_votes_and_reductions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = np.array([0xFFFFFFFF, 1, 0x80000000, 0x0F0F0F0F, *rng.integers(1, 2**32, 12)], dtype=np.uint32)
    predicates = np.concatenate([[0xFFFFFFFF, 0], masks[2:4], rng.integers(0, 2**32, 12)]).astype(np.uint32)
    values = rng.integers(-(2**31), 2**31, 32).astype(np.int32)
    out = zeros(16, 32, 14)
    tensors = [torch.from_numpy(v.view(np.int32)) for v in (predicates, masks, values)]
    cuda.emulate(PRIMITIVES, "run_votes", [*tensors, out, 16], seed=seed)
    for block, (mask, p) in enumerate(zip(masks.tolist(), predicates.tolist(), strict=True)):
        lanes = [i for i in range(32) if mask >> i & 1]
        v = values[lanes]
        u = v.view(np.uint32)
        wrapped = int(v.astype(np.int64).sum())
        same = p & mask in (0, mask)
        common = [
            p & mask,
            p & mask != 0,
            p & mask == mask,
            wrapped,
            v.min(),
            v.max(),
            np.bitwise_and.reduce(u),
        ]
        common += [np.bitwise_or.reduce(u), np.bitwise_xor.reduce(u), u.max()]
        first = (mask & -mask).bit_length()
        last = [mask if same else 0, same, len(lanes) + first + 32 - mask.bit_length()]
        for lane in lanes:
            matching = sum(1 << i for i in lanes if values[i] & 3 == values[lane] & 3)
            expected = [int(e) % 2**32 for e in [*common, matching, *last]]
            assert [e % 2**32 for e in out[block, lane].tolist()] == expected, (hex(mask), hex(p), lane)


def test_block_votes_and_ended_lanes_and_indices() -> None:
    out = zeros(100)
    cuda.emulate(PRIMITIVES, "run_block_votes", [out], seed=1)
    assert out.unique().tolist() == [34 * 16 + 8 + 2]
    for seed in range(3):
        out = zeros(20)
        cuda.emulate(PRIMITIVES, "run_ended_lanes", [out], seed=seed)
        assert out.unique().tolist() == [0xAAAAA + 1]
    out = zeros(24, 30)
    cuda.emulate(PRIMITIVES, "run_indices", [out])
    assert torch.equal(out, (torch.arange(24)[:, None] * 1000 + torch.arange(30)).int())


@pytest.mark.parametrize("launcher, dtype", [("mma_bf16", torch.bfloat16), ("mma_fp16", torch.float16)])
def test_mma_16(launcher: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    a, b, c, d = (
        torch.randn(16, 16).to(dtype),
        torch.randn(16, 8).to(dtype),
        torch.randn(16, 8),
        torch.zeros(16, 8),
    )
    cuda.emulate(PRIMITIVES, launcher, [a, b, c, d], outputs=[3])
    assert torch.equal(d, (a.double() @ b.double() + c.double()).float())


def tf32(x: torch.Tensor, rounded: bool) -> torch.Tensor:
    bits = x.view(torch.int32).long() + (0x1000 if rounded else 0)
    return (bits & ~0x1FFF).int().view(torch.float32).double()


@pytest.mark.parametrize("rounded", [False, True])
def test_mma_tf32(rounded: bool) -> None:
    torch.manual_seed(0)
    a, b, c, d = torch.randn(16, 8), torch.randn(8, 8), torch.randn(16, 8), torch.zeros(16, 8)
    cuda.emulate(PRIMITIVES, "mma_tf32", [a, b, c, d, int(rounded)])
    assert torch.equal(d, (tf32(a, rounded) @ tf32(b, rounded) + c.double()).float())


def test_ldmatrix() -> None:
    out = zeros(448)
    cuda.emulate(PRIMITIVES, "run_ldmatrix", [out], seed=1)
    tile = np.arange(256, dtype=np.int16).reshape(4, 8, 8)
    start = 0
    for transposed in (False, True):
        for count in (1, 2, 4):
            matrices = tile.transpose(0, 2, 1) if transposed else tile
            got = out[start : start + 32 * count].numpy().view(np.int16).reshape(32, count, 2)
            for lane in range(32):  # row lane / 4, columns 2 * (lane % 4) and the next
                expected = matrices[:count, lane // 4, lane % 4 * 2 : lane % 4 * 2 + 2]
                np.testing.assert_array_equal(got[lane], expected, f"x{count}, transposed {transposed}, lane {lane}")
            start += 32 * count


@pytest.mark.parametrize("size", [4, 8, 16])
def test_async_copy_fills_with_zeros(size: int) -> None:
    source, out = (
        torch.randint(1, 256, (17 * 16,), dtype=torch.uint8),
        torch.zeros(17 * 16, dtype=torch.uint8),
    )
    cuda.emulate(PRIMITIVES, "run_copies", [source, out, size])
    for thread in range(17):
        expected = [int(source[thread * size + i]) if i < min(thread, size) else 0 for i in range(size)]
        assert out[thread * size : (thread + 1) * size].tolist() == expected


def test_async_copy_arrives_when_waited_for() -> None:
    source, out = torch.arange(1.0, 5.0), torch.zeros(5, 4)
    cuda.emulate(PRIMITIVES, "run_arrivals", [source, out])
    for row, arrived in enumerate([0, 1, 2, 3, 4]):
        assert torch.equal(out[row, :arrived], source[:arrived]) and bool(out[row, arrived:].isnan().all())


def test_atomics() -> None:
    for seed in range(2):
        i, u = zeros(6), torch.tensor([-1, 0, 0, 0, 0], dtype=torch.int32)
        f, d, count = torch.zeros(1), torch.zeros(1).double(), zeros(1, dtype=torch.int64)
        h, b = torch.zeros(1).half(), torch.zeros(2).bfloat16()
        cuda.emulate(PRIMITIVES, "run_atomics", [i, u, f, d, count, h, b], seed=seed)
        total = 149 * 150 // 2
        assert i[:4].tolist() == [total, -total, -149, 149] and 100 <= i[4] < 150 and i[5] == 450
        xor = int(np.bitwise_xor.reduce(np.arange(150)))
        assert u.tolist() == [0, 127, xor, 150 % 10, (-150) % 10]
        assert [f.item(), d.item(), count.item(), h.item(), b.tolist()] == [
            75,
            37.5,
            150 << 40,
            150,
            [150, 300],
        ]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_spin_lock(seed: int) -> None:
    out = zeros(64)
    cuda.emulate(PRIMITIVES, "run_locked", [out], seed=seed)
    assert out.unique().tolist() == [64]


@pytest.mark.parametrize("sanitizer", ["none", "address", "thread"])
def test_block_reduction_with_all_kinds_of_launches(sanitizer: str) -> None:
    x, y, count = torch.randn(5, 77), torch.full((5,), float("nan")), zeros(1)
    cuda.emulate(
        PRIMITIVES,
        "run_row_sums",
        {"x": x, "y": y, "rows": 5, "n": 77, "count": count},
        outputs=("y", "count"),
        sanitizer=sanitizer,
    )
    torch.testing.assert_close(y.double(), 2 * x.double().sum(1), rtol=1e-5, atol=1e-5)
    assert count.item() == 15


def test_intrinsics() -> None:
    x = torch.tensor([0.5, -1.25, 3.0, -7.5, 1e-3])
    out = torch.zeros(5, 8)
    cuda.emulate(PRIMITIVES, "run_intrinsics", [x, out, 5])
    d = x.double()
    expected = [d.exp(), d.abs().rsqrt(), d.abs().log(), 1 / d, d * d + 1, -d, d.clamp(min=0), 2**d]
    torch.testing.assert_close(out.double(), torch.stack(expected, 1), rtol=3e-7, atol=0)


def test_integer_intrinsics() -> None:
    values = [0, 1, -1, 12345678, -(2**31), 2**31 - 1, 0x40, 3]
    out = zeros(8, 8)
    cuda.emulate(PRIMITIVES, "run_integers", [torch.tensor(values, dtype=torch.int32), out, 8])
    for value, row in zip(values, out.tolist(), strict=True):
        u = value % 2**32
        both = u.to_bytes(4, "little") + (~u % 2**32).to_bytes(4, "little")
        picked = int.from_bytes(bytes(both[k] for k in (1, 7, 2, 5)), "little")
        rounded = max(-(2**31), min(2**31 - 1, round(float(np.float32(np.float32(value) * np.float32(1.5))))))
        expected = [
            u.bit_count(),
            32 - u.bit_length(),
            (u & -u).bit_length(),
            int(f"{u:032b}"[::-1], 2),
            u * 0x9E3779B9 >> 32,
        ]
        expected += [picked, (5 << 7 | u >> 25) % 2**32, rounded % 2**32]
        assert [r % 2**32 for r in row] == expected, value


def test_half_fma_rounds_once() -> None:
    torch.manual_seed(0)
    n = 1024
    scale = torch.exp2(torch.randint(-6, 6, (n, 3)).float())
    x, u = (torch.randn(n, 3) * scale).half(), (torch.randn(n, 3) * scale).bfloat16()
    u[:8] = torch.tensor([1 + 2**-7, 1.0, 2.0**-30])  # a tie that only the tiny addend decides
    u[:8, 0], u[:8, 1] = 1 + 2**-7, 1 + 2**-7
    y, v = torch.zeros(n).half(), torch.zeros(n).bfloat16()
    cuda.emulate(PRIMITIVES, "run_half_fma", [x, y, u, v, n])
    for operands, got, bits in ((x, y, 11), (u, v, 8)):
        a, b, c = (operands[:, i].double().numpy().astype(np.longdouble) for i in range(3))
        exact = a * b + c  # 64 bits hold it, but for the few lowest
        exponent = np.maximum(np.floor(np.log2(np.abs(exact))), -14 if bits == 11 else -126)
        unit = np.exp2(exponent - bits + 1)
        np.testing.assert_array_equal(got.double().numpy(), (np.rint(exact / unit) * unit).astype(np.float64))
