"""Input gradient of a convolution as an implicit GEMM: ``dx [pixels, C] = dy [pixels, taps*K] · weight``.

A stride of s leaves s*s lattices of input pixels, each reached by its own taps. One lattice (of
STRIDE_H*STRIDE_W, axis 2 of the grid) is a dense problem of its own; nothing is multiplied by zeros.
"""

import triton
import triton.language as tl

from .common import grouped, masked, norm_backward, row_of, rows_of, store_tile_sums


@triton.jit
def first_tap(position, TAPS: tl.constexpr, STRIDE: tl.constexpr, DILATION: tl.constexpr):
    """The first tap r with ``(position - r*DILATION) % STRIDE == 0``; TAPS if no tap reaches this lattice."""
    first = TAPS
    for i in tl.static_range(STRIDE):
        r = STRIDE - 1 - i
        first = tl.where((position - r * DILATION + STRIDE * DILATION) % STRIDE == 0, r, first)
    return tl.minimum(first, TAPS)


@triton.jit
def lattice_rows(
    block, N, H, W, lattice_h, lattice_w, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, BLOCK: tl.constexpr,
    INDEX: tl.constexpr,
):  # fmt: skip
    """Rows of a tile of one lattice: image, input pixel (h, w), and which rows there are."""
    height = (H - lattice_h + STRIDE_H - 1) // STRIDE_H
    width = (W - lattice_w + STRIDE_W - 1) // STRIDE_W
    m = rows_of(block, BLOCK, INDEX)
    row_ok = m < N * height * width
    # a lattice may have no pixels at all
    h = m // tl.maximum(width, 1) % tl.maximum(height, 1) * STRIDE_H + lattice_h
    w = m % tl.maximum(width, 1) * STRIDE_W + lattice_w
    return m // tl.maximum(height * width, 1), h, w, row_ok


@triton.jit
def store_gradient(
    acc, source, row_ok, c, c_ok, C, tile, out, residual, x, x_norm, sums, X_RELU: tl.constexpr
):  # fmt: skip
    """Epilogue: given sums, the mask of the activation that made x and its BN sums; else + residual."""
    ok = row_ok[:, None] & c_ok[None, :]
    target = (source * C)[:, None] + c[None, :]
    if sums is not None:
        y = tl.load(x + target, mask=ok, other=0.0).to(tl.float32)
        scale = row_of(x_norm, 2, C, c, c_ok)
        shift = row_of(x_norm, 3, C, c, c_ok)
        stored = masked(acc, y, scale[None, :], shift[None, :], X_RELU).to(out.dtype.element_ty)
        tl.store(out + target, stored, mask=ok)
        g = tl.where(ok, stored.to(tl.float32), 0.0)
        mean = row_of(x_norm, 0, C, c, c_ok)
        invstd = row_of(x_norm, 1, C, c, c_ok)
        store_tile_sums(g, (y - mean[None, :]) * invstd[None, :], c, c_ok, tile, C, sums)
    else:
        if residual is not None:
            acc += tl.load(residual + target, mask=ok, other=0.0).to(tl.float32)
        tl.store(out + target, acc.to(out.dtype.element_ty), mask=ok)


@triton.jit
def conv_dgrad(
    g,
    y,
    dnorm,
    weight,
    out,
    residual,
    x,
    x_norm,
    sums,
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
    STEP_R: tl.constexpr,
    STEP_S: tl.constexpr,
    X_RELU: tl.constexpr,
    ALIGN: tl.constexpr,
    PRECISION: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
):
    """``conv_transpose(dy) + residual``, dy = a*g + b*y + c; given sums: masked, with the sums of BN below.

    g, y ``[N, P, Q, K]``; weight ``[K, R, S, C/groups]``; out, residual, x ``[N, H, W, C]``; sums
    ``[tiles, 2, C]``. Grid: (tiles of the largest lattice times tiles of C/groups, groups, lattices).
    STEP_R, STEP_S: distance between the taps that reach one lattice, stride/gcd(stride, dilation).
    ALIGN divides a group's channels, of x and of g: as many may be read at a time.
    """
    CG = C // GROUPS
    KG = K // GROUPS
    if GROUPS > 1:
        CG = tl.multiple_of(CG, ALIGN)
        KG = tl.multiple_of(KG, ALIGN)
    group = tl.program_id(1)
    lattice = 0
    if STRIDE_H * STRIDE_W > 1:
        lattice = tl.program_id(2)
    lattice_h = lattice // STRIDE_W
    lattice_w = lattice % STRIDE_W
    tiles_m = tl.cdiv(N * tl.cdiv(H, STRIDE_H) * tl.cdiv(W, STRIDE_W), BLOCK_M)
    tile_m, tile_n = grouped(tl.program_id(0), tiles_m, tl.cdiv(CG, BLOCK_N), GROUP_M)
    image, h, w, row_ok = lattice_rows(
        tile_m, N, H, W, lattice_h, lattice_w, STRIDE_H, STRIDE_W, BLOCK_M, INDEX
    )
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n_ok = n < CG

    first_r = first_tap(lattice_h + PAD_H, R, STRIDE_H, DILATION_H)
    first_s = first_tap(lattice_w + PAD_W, S, STRIDE_W, DILATION_W)
    taps_r = (R - first_r + STEP_R - 1) // STEP_R
    taps_s = (S - first_s + STEP_S - 1) // STEP_S
    columns = tl.maximum(taps_s, 1)  # the pipeline divides by it even where no tap is left to divide
    k_steps = tl.cdiv(KG, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(0, taps_r * taps_s * k_steps):
        tap = step // k_steps
        r = first_r + tap // columns * STEP_R
        s = first_s + tap % columns * STEP_S
        k = step % k_steps * BLOCK_K + tl.arange(0, BLOCK_K)
        k_ok = k < KG
        p = (h + PAD_H - r * DILATION_H) // STRIDE_H
        q = (w + PAD_W - s * DILATION_W) // STRIDE_W
        if R * S == 1 and PAD_H == 0 and PAD_W == 0:
            inside = row_ok[:, None] & k_ok[None, :]
        else:
            inside = (row_ok & (p >= 0) & (p < P) & (q >= 0) & (q < Q))[:, None] & k_ok[None, :]
        source = (((image * P + p) * Q + q) * K)[:, None] + (group * KG + k)[None, :]
        dy = tl.load(g + source, mask=inside, other=0.0)
        if dnorm is not None:
            a = row_of(dnorm, 0, K, group * KG + k, k_ok)[None, :]
            if y is not None:
                b = row_of(dnorm, 1, K, group * KG + k, k_ok)[None, :]
                c = row_of(dnorm, 2, K, group * KG + k, k_ok)[None, :]
                raw = tl.load(y + source, mask=inside, other=0.0)
                normed = tl.where(inside, norm_backward(dy, raw, a, b, c), 0.0)
            else:
                normed = dy.to(tl.float32) * a
            dy = normed.to(g.dtype.element_ty)
        filters = weight + ((group * KG + k).to(INDEX) * (R * S) + r * S + s)[:, None] * CG + n[None, :]
        taps = tl.load(filters, mask=k_ok[:, None] & n_ok[None, :], other=0.0)
        acc = tl.dot(dy, taps, acc, input_precision=PRECISION)

    pixel = (image * H + h) * W + w
    tile = lattice * tiles_m + tile_m
    store_gradient(acc, pixel, row_ok, group * CG + n, n_ok, C, tile, out, residual, x, x_norm, sums, X_RELU)
