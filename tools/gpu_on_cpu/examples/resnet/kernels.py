"""Triton kernels of a fused ResNet as subjects of checks: simple, correct, masked at every edge.

Layout: activations are (M, C) row-major with M = N*H*W (NHWC), 1x1 weights are (C, K), 3x3 weights (3, 3, C, K).
A "unit" is convolution -> batch norm -> ReLU; its output z = relu(s*y + t) is never stored: each reader applies the
prologue to the raw convolution output y again. The affine maps use tl.fma so that their rounding is defined.
"""

import triton
import triton.language as tl


@triton.jit
def bn_relu(y, s, t):
    """The prologue: relu(s*y + t) in fp32 (one fused multiply-add)."""
    return tl.maximum(tl.fma(y.to(tl.float32), s, t), 0.0)


@triton.jit
def bn_backward(g, y, a, b, c):
    """dL/dy of a batch norm as a linear map of g (gradient behind the norm) and y (its input): a*g + b*y + c."""
    return tl.fma(a, g.to(tl.float32), tl.fma(b, y.to(tl.float32), c))


@triton.jit
def store_tile_stats(v, rows_ok, cols, cols_ok, tile, K, pmean, pm2):
    """Mean and centred second moment of the valid rows of one tile, one value per column."""
    count = tl.sum(rows_ok.to(tl.float32), 0)
    mean = tl.sum(tl.where(rows_ok[:, None], v, 0.0), 0) / count
    d = tl.where(rows_ok[:, None], v - mean[None, :], 0.0)
    tl.store(pmean + tile * K + cols, mean, mask=cols_ok)
    tl.store(pm2 + tile * K + cols, tl.sum(d * d, 0), mask=cols_ok)


@triton.jit
def conv1x1_stats(y, s, t, w, out, pmean, pm2, M, C, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """out = relu(s*y+t) @ w, with per-tile (mean, M2) of the stored values."""
    pm = tl.program_id(0)
    m = pm * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    acc = tl.zeros((BM, BN), tl.float32)
    for c0 in range(0, C, BK):
        c = c0 + tl.arange(0, BK)
        a = tl.load(y + m[:, None] * C + c[None, :], mask=(m < M)[:, None] & (c < C)[None, :], other=0.0)
        z = bn_relu(a, tl.load(s + c, mask=c < C, other=0.0)[None, :], tl.load(t + c, mask=c < C, other=0.0)[None, :])
        b = tl.load(w + c[:, None] * K + n[None, :], mask=(c < C)[:, None] & (n < K)[None, :], other=0.0)
        acc = tl.dot(z.to(b.dtype), b, acc)
    o = acc.to(out.dtype.element_ty)
    tl.store(out + m[:, None] * K + n[None, :], o, mask=(m < M)[:, None] & (n < K)[None, :])
    store_tile_stats(o.to(tl.float32), m < M, n, n < K, pm, K, pmean, pm2)


@triton.jit
def conv3x3_stats(
    y,
    s,
    t,
    w,
    out,
    pmean,
    pm2,
    N,
    H,
    W,
    OH,
    OW,
    C,
    K,
    STRIDE: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """implicit GEMM, padding 1; the zero padding comes after the prologue."""
    pm = tl.program_id(0)
    m = pm * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    M = N * OH * OW
    ow = m % OW
    oh = (m // OW) % OH
    img = m // (OW * OH)
    steps = tl.cdiv(C, BK)
    acc = tl.zeros((BM, BN), tl.float32)
    for k in range(0, 9 * steps):
        tap = k // steps
        c = (k % steps) * BK + tl.arange(0, BK)
        ih = oh * STRIDE + tap // 3 - 1
        iw = ow * STRIDE + tap % 3 - 1
        inside = (m < M) & (ih >= 0) & (ih < H) & (iw >= 0) & (iw < W)
        ok = inside[:, None] & (c < C)[None, :]
        a = tl.load(y + ((img * H + ih) * W + iw)[:, None] * C + c[None, :], mask=ok, other=0.0)
        z = bn_relu(a, tl.load(s + c, mask=c < C, other=0.0)[None, :], tl.load(t + c, mask=c < C, other=0.0)[None, :])
        z = tl.where(ok, z, 0.0)
        b = tl.load(w + (tap * C + c)[:, None] * K + n[None, :], mask=(c < C)[:, None] & (n < K)[None, :], other=0.0)
        acc = tl.dot(z.to(b.dtype), b, acc)
    o = acc.to(out.dtype.element_ty)
    tl.store(out + m[:, None] * K + n[None, :], o, mask=(m < M)[:, None] & (n < K)[None, :])
    store_tile_stats(o.to(tl.float32), m < M, n, n < K, pm, K, pmean, pm2)


@triton.jit
def conv1x1_dgrad(
    g,
    y,
    a,
    b,
    c,
    w,
    yp,
    sp,
    tp,
    mean,
    rstd,
    out,
    psum,
    pdot,
    M,
    C,
    K,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    """out = [s*yp+t > 0] * ((a*g + b*y + c) @ w^T), with per-tile sums of out and of out*xhat of the unit before."""
    pm = tl.program_id(0)
    m = pm * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    acc = tl.zeros((BM, BN), tl.float32)
    for k0 in range(0, K, BK):
        k = k0 + tl.arange(0, BK)
        ok = (m < M)[:, None] & (k < K)[None, :]
        gv = tl.load(g + m[:, None] * K + k[None, :], mask=ok, other=0.0)
        yv = tl.load(y + m[:, None] * K + k[None, :], mask=ok, other=0.0)
        d = bn_backward(
            gv,
            yv,
            tl.load(a + k, mask=k < K, other=0.0)[None, :],
            tl.load(b + k, mask=k < K, other=0.0)[None, :],
            tl.load(c + k, mask=k < K, other=0.0)[None, :],
        )
        wt = tl.load(w + n[None, :] * K + k[:, None], mask=(k < K)[:, None] & (n < C)[None, :], other=0.0)
        acc = tl.dot(d.to(wt.dtype), wt, acc)
    ok = (m < M)[:, None] & (n < C)[None, :]
    v = tl.load(yp + m[:, None] * C + n[None, :], mask=ok, other=0.0).to(tl.float32)
    sv = tl.load(sp + n, mask=n < C, other=0.0)
    tv = tl.load(tp + n, mask=n < C, other=0.0)
    keep = (tl.fma(v, sv[None, :], tv[None, :]) > 0.0) & ok
    o = tl.where(keep, acc, 0.0).to(out.dtype.element_ty)
    tl.store(out + m[:, None] * C + n[None, :], o, mask=ok)
    o32 = o.to(tl.float32)
    xhat = (v - tl.load(mean + n, mask=n < C, other=0.0)[None, :]) * tl.load(rstd + n, mask=n < C, other=0.0)[None, :]
    tl.store(psum + pm * C + n, tl.sum(o32, 0), mask=n < C)
    tl.store(pdot + pm * C + n, tl.sum(o32 * xhat, 0), mask=n < C)


@triton.jit
def conv1x1_wgrad(yp, sp, tp, g, y, a, b, c, part, M, C, K, ROWS, BC: tl.constexpr, BK: tl.constexpr, BM: tl.constexpr):
    """part[split] = z^T @ dy over ROWS rows, both operands made while loading: z = relu(s*yp+t), dy = a*g+b*y+c."""
    split = tl.program_id(2)
    ci = tl.program_id(0) * BC + tl.arange(0, BC)
    k = tl.program_id(1) * BK + tl.arange(0, BK)
    sv = tl.load(sp + ci, mask=ci < C, other=0.0)[None, :]
    tv = tl.load(tp + ci, mask=ci < C, other=0.0)[None, :]
    av = tl.load(a + k, mask=k < K, other=0.0)[None, :]
    bv = tl.load(b + k, mask=k < K, other=0.0)[None, :]
    cv = tl.load(c + k, mask=k < K, other=0.0)[None, :]
    acc = tl.zeros((BC, BK), tl.float32)
    for m0 in range(split * ROWS, min(M, split * ROWS + ROWS), BM):
        m = m0 + tl.arange(0, BM)
        okc = (m < M)[:, None] & (ci < C)[None, :]
        okk = (m < M)[:, None] & (k < K)[None, :]
        x = tl.load(yp + m[:, None] * C + ci[None, :], mask=okc, other=0.0)
        gv = tl.load(g + m[:, None] * K + k[None, :], mask=okk, other=0.0)
        yv = tl.load(y + m[:, None] * K + k[None, :], mask=okk, other=0.0)
        z = tl.where(okc, bn_relu(x, sv, tv), 0.0).to(x.dtype)
        d = tl.where(okk, bn_backward(gv, yv, av, bv, cv), 0.0).to(x.dtype)
        acc = tl.dot(tl.trans(z), d, acc)
    tl.store(part + split * C * K + ci[:, None] * K + k[None, :], acc, mask=(ci < C)[:, None] & (k < K)[None, :])


@triton.jit
def gram(y, s, t, part, psum, M, C, ROWS, BC: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr):
    """part[split] = z^T @ z and psum[split] = column sums of z over ROWS rows, z = relu(s*y+t)."""
    split = tl.program_id(2)
    ci = tl.program_id(0) * BC + tl.arange(0, BC)
    cj = tl.program_id(1) * BD + tl.arange(0, BD)
    si = tl.load(s + ci, mask=ci < C, other=0.0)[None, :]
    ti = tl.load(t + ci, mask=ci < C, other=0.0)[None, :]
    sj = tl.load(s + cj, mask=cj < C, other=0.0)[None, :]
    tj = tl.load(t + cj, mask=cj < C, other=0.0)[None, :]
    acc = tl.zeros((BC, BD), tl.float32)
    tot = tl.zeros((BD,), tl.float32)
    for m0 in range(split * ROWS, min(M, split * ROWS + ROWS), BM):
        m = m0 + tl.arange(0, BM)
        oki = (m < M)[:, None] & (ci < C)[None, :]
        okj = (m < M)[:, None] & (cj < C)[None, :]
        xi = tl.load(y + m[:, None] * C + ci[None, :], mask=oki, other=0.0)
        xj = tl.load(y + m[:, None] * C + cj[None, :], mask=okj, other=0.0)
        zi = tl.where(oki, bn_relu(xi, si, ti), 0.0).to(xi.dtype)
        zj = tl.where(okj, bn_relu(xj, sj, tj), 0.0).to(xj.dtype)
        acc = tl.dot(tl.trans(zi), zj, acc)
        tot += tl.sum(zj.to(tl.float32), 0)
    tl.store(part + split * C * C + ci[:, None] * C + cj[None, :], acc, mask=(ci < C)[:, None] & (cj < C)[None, :])
    if tl.program_id(0) == 0:
        tl.store(psum + split * C + cj, tot, mask=cj < C)


@triton.jit
def folded_tail(y, s, t, wf, shift, res, out, M, C, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """out = relu(relu(s*y+t) @ wf + shift + res): a block's last unit with its norm folded into the weights."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    acc = tl.zeros((BM, BN), tl.float32)
    for c0 in range(0, C, BK):
        c = c0 + tl.arange(0, BK)
        a = tl.load(y + m[:, None] * C + c[None, :], mask=(m < M)[:, None] & (c < C)[None, :], other=0.0)
        z = bn_relu(a, tl.load(s + c, mask=c < C, other=0.0)[None, :], tl.load(t + c, mask=c < C, other=0.0)[None, :])
        b = tl.load(wf + c[:, None] * K + n[None, :], mask=(c < C)[:, None] & (n < K)[None, :], other=0.0)
        acc = tl.dot(z.to(b.dtype), b, acc)
    ok = (m < M)[:, None] & (n < K)[None, :]
    r = tl.load(res + m[:, None] * K + n[None, :], mask=ok, other=0.0).to(tl.float32)
    v = acc + tl.load(shift + n, mask=n < K, other=0.0)[None, :] + r
    tl.store(out + m[:, None] * K + n[None, :], tl.maximum(v, 0.0).to(out.dtype.element_ty), mask=ok)


@triton.jit
def bn_backward_reduce(g, y, s, t, mean, rstd, psum, pdot, M, C, ROWS, BM: tl.constexpr, BC: tl.constexpr):
    """psum, pdot[split] = sums of gm and gm*xhat over ROWS rows, gm = [s*y+t > 0] * g."""
    split = tl.program_id(1)
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    sv = tl.load(s + c, mask=c < C, other=0.0)[None, :]
    tv = tl.load(t + c, mask=c < C, other=0.0)[None, :]
    mu = tl.load(mean + c, mask=c < C, other=0.0)[None, :]
    rs = tl.load(rstd + c, mask=c < C, other=0.0)[None, :]
    s1 = tl.zeros((BC,), tl.float32)
    s2 = tl.zeros((BC,), tl.float32)
    for m0 in range(split * ROWS, min(M, split * ROWS + ROWS), BM):
        m = m0 + tl.arange(0, BM)
        ok = (m < M)[:, None] & (c < C)[None, :]
        gv = tl.load(g + m[:, None] * C + c[None, :], mask=ok, other=0.0).to(tl.float32)
        yv = tl.load(y + m[:, None] * C + c[None, :], mask=ok, other=0.0).to(tl.float32)
        gm = tl.where((tl.fma(yv, sv, tv) > 0.0) & ok, gv, 0.0)
        s1 += tl.sum(gm, 0)
        s2 += tl.sum(gm * ((yv - mu) * rs), 0)
    tl.store(psum + split * C + c, s1, mask=c < C)
    tl.store(pdot + split * C + c, s2, mask=c < C)


@triton.jit
def bn_backward_apply(g, y, s, t, a, b, c, out, M, C, BM: tl.constexpr, BC: tl.constexpr):
    """out = a*gm + b*y + c, gm = [s*y+t > 0] * g."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BC + tl.arange(0, BC)
    ok = (m < M)[:, None] & (n < C)[None, :]
    off = m[:, None] * C + n[None, :]
    gv = tl.load(g + off, mask=ok, other=0.0).to(tl.float32)
    yv = tl.load(y + off, mask=ok, other=0.0).to(tl.float32)
    z = tl.fma(yv, tl.load(s + n, mask=n < C, other=0.0)[None, :], tl.load(t + n, mask=n < C, other=0.0)[None, :])
    gm = tl.where(z > 0.0, gv, 0.0)
    d = bn_backward(
        gm,
        yv,
        tl.load(a + n, mask=n < C, other=0.0)[None, :],
        tl.load(b + n, mask=n < C, other=0.0)[None, :],
        tl.load(c + n, mask=n < C, other=0.0)[None, :],
    )
    tl.store(out + off, d.to(out.dtype.element_ty), mask=ok)


@triton.jit
def bn_relu_maxpool(y, s, t, out, arg, N, H, W, OH, OW, C, BM: tl.constexpr, BC: tl.constexpr):
    """3x3/2 max pooling (padding 1) of relu(s*y+t); arg holds the first winning tap 0..8 as uint8."""
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    c = tl.program_id(1) * BC + tl.arange(0, BC)
    ow = m % OW
    oh = (m // OW) % OH
    img = m // (OW * OH)
    row_ok = m < N * OH * OW
    sv = tl.load(s + c, mask=c < C, other=0.0)[None, :]
    tv = tl.load(t + c, mask=c < C, other=0.0)[None, :]
    best = tl.full((BM, BC), -1.0, tl.float32)
    idx = tl.zeros((BM, BC), tl.int32)
    for tap in tl.static_range(9):
        ih = oh * 2 + tap // 3 - 1
        iw = ow * 2 + tap % 3 - 1
        ok = (row_ok & (ih >= 0) & (ih < H) & (iw >= 0) & (iw < W))[:, None] & (c < C)[None, :]
        v = tl.load(y + ((img * H + ih) * W + iw)[:, None] * C + c[None, :], mask=ok, other=0.0)
        z = tl.where(ok, bn_relu(v, sv, tv).to(y.dtype.element_ty).to(tl.float32), -1.0)
        idx = tl.where(z > best, tap, idx)
        best = tl.maximum(best, z)
    ok = row_ok[:, None] & (c < C)[None, :]
    tl.store(out + m[:, None] * C + c[None, :], best.to(out.dtype.element_ty), mask=ok)
    tl.store(arg + m[:, None] * C + c[None, :], idx.to(tl.uint8), mask=ok)
