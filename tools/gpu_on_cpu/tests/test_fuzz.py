"""Random problems: the executed PTX, the interpreter and torch agree. `make fuzz` of the project runs many more."""

from __future__ import annotations

import torch
import triton
import triton_kernels as kernels
from hypothesis import given
from hypothesis import strategies as st

from gpu_on_cpu.triton import run
from gpu_on_cpu.triton.interpreter import interpret

SIZES = st.integers(1, 70)
TILES = dict(BM=32, BN=32, BK=32)
# Half a unit in the last place of the result, and of products cut to tf32; sums of up to 70 terms.
ALLOWED = {torch.float32: (2.0**-9, 5e-2), torch.float16: (2.0**-11, 1e-3), torch.bfloat16: (2.0**-8, 1e-3)}


@given(SIZES, SIZES, SIZES, st.sampled_from(list(ALLOWED)), st.sampled_from([80, 90, 100]), st.integers(0, 5))
def test_matmul(M: int, N: int, K: int, dtype: torch.dtype, arch: int, seed: int) -> None:
    g = torch.Generator().manual_seed(M * 10007 + N * 101 + K)
    a, b = torch.randn(M, K, generator=g).to(dtype), torch.randn(K, N, generator=g).to(dtype)
    executed, interpreted = (torch.full((M, N), torch.nan, dtype=dtype) for _ in range(2))
    grid = (triton.cdiv(M, 32), triton.cdiv(N, 32))
    run(kernels.matmul, (a, b, executed, M, N, K), grid, arch, seed, outputs=["c"], traffic=False, **TILES)
    interpret(kernels.matmul, (a, b, interpreted, M, N, K), grid, outputs=["c"], **TILES)
    relative, absolute = ALLOWED[dtype]
    for c in (executed, interpreted):
        torch.testing.assert_close(c.double(), a.double() @ b.double(), rtol=relative, atol=absolute)


@given(st.integers(1, 600), st.sampled_from([80, 90, 100]), st.integers(0, 5))
def test_traffic(n: int, arch: int, seed: int) -> None:
    """The meter of the executed code and that of the interpreter count the same bytes."""
    x, y, z = torch.randn(n), torch.empty(n), torch.empty(n)
    executed = run(kernels.scale, (x, y, n, 2.0), (triton.cdiv(n, 128),), arch, seed, outputs=["y"], BLOCK=128)
    interpreted = interpret(kernels.scale, (x, z, n, 2.0), (triton.cdiv(n, 128),), outputs=["y"], BLOCK=128)
    assert torch.equal(y, z)
    assert executed.traffic
    for key in (("x", "load"), ("y", "store")):
        a, b = executed.traffic[key], interpreted.traffic[key]
        assert (a.requested, a.block_sectors, a.unique_sectors) == (b.requested, b.block_sectors, b.unique_sectors)
        assert a.requested == 4 * n
