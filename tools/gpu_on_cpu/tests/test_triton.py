"""Triton kernels compiled for architectures that are not here, executed, and compared with torch."""

from __future__ import annotations

import pytest
import torch
import triton
import triton_kernels as kernels
from support import rand
from triton.runtime import driver
from triton.tools.tensor_descriptor import TensorDescriptor

from gpu_on_cpu import KernelFault, Unsupported, emulate, run
from gpu_on_cpu.triton import compile_kernel

ARCHS = (80, 90, 100, 120)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("n", [1, 16, 777, 1024])
def test_specialisation_of_numbers(arch: int, n: int) -> None:
    """1 becomes a constant, multiples of 16 are compiled for as such, others are not."""
    x, y = rand(n), torch.full((n,), torch.nan)
    run(kernels.scale, (x, y, n, 2.5), (triton.cdiv(n, 128),), arch, BLOCK=128)
    assert torch.equal(y, x * 2.5)


def test_specialisation_is_that_of_a_launch() -> None:
    x = rand(256)
    divisible = compile_kernel(kernels.scale, (x, x, 256, 2.0), BLOCK=128, num_warps=1).asm["ptx"]
    odd = compile_kernel(kernels.scale, (x[1:], x[1:], 255, 2.0), BLOCK=128, num_warps=1).asm["ptx"]
    assert "ld.global.v4" in divisible
    assert "ld.global.v" not in odd, "a view at an odd element is not aligned to 16 bytes"


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_matmul(arch: int, dtype: torch.dtype, seed: int) -> None:
    M, N, K = 100, 72, 88
    a, b, c = rand(M, K, dtype=dtype), rand(K, N, dtype=dtype), torch.full((M, N), torch.nan, dtype=dtype)
    result = run(
        kernels.matmul,
        (a, b, c, M, N, K),
        (2, 2),
        arch,
        seed,
        outputs=["c"],
        traffic=False,
        BM=64,
        BN=64,
        BK=32,
    )
    # fp32 operands are cut to tf32: 10 bits of mantissa
    tolerance = {torch.float32: 2e-2, torch.bfloat16: 1e-1, torch.float16: 2e-2}[dtype]
    torch.testing.assert_close(c.double(), a.double() @ b.double(), rtol=2**-8, atol=tolerance)
    assert result.resources.tensor_core > 0
    assert result.resources.registers > 0
    assert result.resources.fits


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_host_descriptors(arch: int, seed: int) -> None:
    """Tensor maps on sm_90 and later, pointers before; the ends of the tensors lie inside tiles."""
    M, N, K = 100, 72, 88
    a, b, c = (
        rand(M, K, dtype=torch.float16),
        rand(K, N, dtype=torch.float16),
        torch.full((M, N), torch.nan, dtype=torch.float16),
    )
    boxes = [[64, 32], [32, 64], [64, 64]]
    descriptors = [TensorDescriptor.from_tensor(t, box) for t, box in zip((a, b, c), boxes, strict=True)]
    result = run(
        kernels.matmul_descriptors,
        [*descriptors, M, N, K],
        (2, 2),
        arch,
        seed,
        traffic=False,
        BM=64,
        BN=64,
        BK=32,
    )
    torch.testing.assert_close(c.double(), a.double() @ b.double(), rtol=2**-9, atol=2e-2)
    assert ("cp.async.bulk.tensor" in result.ptx) == (arch >= 90)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("seed", [0, 1])
def test_device_descriptors(arch: int, seed: int) -> None:
    x, y = rand(50, 40), torch.full((50, 40), torch.nan)
    result = run(kernels.copy_by_descriptor, (x, y, 50, 40), (4, 2), arch, seed, traffic=False, BM=16, BN=32)
    assert torch.equal(x, y)
    assert ("tensormap.replace" in result.ptx) == (arch >= 90)


@pytest.mark.parametrize("arch", ARCHS)
def test_atomics(arch: int) -> None:
    x, total = rand(1000), torch.zeros(1)
    run(kernels.sum_atomically, (x, total, 1000), (8,), arch, BLOCK=128)
    torch.testing.assert_close(total[0].double(), x.double().sum(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("arch", ARCHS)
def test_last_block(arch: int) -> None:
    """Order between blocks through an atomic counter."""
    x, partial, counter, total = rand(1000), torch.zeros(8), torch.zeros(1, dtype=torch.int32), torch.zeros(1)
    run(kernels.sum_by_last_block, (x, partial, counter, total, 1000), (8,), arch, BLOCK=128, BLOCKS=8)
    torch.testing.assert_close(total[0].double(), x.double().sum(), rtol=0, atol=1e-4)


def test_no_order_between_blocks() -> None:
    x, y = rand(4), torch.zeros(200)
    with pytest.raises(KernelFault, match="reads what another block wrote") as fault:
        run(kernels.neighbours_without_order, (x, y), (4,), BLOCK=1)
    assert fault.value.block == (1, 0, 0)
    assert "ld.global" in fault.value.instruction
    assert torch.equal(y, torch.zeros(200)), "a fault changes nothing of the caller's"


def test_traffic_of_a_masked_copy() -> None:
    """1000 floats in blocks of 128 threads x 1 element: 8 whole sectors short of nothing but the last warp."""
    x, y = rand(1000), torch.empty(1000)
    result = run(kernels.scale, (x, y, 1000, 1.0), (8,), outputs=["y"], BLOCK=128, num_warps=4)
    assert result.traffic
    for key in (("x", "load"), ("y", "store")):
        access = result.traffic[key]
        assert access.requested == access.sectors == access.block_sectors == access.unique_sectors == 4000
    assert result.traffic["x", "store"].requested == 0
    assert result.traffic.total().requested == 8000


def test_out_of_bounds() -> None:
    x, y = rand(100), torch.zeros(100)
    with pytest.raises(KernelFault, match="outside every argument"):
        run(kernels.scale_without_mask, (x, y, 100), (1,), BLOCK=128)
    assert not y.any()


def test_write_to_an_input() -> None:
    with pytest.raises(KernelFault, match="write to an input"):
        run(kernels.scale, (rand(64), rand(64), 64, 1.0), (1,), outputs=["x"], BLOCK=64)


def test_tensors_that_overlap() -> None:
    x = rand(256)
    want = x + 1
    run(kernels.increment, (x, x, 256), (2,), BLOCK=128)
    assert torch.equal(x, want)
    buffer = rand(300)
    before = buffer.clone()
    with pytest.raises(KernelFault, match="global-memory race"):  # threads read what others of their block write
        run(kernels.increment, (buffer[:128], buffer[100:228], 128), (1,), BLOCK=128)
    assert torch.equal(buffer, before)


def test_views_with_strides() -> None:
    x = rand(64, 4)
    y = torch.zeros(64, 4)
    run(kernels.scale, (x[:, 0], y[:, 0], 250, 2.0), (2,), BLOCK=128)
    assert torch.equal(y.flatten()[:250], x.flatten()[:250] * 2), "the kernel sees memory, not the view"


def test_tuple_argument() -> None:
    a, b, y = rand(100), rand(100) + 1, torch.zeros(100)
    run(kernels.add_pair, {"pair": (a, b), "y": y, "n": 100}, (1,), BLOCK=128)
    assert torch.equal(y, a + b)


@pytest.mark.parametrize(("config", "block"), [(0, 64), (1, 256)])
@pytest.mark.parametrize("n", [512, 500])
def test_autotuned(config: int, block: int, n: int) -> None:
    x, y = rand(n), torch.zeros(n)
    run(kernels.tuned, (x, y, n), lambda meta: (triton.cdiv(n, meta["BLOCK"]),), config=config)
    assert torch.equal(y, x + block)


def test_host_code_runs_unchanged() -> None:
    x, y, z = rand(500), torch.zeros(500), torch.zeros(500)
    with emulate(100, seed=3) as records:
        kernels.scale[(4,)](x, y, 500, 3.0, BLOCK=128)
        kernels.tuned[lambda meta: (triton.cdiv(500, meta["BLOCK"]),)](y, z, 500)
    assert torch.equal(z, x * 3 + 64), "an autotuned kernel takes its first configuration"
    assert [r.name for r in records] == ["scale", "tuned"]
    assert records[0].resources().arch == 100


def test_compile_only() -> None:
    x, y = rand(64), torch.zeros(64)
    with emulate(90, execute=False) as records:
        kernels.scale[(1,)](x, y, 64, 2.0, BLOCK=64)
    assert not y.any(), "nothing ran"
    assert records[0].launch is None
    assert records[0].constexprs["BLOCK"] == 64
    assert records[0].resources().registers > 0


def test_the_driver_is_as_before() -> None:
    before = driver._active
    with pytest.raises(ZeroDivisionError), emulate(80):
        raise ZeroDivisionError
    assert driver._active is before


def test_clusters_are_refused() -> None:
    with pytest.raises(Unsupported, match="clusters"):
        run(kernels.on_two_blocks_of_a_cluster, (rand(64), rand(64)), (1,), BM=64, num_ctas=2)


BAD = {
    "kernel": (lambda: run(len, (), (1,)), TypeError, "kernel must be a @triton.jit function"),
    "unknown name": (lambda: run(kernels.scale, {"z": 1}, (1,), BLOCK=64), TypeError, "'z'"),
    "too many": (lambda: run(kernels.scale, (1, 2, 3, 4, 5, 6), (1,)), TypeError, "6 values"),
    "architecture": (
        lambda: run(kernels.scale, (rand(1), rand(1), 1, 1.0), (1,), arch=70, BLOCK=64),
        ValueError,
        "arch must be one of",
    ),
    "outputs": (
        lambda: run(kernels.scale, (rand(1), rand(1), 1, 1.0), (1,), outputs=["q"], BLOCK=64),
        ValueError,
        "outputs.*'q'",
    ),
    "grid": (
        lambda: run(kernels.scale, (rand(1), rand(1), 1, 1.0), (0,), BLOCK=64),
        ValueError,
        "grid must be positive",
    ),
    "config": (
        lambda: run(kernels.tuned, (rand(1), rand(1), 1), (1,), config=2),
        ValueError,
        "config must be below 2",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name: str) -> None:
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()
