"""Weight gradient as an implicit GEMM over rows: ``dw [K, R*S*C] = dyᵀ · z``, M = N*P*Q rows.

g, y are ``[N, P, Q, K]``, x ``[N, H, W, C]``, dw ``[K, C/groups, R, S]``, all dense. Rows are many and
results few, so rows are split between programs, whose partial sums a second kernel adds up in a fixed order.
"""

import triton
import triton.language as tl

from .common import norm_act, norm_backward, row_of, rows_of


@triton.jit
def conv_wgrad(
    g,
    x,
    y,
    dnorm,
    x_norm,
    parts,
    out,
    masked_g,
    sums,
    N,
    H,
    W,
    P,
    Q,
    C,
    K,
    SPLIT_STEPS,
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
    FLAT: tl.constexpr,
    ALIGN: tl.constexpr,
    PRECISION: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``parts [splits, K, R*S, C/groups]``: Σ dy[m, k] * z[pixel of row m under tap, c] over a split's rows.

    ``dy = a*g + b*y + c`` given y and dnorm, a*g given dnorm, else g; ``z = act(scale*x + shift)`` given
    x_norm, else x. Given out ``[N, P, Q, K]``, the output of ReLU, g is masked by it first: masked_g is
    written, and its sums over a split's rows, ``sums [splits, K]``.
    Grid: (tiles of K/GROUPS times tiles of columns, splits, GROUPS); a split has SPLIT_STEPS * BLOCK_M rows.
    FLAT: columns are (tap, channel) as one index, for a few channels; else a tile has channels of one tap.
    ALIGN divides a group's channels, of x and of g: as many may be read at a time.
    """
    CG = C // GROUPS
    KG = K // GROUPS
    if GROUPS > 1:
        CG = tl.multiple_of(CG, ALIGN)
        KG = tl.multiple_of(KG, ALIGN)
    M = N * P * Q
    if FLAT:
        tiles = tl.cdiv(R * S * CG, BLOCK_C)
    else:
        tiles = R * S * tl.cdiv(CG, BLOCK_C)
    tile_k = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    split = tl.program_id(1)
    group = tl.program_id(2)

    n = tile_k * BLOCK_K + tl.arange(0, BLOCK_K)
    n_ok = n < KG
    k = group * KG + n
    if dnorm is not None:
        a = row_of(dnorm, 0, K, k, n_ok)[None, :]
        b = row_of(dnorm, 1, K, k, n_ok)[None, :]
        shift_dy = row_of(dnorm, 2, K, k, n_ok)[None, :]

    if FLAT:
        column = tile * BLOCK_C + tl.arange(0, BLOCK_C)
        tap = column // CG
        c = column % CG
        c_ok = column < R * S * CG
    else:
        tap = tile // tl.cdiv(CG, BLOCK_C)
        c = tile % tl.cdiv(CG, BLOCK_C) * BLOCK_C + tl.arange(0, BLOCK_C)
        column = tap * CG + c
        c_ok = c < CG
    below = tap // S * DILATION_H - PAD_H
    right = tap % S * DILATION_W - PAD_W
    channel = group * CG + c
    if x_norm is not None:
        scale = row_of(x_norm, 2, C, channel, c_ok)[None, :]
        shift = row_of(x_norm, 3, C, channel, c_ok)[None, :]

    acc = tl.zeros((BLOCK_K, BLOCK_C), tl.float32)
    total = tl.zeros((BLOCK_K,), tl.float32)
    first = split * SPLIT_STEPS
    for step in range(first, min(first + SPLIT_STEPS, tl.cdiv(M, BLOCK_M))):
        m = rows_of(step, BLOCK_M, INDEX)
        row_ok = m < M
        source_dy = (m * K)[:, None] + k[None, :]
        dy_ok = row_ok[:, None] & n_ok[None, :]
        dy = tl.load(g + source_dy, mask=dy_ok, other=0.0)
        if out is not None:
            # NaN lets the gradient pass, as in torch
            dy = tl.where(tl.load(out + source_dy, mask=dy_ok, other=0.0) <= 0, 0.0, dy).to(
                g.dtype.element_ty
            )
            tl.store(masked_g + source_dy, dy, mask=dy_ok & (tile == 0))
            total += tl.sum(dy.to(tl.float32), 0)
        # dy of masked rows need not be 0: z is
        if y is not None:
            dy = norm_backward(dy, tl.load(y + source_dy, mask=dy_ok, other=0.0), a, b, shift_dy)
        elif dnorm is not None:
            dy = dy.to(tl.float32) * a

        if R * S == 1 and STRIDE_H == 1 and STRIDE_W == 1 and PAD_H == 0 and PAD_W == 0:
            inside = row_ok[:, None] & c_ok[None, :]
            source = (m * C)[:, None] + channel[None, :]
        else:
            image = m // (P * Q)
            top = m // Q % P * STRIDE_H
            left = m % Q * STRIDE_W
            if FLAT:
                h = top[:, None] + below[None, :]
                w = left[:, None] + right[None, :]
                inside = (row_ok[:, None] & c_ok[None, :]) & ((h >= 0) & (h < H) & (w >= 0) & (w < W))
                source = (((image * H)[:, None] + h) * W + w) * C + channel[None, :]
            else:
                h = top + below
                w = left + right
                inside = (row_ok & (h >= 0) & (h < H) & (w >= 0) & (w < W))[:, None] & c_ok[None, :]
                source = (((image * H + h) * W + w) * C)[:, None] + channel[None, :]
        z = tl.load(x + source, mask=inside, other=0.0)
        if x_norm is not None:
            z = tl.where(inside, norm_act(z, scale, shift, X_RELU), 0.0)
        storage = x.dtype.element_ty
        acc = tl.dot(tl.trans(dy.to(storage)), z.to(storage), acc, input_precision=PRECISION)

    filters = split.to(INDEX) * K + k
    target = (filters * (R * S * CG))[:, None] + column[None, :]
    tl.store(parts + target, acc, mask=n_ok[:, None] & c_ok[None, :])
    if out is not None:
        tl.store(sums + filters, total, mask=n_ok & (tile == 0))


@triton.jit
def merge_wgrad(
    parts,
    dw,
    SPLITS,
    FILTERS,
    CG,
    TAPS: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_TAPS: tl.constexpr,
):
    """``dw [K, CG, TAPS]``: the sum of ``parts [SPLITS, K, TAPS, CG]`` over SPLITS; FILTERS = K * CG.

    Grid: (tiles of FILTERS,). BLOCK_TAPS is at least TAPS.
    """
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tap = tl.arange(0, BLOCK_TAPS)
    ok = (i < FILTERS)[:, None] & (tap < TAPS)[None, :]
    source = (i // CG * (TAPS * CG) + i % CG)[:, None] + (tap * CG)[None, :]
    total = tl.zeros((BLOCK, BLOCK_TAPS), tl.float32)
    for block in range(0, tl.cdiv(SPLITS, BLOCK_SPLITS)):
        split = rows_of(block, BLOCK_SPLITS, INDEX)
        sources = (split * (FILTERS * TAPS))[:, None, None] + source[None, :, :]
        some = tl.load(parts + sources, mask=(split < SPLITS)[:, None, None] & ok[None, :, :], other=0.0)
        total += tl.sum(some, 0)
    tl.store(dw + (i * TAPS)[:, None] + tap[None, :], total, mask=ok)
