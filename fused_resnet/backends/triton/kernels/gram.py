"""Mean and centred second moments ``gram [C, C]`` of the M = N*P*Q rows z that a 1x1 convolution reads.

x is ``[N, H, W, C]``, dense. With any pivot p near the mean and ``d = z - p``, ``Σ(z - mean)(z - mean)ᵀ`` is
``Σddᵀ - ΣdΣdᵀ/M`` (Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", shifted data):
nothing cancels, however far from 0 the mean is, and one pass is enough. p is the first row.
"""

import triton
import triton.language as tl

from .common import norm_act, row_of, rows_of


@triton.jit
def _affine(x_norm, c, c_ok, channels):
    """scale and shift; without x_norm nobody uses them."""
    if x_norm is None:
        return c, c
    else:
        return row_of(x_norm, 2, channels, c, c_ok), row_of(x_norm, 3, channels, c, c_ok)


@triton.jit
def _read(x, source, ok, x_norm, scale, shift, RELU: tl.constexpr):
    """z as the convolution reads it: rounded as x is, in fp32."""
    z = tl.load(x + source, mask=ok, other=0.0)
    if x_norm is not None:
        z = norm_act(z, scale, shift, RELU).to(x.dtype.element_ty)
    return z.to(tl.float32)


@triton.jit
def _deviations(x, pixels, row_ok, c, c_ok, channels, pivot, x_norm, scale, shift, RELU: tl.constexpr):
    """``z - pivot``, exactly 0 where masked."""
    ok = row_ok[:, None] & c_ok[None, :]
    source = (pixels * channels)[:, None] + c[None, :]
    z = _read(x, source, ok, x_norm, scale[None, :], shift[None, :], RELU)
    return tl.where(ok, z - pivot[None, :], 0.0)


@triton.jit
def _operand(d, x, PRECISION: tl.constexpr):
    """d rounded to what the product takes of it, so that the sums taken off are those of the same numbers."""
    if x.dtype.element_ty == tl.float32 and PRECISION == "tf32":
        # Dekker's splitting (1971): the high 11 bits
        scaled = d * 8193.0
        return scaled - (scaled - d)
    return d.to(x.dtype.element_ty)


@triton.jit
def _column_sums(d, ROWS: tl.constexpr):
    """Sums of every ROWS-th row: these lie in one thread, so that a loop over them needs no exchange."""
    return tl.sum(tl.reshape(d, (d.shape[0] // ROWS, ROWS, d.shape[1])), 0)


@triton.jit
def gram(
    x,
    x_norm,
    products,
    sums,
    N,
    H,
    W,
    P,
    Q,
    C,
    SPLIT_STEPS,
    STRIDE_H: tl.constexpr,
    STRIDE_W: tl.constexpr,
    X_RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    SINGLE: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
    SUM_ROWS: tl.constexpr,
):
    """``products [splits, C, C]``: Σddᵀ of rounded d; ``sums [splits, 2, C]``: Σd of rounded d, of exact d.

    Grid: (tiles of C squared, splits). Tiles below the diagonal are not written. A split has
    SPLIT_STEPS * BLOCK_M rows. SINGLE: there is one tile.
    """
    M = N * P * Q
    tiles = tl.cdiv(C, BLOCK_C)
    tile_i = tl.program_id(0) // tiles
    tile_j = tl.program_id(0) % tiles
    split = tl.program_id(1)
    if tile_j < tile_i:
        return
    i = tile_i * BLOCK_C + tl.arange(0, BLOCK_C)
    j = tile_j * BLOCK_C + tl.arange(0, BLOCK_C)
    i_ok = i < C
    j_ok = j < C
    scale_i, shift_i = _affine(x_norm, i, i_ok, C)
    scale_j, shift_j = _affine(x_norm, j, j_ok, C)
    pivot_i = _read(x, i, i_ok, x_norm, scale_i, shift_i, X_RELU)
    pivot_j = _read(x, j, j_ok, x_norm, scale_j, shift_j, X_RELU)

    acc = tl.zeros((BLOCK_C, BLOCK_C), tl.float32)
    rounded_sum = tl.zeros((SUM_ROWS, BLOCK_C), tl.float32)
    exact_sum = tl.zeros((SUM_ROWS, BLOCK_C), tl.float32)
    first = split * SPLIT_STEPS
    for step in range(first, min(first + SPLIT_STEPS, tl.cdiv(M, BLOCK_M))):
        m = rows_of(step, BLOCK_M, INDEX)
        row_ok = m < M
        if STRIDE_H == 1 and STRIDE_W == 1:
            pixels = m
        else:
            pixels = (m // (P * Q) * H + m // Q % P * STRIDE_H) * W + m % Q * STRIDE_W
        exact = _deviations(x, pixels, row_ok, j, j_ok, C, pivot_j, x_norm, scale_j, shift_j, X_RELU)
        right = _operand(exact, x, PRECISION)
        if SINGLE:
            left = right
        else:
            d = _deviations(x, pixels, row_ok, i, i_ok, C, pivot_i, x_norm, scale_i, shift_i, X_RELU)
            left = _operand(d, x, PRECISION)
        acc = tl.dot(tl.trans(left), right, acc, input_precision=PRECISION)
        rounded_sum += _column_sums(right.to(tl.float32), SUM_ROWS)
        exact_sum += _column_sums(exact, SUM_ROWS)

    target = ((split.to(INDEX) * C + i) * C)[:, None] + j[None, :]
    tl.store(products + target, acc, mask=i_ok[:, None] & j_ok[None, :])
    if tile_i == tile_j:
        tl.store(sums + 2 * split * C + j, tl.sum(rounded_sum, 0), mask=j_ok)
        tl.store(sums + (2 * split + 1) * C + j, tl.sum(exact_sum, 0), mask=j_ok)


@triton.jit
def _sums_of(sums, row, split, split_ok, c, c_ok, channels):
    """Row `row` of ``sums [splits, 2, C]``, summed over a block of splits."""
    source = ((2 * split + row) * channels)[:, None] + c[None, :]
    return tl.sum(tl.load(sums + source, mask=split_ok[:, None] & c_ok[None, :], other=0.0), 0)


@triton.jit
def merge_gram(
    x,
    x_norm,
    products,
    sums,
    mean,
    moments,
    ROWS,
    SPLITS,
    C,
    X_RELU: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """``mean = p + Σd/M`` of exact d and ``moments [C, C] = Σddᵀ - ΣdΣdᵀ/M`` of rounded d, M = ROWS.

    Grid: (tiles of C, tiles of C): those on and above the diagonal write their mirror image, too.
    """
    if tl.program_id(1) < tl.program_id(0):
        return
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    j = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    i_ok = i < C
    j_ok = j < C
    ok = (i[:, None] <= j[None, :]) & j_ok[None, :]
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    sum_i = tl.zeros((BLOCK,), tl.float32)
    sum_j = tl.zeros((BLOCK,), tl.float32)
    exact = tl.zeros((BLOCK,), tl.float32)
    for block in range(0, tl.cdiv(SPLITS, BLOCK_SPLITS)):
        split = rows_of(block, BLOCK_SPLITS, INDEX)
        split_ok = split < SPLITS
        source = (split * C * C)[:, None, None] + ((i * C)[:, None] + j[None, :])[None, :, :]
        some = tl.load(products + source, mask=split_ok[:, None, None] & ok[None, :, :], other=0.0)
        total += tl.sum(some, 0)
        sum_i += _sums_of(sums, 0, split, split_ok, i, i_ok, C)
        sum_j += _sums_of(sums, 0, split, split_ok, j, j_ok, C)
        exact += _sums_of(sums, 1, split, split_ok, j, j_ok, C)
    centred = total - sum_i[:, None] * (sum_j / ROWS)[None, :]
    tl.store(moments + (i * C)[:, None] + j[None, :], centred, mask=ok)
    tl.store(moments + (j * C)[None, :] + i[:, None], centred, mask=ok & (i[:, None] < j[None, :]))
    if tl.program_id(0) == tl.program_id(1):
        scale, shift = _affine(x_norm, j, j_ok, C)
        pivot = _read(x, j, j_ok, x_norm, scale, shift, X_RELU)
        tl.store(mean + j, pivot + exact / ROWS, mask=j_ok)
