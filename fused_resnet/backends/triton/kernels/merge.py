"""Merges what programs left of their parts of a reduction, in fixed order.

Both kernels' grid: (chunks of `per_program` parts, tiles of columns); one chunk gives the result.
"""

import triton
import triton.language as tl


@triton.jit
def _rows_in(tile, rows_per_tile, rows):
    """How many rows tiles have, of which the last few may be cut short or empty."""
    left = rows - tile.to(tl.int64) * rows_per_tile
    return tl.minimum(tl.maximum(left, 0), rows_per_tile).to(tl.float32)


@triton.jit
def merge_moments(
    mean,
    m2,
    merged_mean,
    merged_m2,
    tiles,
    channels,
    rows_per_tile,
    rows,
    per_program,
    FINAL: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``N*mean = Σ n_i*mean_i`` and ``M2 = ΣM2_i + Σ n_i*(mean_i - mean)²`` (Chan et al. 1983).

    mean, m2 ``[tiles, C]``; merged ``[chunks, C]``; FINAL: the biased variance M2/N in place of M2.
    """
    chunk = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_ok = c < channels
    first = chunk * per_program
    last = min(first + per_program, tiles)

    counts = tl.zeros((BLOCK_M,), tl.float32)
    total = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for start in range(first, last, BLOCK_M):
        tile = start + tl.arange(0, BLOCK_M)
        n = tl.where(tile < last, _rows_in(tile, rows_per_tile, rows), 0.0)
        source = (tile.to(INDEX) * channels)[:, None] + c[None, :]
        ok = (n > 0)[:, None] & c_ok[None, :]
        counts += n
        total += n[:, None] * tl.load(mean + source, mask=ok, other=0.0)
    count = tl.maximum(tl.sum(counts, 0), 1.0)
    average = tl.div_rn(tl.sum(total, 0), count)

    total = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for start in range(first, last, BLOCK_M):
        tile = start + tl.arange(0, BLOCK_M)
        n = tl.where(tile < last, _rows_in(tile, rows_per_tile, rows), 0.0)
        source = (tile.to(INDEX) * channels)[:, None] + c[None, :]
        ok = (n > 0)[:, None] & c_ok[None, :]
        d = tl.where(ok, tl.load(mean + source, mask=ok, other=0.0) - average[None, :], 0.0)
        total += tl.fma(n[:, None] * d, d, tl.load(m2 + source, mask=ok, other=0.0))
    centred = tl.sum(total, 0)
    if FINAL:
        centred = tl.div_rn(centred, count)
    tl.store(merged_mean + chunk * channels + c, average, mask=c_ok)
    tl.store(merged_m2 + chunk * channels + c, centred, mask=c_ok)


@triton.jit
def merge_sums(
    parts,
    merged,
    count,
    columns,
    per_program,
    INDEX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``merged [chunks, columns]``: sums of `per_program` rows of ``parts [count, columns]`` each."""
    chunk = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    c_ok = c < columns
    last = min((chunk + 1) * per_program, count)
    total = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for start in range(chunk * per_program, last, BLOCK_M):
        part = start + tl.arange(0, BLOCK_M)
        source = (part.to(INDEX) * columns)[:, None] + c[None, :]
        total += tl.load(parts + source, mask=(part < last)[:, None] & c_ok[None, :], other=0.0)
    tl.store(merged + chunk * columns + c, tl.sum(total, 0), mask=c_ok)
