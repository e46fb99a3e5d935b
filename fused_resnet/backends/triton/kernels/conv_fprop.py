"""Forward convolution as an implicit GEMM: ``out [M, K] = z [M, R*S*C] · weightᵀ``, M = N*P*Q.

x is ``[N, H, W, C]``, weight ``[K, R, S, C/groups]``, out ``[N, P, Q, K]``, all dense. No matrix of patches
is ever written: a tile of z is gathered from x, normalised, and padded with zeros after that.
"""

import triton
import triton.language as tl

from .common import grouped, norm_act, relu, row_of, rows_of, store_tile_moments


@triton.jit
def conv_fprop(
    x,
    weight,
    out,
    x_norm,
    bias,
    norm,
    residual,
    mean,
    m2,
    N,
    H,
    W,
    P,
    Q,
    C,
    K,
    GROUPS: tl.constexpr,
    R: tl.constexpr,
    S: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr,
    PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr,
    DILATION_W: tl.constexpr,
    X_RELU: tl.constexpr,
    RELU: tl.constexpr,
    FLAT: tl.constexpr,
    ALIGN: tl.constexpr,
    PRECISION: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """``act(scale*(conv(z) + bias) + shift + residual)``; given mean: the raw convolution and its moments.

    Grid: (tiles of M times tiles of K/GROUPS, GROUPS). mean, m2 ``[tiles of M, K]``: of the stored values.
    FLAT: walk (tap, channel) as one index, for a few channels; else tap by tap, for coalesced loads.
    ALIGN divides a group's channels, of x and of out: as many may be read at a time.
    """
    CG = C // GROUPS
    KG = K // GROUPS
    if GROUPS > 1:
        CG = tl.multiple_of(CG, ALIGN)
        KG = tl.multiple_of(KG, ALIGN)
    M = N * P * Q
    tile_m, tile_n = grouped(tl.program_id(0), tl.cdiv(M, BLOCK_M), tl.cdiv(KG, BLOCK_N), GROUP_M)
    group = tl.program_id(1)
    m = rows_of(tile_m, BLOCK_M, INDEX)
    row_ok = m < M
    p = m // Q % P
    q = m % Q
    image = m // (P * Q)
    top = p * STRIDE_H - PAD_H
    left = q * STRIDE_W - PAD_W
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n_ok = n < KG
    k = group * KG + n
    filters = weight + k.to(INDEX)[None, :] * (R * S * CG)

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if FLAT:
        steps = tl.cdiv(R * S * CG, BLOCK_K)
    else:
        steps = R * S * tl.cdiv(CG, BLOCK_K)
    for step in range(0, steps):
        if FLAT:
            index = step * BLOCK_K + tl.arange(0, BLOCK_K)
            tap = index // CG
            c = index % CG
            c_ok = index < R * S * CG
            h = top[:, None] + (tap // S * DILATION_H)[None, :]
            w = left[:, None] + (tap % S * DILATION_W)[None, :]
            inside = (row_ok[:, None] & c_ok[None, :]) & ((h >= 0) & (h < H) & (w >= 0) & (w < W))
            pixels = ((image * H)[:, None] + h) * W + w
            source = x + pixels * C + (group * CG + c)[None, :]
        else:
            tap = step // tl.cdiv(CG, BLOCK_K)
            c = step % tl.cdiv(CG, BLOCK_K) * BLOCK_K + tl.arange(0, BLOCK_K)
            index = tap * CG + c
            c_ok = c < CG
            h = top + tap // S * DILATION_H
            w = left + tap % S * DILATION_W
            if R * S == 1 and PAD_H == 0 and PAD_W == 0:
                row_inside = row_ok
            else:
                row_inside = row_ok & (h >= 0) & (h < H) & (w >= 0) & (w < W)
            inside = row_inside[:, None] & c_ok[None, :]
            if R * S == 1 and STRIDE_H == 1 and STRIDE_W == 1 and PAD_H == 0 and PAD_W == 0:
                source = x + (m * C)[:, None] + (group * CG + c)[None, :]
            else:
                source = x + (((image * H + h) * W + w) * C)[:, None] + (group * CG + c)[None, :]
        z = tl.load(source, mask=inside, other=0.0)
        if x_norm is not None:
            scale = row_of(x_norm, 2, C, group * CG + c, c_ok)
            shift = row_of(x_norm, 3, C, group * CG + c, c_ok)
            normed = norm_act(z, scale[None, :], shift[None, :], X_RELU)
            z = tl.where(inside, normed, 0.0).to(x.dtype.element_ty)
        taps = tl.load(filters + index[:, None], mask=c_ok[:, None] & n_ok[None, :], other=0.0)
        acc = tl.dot(z, taps, acc, input_precision=PRECISION)

    target = (m * K)[:, None] + k[None, :]
    out_ok = row_ok[:, None] & n_ok[None, :]
    if mean is not None:
        stored = acc.to(out.dtype.element_ty)
        tl.store(out + target, stored, mask=out_ok)
        store_tile_moments(stored.to(tl.float32), row_ok, k, n_ok, tile_m, K, mean, m2)
    else:
        if bias is not None:
            acc += tl.load(bias + k, mask=n_ok, other=0.0).to(tl.float32)[None, :]
        if norm is not None:
            acc = tl.fma(acc, row_of(norm, 2, K, k, n_ok)[None, :], row_of(norm, 3, K, k, n_ok)[None, :])
        if residual is not None:
            acc += tl.load(residual + target, mask=out_ok, other=0.0).to(tl.float32)
        if RELU:
            acc = relu(acc)
        tl.store(out + target, acc.to(out.dtype.element_ty), mask=out_ok)
