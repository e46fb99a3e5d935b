"""Sums of two matrix products in one accumulator: what folded 1x1 convolutions are made of."""

import triton
import triton.language as tl

from .common import grouped, norm_act, relu, row_of, rows_of
from .conv_dgrad import lattice_rows, store_gradient


@triton.jit
def add_product(
    acc,
    a,
    a_offsets,
    row_ok,
    a_norm,
    b,
    b_offsets,
    b_stride,
    n_ok,
    depth,
    A_RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """``acc + act(BN(a)) · b``: rows of a at a_offsets, dense; columns of b at b_offsets, b_stride apart."""
    for start in range(0, depth, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        k_ok = k < depth
        inside = row_ok[:, None] & k_ok[None, :]
        left = tl.load(a + a_offsets[:, None] + k[None, :], mask=inside, other=0.0)
        if a_norm is not None:
            scale = row_of(a_norm, 2, depth, k, k_ok)
            shift = row_of(a_norm, 3, depth, k, k_ok)
            normed = norm_act(left, scale[None, :], shift[None, :], A_RELU)
            left = tl.where(inside, normed, 0.0).to(a.dtype.element_ty)
        right = tl.load(
            b + k[:, None] * b_stride + b_offsets[None, :], mask=k_ok[:, None] & n_ok[None, :], other=0.0
        )
        acc = tl.dot(left, right, acc, input_precision=PRECISION)
    return acc


@triton.jit
def folded_dgrad(
    g,
    weight_g,
    x,
    x_norm,
    weight_x,
    bias,
    residual,
    out,
    sums,
    N,
    H,
    W,
    P,
    Q,
    C,
    K,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    X_RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """``g · weight_g + z · weight_x + bias + residual``; given sums: masked, with the sums of BN below.

    g ``[N, P, Q, K]``; weight_g ``[K, C]``; x, residual, out ``[N, H, W, C]``, z = act(BN(x)); weight_x
    ``[C, C]``; sums ``[tiles, 2, C]``. Pixels that the stride skips get the residual alone.
    Grid: (tiles of the largest lattice times tiles of C, 1, lattices), as conv_dgrad.
    """
    lattice = 0
    if STRIDE_H * STRIDE_W > 1:
        lattice = tl.program_id(2)
    tiles_m = tl.cdiv(N * P * Q, BLOCK_M)
    tile_m, tile_n = grouped(tl.program_id(0), tiles_m, tl.cdiv(C, BLOCK_N), GROUP_M)
    image, h, w, row_ok = lattice_rows(
        tile_m, N, H, W, lattice // STRIDE_W, lattice % STRIDE_W, STRIDE_H, STRIDE_W, BLOCK_M, INDEX
    )
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n_ok = n < C
    pixel = (image * H + h) * W + w
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if lattice == 0:
        m = rows_of(tile_m, BLOCK_M, INDEX)
        acc = add_product(acc, g, m * K, row_ok, None, weight_g, n, C, n_ok, K, False, PRECISION, BLOCK_K)
        acc = add_product(
            acc, x, pixel * C, row_ok, x_norm, weight_x, n, C, n_ok, C, X_RELU, PRECISION, BLOCK_K
        )
        acc += tl.load(bias + n, mask=n_ok, other=0.0)[None, :]
    store_gradient(acc, pixel, row_ok, n, n_ok, C, tile_m, out, residual, x, x_norm, sums, X_RELU)


@triton.jit
def conv_fprop_dual(
    x,
    weight,
    x_norm,
    norm,
    shortcut_x,
    shortcut_weight,
    shortcut_norm,
    out,
    N,
    H,
    W,
    P,
    Q,
    C,
    D,
    K,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    X_RELU: tl.constexpr,
    RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """``act(scale*(z · weightᵀ) + shift + scale_d*(x_s · weight_dᵀ) + shift_d)``: tail and projection.

    x ``[N, P, Q, C]``; weight ``[K, C]``; shortcut_x ``[N, H, W, D]``, read at its strides; shortcut_weight
    ``[K, D]``; norm, shortcut_norm ``[4, K]``; out ``[N, P, Q, K]``. Grid: (tiles of N*P*Q times tiles of K).
    """
    M = N * P * Q
    tile_m, tile_n = grouped(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(K, BLOCK_N), GROUP_M)
    m = rows_of(tile_m, BLOCK_M, INDEX)
    row_ok = m < M
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n_ok = n < K
    pixel = (m // (P * Q) * H + m // Q % P * STRIDE_H) * W + m % Q * STRIDE_W
    zero = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    acc = add_product(zero, x, m * C, row_ok, x_norm, weight, n * C, 1, n_ok, C, X_RELU, PRECISION, BLOCK_K)
    acc = tl.fma(acc, row_of(norm, 2, K, n, n_ok)[None, :], row_of(norm, 3, K, n, n_ok)[None, :])
    added = add_product(
        zero,
        shortcut_x,
        pixel * D,
        row_ok,
        None,
        shortcut_weight,
        n * D,
        1,
        n_ok,
        D,
        False,
        PRECISION,
        BLOCK_K,
    )
    shift = row_of(shortcut_norm, 3, K, n, n_ok)
    acc += tl.fma(added, row_of(shortcut_norm, 2, K, n, n_ok)[None, :], shift[None, :])
    if RELU:
        acc = relu(acc)
    tl.store(
        out + (m * K)[:, None] + n[None, :],
        acc.to(out.dtype.element_ty),
        mask=row_ok[:, None] & n_ok[None, :],
    )
