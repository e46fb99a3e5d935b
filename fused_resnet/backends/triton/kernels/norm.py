"""Batch normalisation, activation and residual add over activations ``[M, C]``, M = N*H*W, dense.

Kernels over activations have a one-dimensional grid of row blocks times tiles of channels, the latter
innermost, so that programs that run side by side read memory that lies side by side. Those that reduce leave
a row of results for each block of `per_program` tiles of rows, which `merge.py` merges.
"""

import triton
import triton.language as tl

from .common import masked, norm_act, norm_backward, relu, row_of, rows_of


@triton.jit
def block_and_channels(C, BLOCK_C: tl.constexpr):
    """This program's block of rows, its channels, and which of these there are."""
    tiles = tl.cdiv(C, BLOCK_C)
    c = tl.program_id(0) % tiles * BLOCK_C + tl.arange(0, BLOCK_C)
    return tl.program_id(0) // tiles, c, c < C


@triton.jit
def tile_of(block, c, c_ok, M, C, BLOCK_M: tl.constexpr, INDEX: tl.constexpr):
    """Offsets of a tile's elements, and which of them there are."""
    m = rows_of(block, BLOCK_M, INDEX)
    return (m * C)[:, None] + c[None, :], (m < M)[:, None] & c_ok[None, :]


@triton.jit
def normalised(y, mean, invstd):
    """``xhat = (y - mean)*invstd`` in fp32."""
    return (y.to(tl.float32) - mean) * invstd


@triton.jit
def store_sum(parts, row, C, c, c_ok, values):
    """Row `row` of the results: the sum over a program's tile of sums."""
    tl.store(parts + row * C + c, tl.sum(values, 0), mask=c_ok)


@triton.jit
def bn_stats(
    y,
    mean,
    m2,
    M,
    C,
    per_program,
    INDEX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Mean and centred sum of squares ``[parts, C]``, tiles merged by Chan et al. 1983: nothing cancels."""
    part, c, c_ok = block_and_channels(C, BLOCK_C)
    first = part * per_program
    count = 0.0
    average = tl.zeros((BLOCK_C,), tl.float32)
    centred = tl.zeros((BLOCK_C,), tl.float32)
    for tile in range(first, min(first + per_program, tl.cdiv(M, BLOCK_M))):
        at, ok = tile_of(tile, c, c_ok, M, C, BLOCK_M, INDEX)
        v = tl.load(y + at, mask=ok, other=0.0).to(tl.float32)
        n = tl.minimum(M - tile * BLOCK_M, BLOCK_M).to(tl.float32)
        tile_average = tl.sum(v, 0) / n
        d = tl.where(ok, v - tile_average[None, :], 0.0)
        delta = tile_average - average
        share = n / (count + n)
        average = tl.fma(delta, share, average)
        centred += tl.sum(d * d, 0) + delta * delta * (count * share)
        count += n
    tl.store(mean + part * C + c, average, mask=c_ok)
    tl.store(m2 + part * C + c, centred, mask=c_ok)


@triton.jit
def bn_finalize(mean, var, weight, bias, norm, C, eps, BLOCK_C: tl.constexpr):
    """``invstd = 1/sqrt(var + eps); scale = weight*invstd; shift = bias - mean*scale``: ``norm [4, C]``."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok = c < C
    average = tl.load(mean + c, mask=ok)
    invstd = tl.div_rn(1.0, tl.sqrt_rn(tl.load(var + c, mask=ok) + eps))
    scale = invstd
    if weight is not None:
        scale = tl.load(weight + c, mask=ok).to(tl.float32) * invstd
    shift = -average * scale
    if bias is not None:
        shift = tl.fma(-average, scale, tl.load(bias + c, mask=ok).to(tl.float32))
    tl.store(norm + c, average, mask=ok)
    tl.store(norm + C + c, invstd, mask=ok)
    tl.store(norm + 2 * C + c, scale, mask=ok)
    tl.store(norm + 3 * C + c, shift, mask=ok)


@triton.jit
def _move(running, batch, momentum, c, ok):
    """``running.lerp_(batch, momentum)``, which ends at the batch for momentum 1, as torch's does."""
    start = tl.load(running + c, mask=ok).to(tl.float32)
    way = batch - start
    end = tl.where(momentum < 0.5, tl.fma(momentum, way, start), tl.fma(momentum - 1.0, way, batch))
    tl.store(running + c, end.to(running.dtype.element_ty), mask=ok)


@triton.jit
def bn_update_running(running_mean, running_var, mean, var, C, momentum, correction, BLOCK_C: tl.constexpr):
    """Running statistics ``[C]`` of any dtype, in place; `correction` makes the variance unbiased."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok = c < C
    _move(running_mean, tl.load(mean + c, mask=ok), momentum, c, ok)
    _move(running_var, tl.load(var + c, mask=ok) * correction, momentum, c, ok)


@triton.jit
def bn_act(
    y,
    norm,
    residual,
    residual_norm,
    out,
    M,
    C,
    RELU: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``act(scale*y + shift + r)``: r is nothing, the residual, or with residual_norm its BN."""
    block, c, c_ok = block_and_channels(C, BLOCK_C)
    at, ok = tile_of(block, c, c_ok, M, C, BLOCK_M, INDEX)
    scale = row_of(norm, 2, C, c, c_ok)
    shift = row_of(norm, 3, C, c, c_ok)
    z = norm_act(tl.load(y + at, mask=ok, other=0.0), scale[None, :], shift[None, :], False)
    if residual is not None:
        r = tl.load(residual + at, mask=ok, other=0.0)
        if residual_norm is not None:
            scale = row_of(residual_norm, 2, C, c, c_ok)
            shift = row_of(residual_norm, 3, C, c, c_ok)
            r = norm_act(r, scale[None, :], shift[None, :], False)
        z += r.to(tl.float32)
    if RELU:
        z = relu(z)
    tl.store(out + at, z.to(out.dtype.element_ty), mask=ok)


@triton.jit
def bn_act_bwd_reduce(
    dout,
    y,
    norm,
    out,
    dual_y,
    dual_norm,
    g,
    parts,
    M,
    C,
    per_program,
    RELU: tl.constexpr,
    INDEX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """g, which is dout and 0 where the activation stopped it, and sums of it: ``parts [parts, 1..3, C]``.

    Rows of the sums: Σg, with y Σg·xhat, with dual_y its Σg·xhat. The mask is out's, or without it y's.
    """
    part, c, c_ok = block_and_channels(C, BLOCK_C)
    SUMS: tl.constexpr = 1 + (y is not None) + (dual_y is not None)
    total = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    if y is not None:
        mean = row_of(norm, 0, C, c, c_ok)
        invstd = row_of(norm, 1, C, c, c_ok)
        if RELU and out is None:
            scale = row_of(norm, 2, C, c, c_ok)
            shift = row_of(norm, 3, C, c, c_ok)
        total_xhat = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    if dual_y is not None:
        dual_mean = row_of(dual_norm, 0, C, c, c_ok)
        dual_invstd = row_of(dual_norm, 1, C, c, c_ok)
        total_dual = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    first = part * per_program
    for tile in range(first, min(first + per_program, tl.cdiv(M, BLOCK_M))):
        at, ok = tile_of(tile, c, c_ok, M, C, BLOCK_M, INDEX)
        passed = tl.load(dout + at, mask=ok, other=0.0)
        if y is not None:
            read = tl.load(y + at, mask=ok, other=0.0)
        if RELU:
            if out is not None:
                passed = tl.where(tl.load(out + at, mask=ok, other=0.0) <= 0, 0.0, passed)
            else:
                passed = masked(passed, read, scale[None, :], shift[None, :], True)
        tl.store(g + at, passed.to(g.dtype.element_ty), mask=ok)
        wide = passed.to(tl.float32)
        total += wide
        if y is not None:
            total_xhat += wide * normalised(read, mean[None, :], invstd[None, :])
        if dual_y is not None:
            dual = tl.load(dual_y + at, mask=ok, other=0.0)
            total_dual += wide * normalised(dual, dual_mean[None, :], dual_invstd[None, :])
    store_sum(parts, part * SUMS, C, c, c_ok, total)
    if y is not None:
        store_sum(parts, part * SUMS + 1, C, c, c_ok, total_xhat)
    if dual_y is not None:
        store_sum(parts, part * SUMS + SUMS - 1, C, c, c_ok, total_dual)


@triton.jit
def bn_bwd_finalize(sums, norm, dnorm, C, count, BLOCK_C: tl.constexpr):
    """``a = scale``, ``b = -a*invstd*Σg·xhat/M``, ``c = -a*Σg/M - b*mean``; ``sums [2, C]``, count = M."""
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    ok = channel < C
    a = row_of(norm, 2, C, channel, ok)
    invstd = row_of(norm, 1, C, channel, ok)
    b = tl.div_rn(-a * invstd * row_of(sums, 1, C, channel, ok), count)
    c = tl.fma(-b, row_of(norm, 0, C, channel, ok), tl.div_rn(-a * row_of(sums, 0, C, channel, ok), count))
    tl.store(dnorm + channel, a, mask=ok)
    tl.store(dnorm + C + channel, b, mask=ok)
    tl.store(dnorm + 2 * C + channel, c, mask=ok)


@triton.jit
def bn_act_bwd_apply(
    g,
    y,
    dnorm,
    dy,
    M,
    C,
    INDEX: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """``a*g + b*y + c``, without y ``a*g``."""
    block, channel, c_ok = block_and_channels(C, BLOCK_C)
    at, ok = tile_of(block, channel, c_ok, M, C, BLOCK_M, INDEX)
    a = row_of(dnorm, 0, C, channel, c_ok)[None, :]
    read = tl.load(g + at, mask=ok, other=0.0)
    if y is not None:
        b = row_of(dnorm, 1, C, channel, c_ok)[None, :]
        c = row_of(dnorm, 2, C, channel, c_ok)[None, :]
        result = norm_backward(read, tl.load(y + at, mask=ok, other=0.0), a, b, c)
    else:
        result = a * read.to(tl.float32)
    tl.store(dy + at, result.to(dy.dtype.element_ty), mask=ok)
