"""The stem's max-pool over y ``[N, H, W, C]``, which normalises while it reads: out, argmax ``[N, P, Q, C]``.

Grid of both kernels as in `norm.py`; the rows of the forward kernel are output pixels, those of the backward
kernel input pixels, each of which gathers what it gets from the windows that cover it: no atomics.
"""

import triton
import triton.language as tl

from .common import masked, norm_act, row_of, rows_of
from .norm import block_and_channels, normalised, store_sum

UNROLLED = tl.constexpr(16)  # positions: a longer loop would make the code explode


@triton.jit
def _better(
    best,
    arg,
    position,
    y,
    image,
    top,
    left,
    H,
    W,
    C,
    c,
    ok,
    scale,
    shift,
    RELU: tl.constexpr,
    KERNEL_W: tl.constexpr,
):
    """The maximum so far and its position, after one more position of the windows.

    The first of equal values wins, and a NaN over everything before it, as in torch.
    """
    h = top + position // KERNEL_W
    w = left + position % KERNEL_W
    inside = (((h >= 0) & (h < H)) & ((w >= 0) & (w < W)))[:, None] & ok
    at = (((image * H + h) * W + w) * C)[:, None] + c[None, :]
    read = tl.load(y + at, mask=inside, other=0.0)
    # What is compared is what an unfused pool would have read: the stored value.
    z = norm_act(read, scale, shift, RELU).to(y.dtype.element_ty).to(tl.float32)
    take = inside & ((z > best) | (z != z))
    return tl.where(take, z, best), tl.where(take, position, arg)


@triton.jit
def bn_act_maxpool(
    y,
    norm,
    out,
    argmax,
    M,
    H,
    W,
    P,
    Q,
    C,
    RELU: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr,
    PAD_W: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Maximum of ``act(scale*y + shift)`` in every window, and its ``row*KERNEL_W + column``; M = N*P*Q."""
    block, c, c_ok = block_and_channels(C, BLOCK_C)
    m = rows_of(block, BLOCK_M, INDEX)
    ok = (m < M)[:, None] & c_ok[None, :]
    image = m // (P * Q)
    top = m // Q % P * STRIDE_H - PAD_H
    left = m % Q * STRIDE_W - PAD_W
    scale = row_of(norm, 2, C, c, c_ok)[None, :]
    shift = row_of(norm, 3, C, c, c_ok)[None, :]

    best = tl.full((BLOCK_M, BLOCK_C), float("-inf"), tl.float32)
    first = tl.maximum(-top, 0) * KERNEL_W + tl.maximum(-left, 0)  # in the map: wins where all are -inf
    arg = tl.zeros((BLOCK_M, BLOCK_C), tl.int32) + first.to(tl.int32)[:, None]
    if KERNEL_H * KERNEL_W <= UNROLLED:
        for position in tl.static_range(KERNEL_H * KERNEL_W):
            best, arg = _better(
                best, arg, position, y, image, top, left, H, W, C, c, ok, scale, shift, RELU, KERNEL_W
            )
    else:
        for position in range(KERNEL_H * KERNEL_W):
            best, arg = _better(
                best, arg, position, y, image, top, left, H, W, C, c, ok, scale, shift, RELU, KERNEL_W
            )
    target = (m * C)[:, None] + c[None, :]
    tl.store(out + target, best.to(out.dtype.element_ty), mask=ok)
    tl.store(argmax + target, arg.to(tl.uint8), mask=ok)


@triton.jit
def _from_window(
    i,
    j,
    dout,
    argmax,
    image,
    h,
    w,
    P,
    Q,
    C,
    c,
    ok,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
):
    """What pixels get from the window i before the last that begins at or above them, and j likewise.

    h, w: counted from the corner of the padding.
    """
    p = h // STRIDE_H - i
    q = w // STRIDE_W - j
    row = h % STRIDE_H + i * STRIDE_H
    column = w % STRIDE_W + j * STRIDE_W
    covered = ((p >= 0) & (p < P) & (row < KERNEL_H)) & ((q >= 0) & (q < Q) & (column < KERNEL_W))
    inside = covered[:, None] & ok
    at = (((image * P + p) * Q + q) * C)[:, None] + c[None, :]
    value = tl.load(dout + at, mask=inside, other=0.0).to(tl.float32)
    winner = tl.load(argmax + at, mask=inside, other=0).to(tl.int32)
    position = (row * KERNEL_W + column).to(tl.int32)
    return tl.where(inside & (winner == position[:, None]), value, 0.0)


@triton.jit
def bn_act_maxpool_bwd_reduce(
    dout,
    argmax,
    y,
    norm,
    g,
    parts,
    M,
    H,
    W,
    P,
    Q,
    C,
    per_program,
    RELU: tl.constexpr,
    KERNEL_H: tl.constexpr,
    KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr,
    PAD_W: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """g ``[M, C]``, M = N*H*W, where the activation let it pass, and ``parts [parts, 2, C]``: Σg, Σg·xhat."""
    part, c, c_ok = block_and_channels(C, BLOCK_C)
    mean = row_of(norm, 0, C, c, c_ok)[None, :]
    invstd = row_of(norm, 1, C, c, c_ok)[None, :]
    scale = row_of(norm, 2, C, c, c_ok)[None, :]
    shift = row_of(norm, 3, C, c, c_ok)[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    total_xhat = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    ROWS: tl.constexpr = (KERNEL_H + STRIDE_H - 1) // STRIDE_H
    COLUMNS: tl.constexpr = (KERNEL_W + STRIDE_W - 1) // STRIDE_W
    start = part * per_program
    for tile in range(start, min(start + per_program, tl.cdiv(M, BLOCK_M))):
        m = rows_of(tile, BLOCK_M, INDEX)
        ok = (m < M)[:, None] & c_ok[None, :]
        image = m // (H * W)
        h = m // W % H + PAD_H
        w = m % W + PAD_W
        dz = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
        # Windows in the order of their output pixels.
        if ROWS * COLUMNS <= UNROLLED:
            for window in tl.static_range(ROWS * COLUMNS - 1, -1, -1):
                dz += _from_window(
                    *(window // COLUMNS, window % COLUMNS, dout, argmax, image, h, w, P, Q, C, c, ok),
                    *(KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W),
                )
        else:
            for window in range(ROWS * COLUMNS - 1, -1, -1):
                dz += _from_window(
                    *(window // COLUMNS, window % COLUMNS, dout, argmax, image, h, w, P, Q, C, c, ok),
                    *(KERNEL_H, KERNEL_W, STRIDE_H, STRIDE_W),
                )
        at = (m * C)[:, None] + c[None, :]
        read = tl.load(y + at, mask=ok, other=0.0)
        passed = masked(dz.to(g.dtype.element_ty), read, scale, shift, RELU)
        tl.store(g + at, passed.to(g.dtype.element_ty), mask=ok)
        wide = passed.to(tl.float32)
        total += wide
        total_xhat += wide * normalised(read, mean, invstd)
    store_sum(parts, 2 * part, C, c, c_ok, total)
    store_sum(parts, 2 * part + 1, C, c, c_ok, total_xhat)
