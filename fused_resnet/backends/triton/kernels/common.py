"""What several kernels compute alike: prologues, masks, coordinates, sums.

Every kernel is compiled without contraction of multiplications and additions (`launch.py`), and asks for
fused multiply-adds by name where it wants them. So the rounding of every value is defined, is the same on all
architectures, and lanes that reduce the same numbers hold the same sum.
"""

import triton
import triton.language as tl


@triton.jit
def relu(z):
    """max(z, 0), NaN staying NaN as in torch."""
    return tl.maximum(z, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def norm_act(y, scale, shift, RELU: tl.constexpr):
    """``act(scale*y + shift)`` in fp32."""
    z = tl.fma(y.to(tl.float32), scale, shift)
    if RELU:
        z = relu(z)
    return z


@triton.jit
def masked(g, y, scale, shift, RELU: tl.constexpr):
    """g, and 0 where the activation of ``scale*y + shift`` stopped it; NaN lets it pass, as in torch."""
    if RELU:
        g = tl.where(tl.fma(y.to(tl.float32), scale, shift) <= 0, 0.0, g)
    return g


@triton.jit
def norm_backward(g, y, a, b, c):
    """BN's backward ``a*g + b*y + c`` in fp32."""
    return tl.fma(g.to(tl.float32), a, tl.fma(y.to(tl.float32), b, c))


@triton.jit
def row_of(norm, row, channels, c, mask):
    """Values of one row of norm ``[4, C]`` or dnorm ``[3, C]`` at channels `c`; 0 where masked."""
    return tl.load(norm + row * channels + c, mask=mask, other=0.0)


@triton.jit
def rows_of(block, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    """Numbers of a block's rows, wide enough (INDEX) to be multiplied by the row length."""
    return block.to(INDEX) * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def grouped(program, tiles_m, tiles_n, GROUP: tl.constexpr):
    """Tile (m, n) of a program: GROUP tiles of rows share their columns' weights while these are in L2."""
    per_group = GROUP * tiles_n
    first = program // per_group * GROUP
    height = min(tiles_m - first, GROUP)
    inside = program % per_group
    return first + inside % height, inside // height


@triton.jit
def store_tile_moments(v, row_ok, c, c_ok, tile, channels, mean, m2):
    """Mean and centred sum of squares of the valid rows of a tile ``v [BM, BC]``: row `tile` of both."""
    count = tl.sum(row_ok.to(tl.float32), 0)
    average = tl.sum(tl.where(row_ok[:, None], v, 0.0), 0) / tl.maximum(count, 1.0)
    d = tl.where(row_ok[:, None], v - average[None, :], 0.0)
    tl.store(mean + tile * channels + c, average, mask=c_ok)
    tl.store(m2 + tile * channels + c, tl.sum(d * d, 0), mask=c_ok)


@triton.jit
def store_tile_sums(g, xhat, c, c_ok, tile, channels, sums):
    """Σg and Σg·xhat over the rows of a tile (masked rows hold 0): ``sums [tiles, 2, C]``."""
    tl.store(sums + 2 * tile * channels + c, tl.sum(g, 0), mask=c_ok)
    tl.store(sums + (2 * tile + 1) * channels + c, tl.sum(g * xhat, 0), mask=c_ok)
