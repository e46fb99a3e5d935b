"""Kernels of the Triton tutorials as other packages carry them, without their host code."""

from __future__ import annotations

import math
import types

import pytest
import torch
import triton
from near import near

from gpu_on_cpu.triton.launch import run


@pytest.mark.parametrize("arch", [80, 90, 100, 120])
def test_matmul(matmul: types.ModuleType, arch: int) -> None:
    """Grouped order of blocks; under autotune, of which the first configuration is taken; odd sizes."""
    torch.manual_seed(0)
    m, n, k = 45, 37, 51
    a, b = torch.randn(m, k).half(), torch.randn(k, n).half()
    for seed in (0, 1):
        c = torch.full((m, n), torch.nan, dtype=torch.float16)
        strides = (*a.stride(), *b.stride(), *c.stride())
        grid = lambda meta: (triton.cdiv(m, meta["BLOCK_SIZE_M"]) * triton.cdiv(n, meta["BLOCK_SIZE_N"]),)  # noqa: E731
        run(
            matmul.matmul_kernel,
            [a, b, c, m, n, k, *strides],
            grid,
            arch,
            seed,
            traffic=False,
            ACTIVATION=None,
        )
        near(c, a.double() @ b.double(), 1)


@pytest.mark.parametrize("arch", [80, 90, 100])
@pytest.mark.parametrize("block", [64, 512], ids=["several blocks of columns", "one block of columns"])
def test_layer_norm(layer_norm: types.ModuleType, arch: int, block: int) -> None:
    torch.manual_seed(0)
    rows, n = 3, 333
    x, w, b = torch.randn(rows, n), torch.randn(n), torch.randn(n)
    for seed in (0, 1):
        y = torch.full_like(x, torch.nan)
        run(
            layer_norm._layer_norm_fwd_fused,
            [x, y, w, b, n, n, 1e-5],
            (rows,),
            arch,
            seed,
            traffic=False,
            BLOCK_SIZE=block,
        )
        near(y, torch.nn.functional.layer_norm(x.double(), (n,), w.double(), b.double()), 8)


@pytest.mark.parametrize("arch", [80, 90, 100, 120])
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_attention(attention: types.ModuleType, arch: int, causal: bool) -> None:
    """Two heads of queries to one of keys and values; a length that is no multiple of a block."""
    torch.manual_seed(0)
    heads, length, width = 2, 83, 32
    q = torch.randn(1, heads, length, width).half()
    k, v = (torch.randn(1, 1, length, width).half() for _ in range(2))
    scores = q.double() @ k.double().mT * width**-0.5
    if causal:
        scores = scores.masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), -torch.inf)
    for seed in (0, 1):
        out, lse = launch_attention(attention, q, k, v, arch, seed, causal, rows=128 if arch == 100 and seed else 64)
        near(out, scores.softmax(-1) @ v.double(), 2)  # the weights are rounded to float16 before the second product
        if not causal:
            near(lse, scores[0].logsumexp(-1) / math.log(2), 8)


def launch_attention(
    module: types.ModuleType,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    arch: int,
    seed: int,
    causal: bool,
    rows: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(result, log2 of the sum of exponentials of every row's scores), by blocks of so many rows."""
    _, heads, length, width = q.shape
    out, lse = torch.full_like(q, torch.nan), torch.full((heads, length), torch.nan)
    no_mask = [0] * 4
    strides = [*q.stride(), *k.stride(), *v.stride(), *no_mask, *out.stride()]
    named = dict(
        zip(
            module._attn_fwd.arg_names,
            [q, k, v, None, width**-0.5, lse, out, *strides, 1, heads, 1],
            strict=False,
        )
    )
    named |= dict(Q_CTX=length, KV_CTX=length)
    constexprs = dict(GROUP_HEAD=heads, HEAD_DIM=width, BLOCK_M=rows, BLOCK_N=32, STAGE=3 if causal else 1)
    constexprs |= dict(HAS_ATTN_MASK=False, PRE_LOAD_V=0, num_warps=4, num_stages=2)
    run(module._attn_fwd, named, (triton.cdiv(length, rows), heads), arch, seed, traffic=False, **constexprs)
    return out, lse
