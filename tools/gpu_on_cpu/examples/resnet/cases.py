"""Cases of kernels.py: data, launch shapes and fp64 references.

A reference repeats the kernel's defined roundings (operands rounded to the storage type before a dot, fp32 dots with
operands cut to tf32) and computes everything else in fp64, so that the tolerances can be tight. One compiled kernel
serves all sizes, so what is a multiple of 16 or 1 in the first must be so in all. The sizes put the end of M and of the
channels at different places of a tile (odd, inside, exactly at the edge, one channel block only): what a mask is worth
shows only where it ends.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import kernels
import torch
import torch.nn.functional as F

from gpu_on_cpu.case import DTYPES, Builder, Case, Expected

Size = Mapping[str, int]


class Config(NamedTuple):
    tile: tuple[int, ...]
    warps: int
    stages: int


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


# ---- data
class Data:
    """Random tensors of one problem size, from a fixed seed."""

    def __init__(self, seed: int, dtype: torch.dtype) -> None:
        self.generator, self.dtype = torch.Generator().manual_seed(seed), dtype

    def stored(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(*shape, generator=self.generator) * scale).to(self.dtype)

    def fp32(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator) * scale

    def activation(self, *shape: int) -> torch.Tensor:
        """Raw convolution output; some rows are exactly 0."""
        y = self.stored(*shape)
        y[..., ::7, :] = 0
        return y

    def affine(self, channels: int, low: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and shift of a prologue; every fifth shift is exactly 0, so that s*y + t is 0 where y is."""
        s, t = torch.rand(channels, generator=self.generator) + 0.5, self.fp32(channels) + low
        t[::5] = 0
        return s, t

    def positive(self, channels: int) -> torch.Tensor:
        return torch.rand(channels, generator=self.generator) + 0.5


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype)


# ---- the kernels' arithmetic
def operand(v: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What the tensor core multiplies: v rounded to the storage type, or cut to tf32 for fp32."""
    if dtype == torch.float32:
        return (v.float().view(torch.int32) & -8192).view(torch.float32).double()
    return v.to(dtype).double()


def fma32(a: torch.Tensor, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """fp32 fused multiply-add (fp64 holds the product exactly)."""
    return (a.double() * x.double() + c.double()).float()


def prologue(y: torch.Tensor, s: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return fma32(y, s, t).relu()


def bn_backward(g: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    return fma32(a, g, fma32(b, y, c))


def tile_sums(v: torch.Tensor, rows: int) -> torch.Tensor:
    return torch.stack([g.sum(0) for g in v.double().split(rows)])


def stored_mean(name: str, rows: int) -> Expected:
    return Expected(lambda args: torch.stack([g.mean(0) for g in args[name].double().split(rows)]), 1e-5)


def stored_m2(name: str, rows: int) -> Expected:
    """Second moments about the mean of the values that the kernel stored in `name`, by tiles of rows."""
    return Expected(
        lambda args: torch.stack([((g - g.mean(0)) ** 2).sum(0) for g in args[name].double().split(rows)]),
        2e-4,
    )


def options(config: Config, **tile: int) -> dict[str, int]:
    return {**tile, "num_warps": config.warps, "num_stages": config.stages}


# ---- cases
def conv1x1_stats(d: Data, config: Config, M: int, C: int, K: int) -> Case:
    bm, bn, bk = config.tile
    y, w, (s, t) = d.activation(M, C), d.stored(C, K, scale=C**-0.5), d.affine(C)
    tiles = cdiv(M, bm)
    out = operand(prologue(y, s, t), d.dtype) @ operand(w, d.dtype)
    args = dict(
        y=y,
        s=s,
        t=t,
        w=w,
        out=empty(M, K, dtype=d.dtype),
        pmean=empty(tiles, K),
        pm2=empty(tiles, K),
        M=M,
        C=C,
        K=K,
    )
    expected = {"out": Expected(out, 1e-5), "pmean": stored_mean("out", bm), "pm2": stored_m2("out", bm)}
    return Case(kernels.conv1x1_stats, args, (tiles, cdiv(K, bn)), expected, options(config, BM=bm, BN=bn, BK=bk))


def conv3x3(d: Data, config: Config, N: int, H: int, W: int, C: int, K: int, stride: int) -> Case:
    bm, bn, bk = config.tile
    OH, OW = (H - 1) // stride + 1, (W - 1) // stride + 1
    M, tiles = N * OH * OW, cdiv(N * OH * OW, bm)
    y, w, (s, t) = d.activation(N, H, W, C), d.stored(3, 3, C, K, scale=(9 * C) ** -0.5), d.affine(C)
    z = operand(prologue(y, s, t), d.dtype).permute(0, 3, 1, 2)
    out = (
        F.conv2d(z, operand(w, d.dtype).permute(3, 2, 0, 1), padding=1, stride=stride).permute(0, 2, 3, 1).reshape(M, K)
    )
    args = dict(
        y=y,
        s=s,
        t=t,
        w=w,
        out=empty(M, K, dtype=d.dtype),
        pmean=empty(tiles, K),
        pm2=empty(tiles, K),
        N=N,
        H=H,
        W=W,
        OH=OH,
        OW=OW,
        C=C,
        K=K,
    )
    expected = {"out": Expected(out, 1e-5), "pmean": stored_mean("out", bm), "pm2": stored_m2("out", bm)}
    return Case(
        kernels.conv3x3_stats,
        args,
        (tiles, cdiv(K, bn)),
        expected,
        options(config, STRIDE=stride, BM=bm, BN=bn, BK=bk),
    )


def conv1x1_dgrad(d: Data, config: Config, M: int, C: int, K: int) -> Case:
    bm, bn, bk = config.tile
    g, y, yp = d.stored(M, K), d.stored(M, K), d.activation(M, C)
    a, b, c, w = d.fp32(K), d.fp32(K, scale=0.3), d.fp32(K, scale=0.3), d.stored(C, K, scale=K**-0.5)
    (sp, tp), mean, rstd, tiles = d.affine(C), d.fp32(C), d.positive(C), cdiv(M, bm)
    out = torch.where(fma32(yp, sp, tp) > 0, operand(bn_backward(g, y, a, b, c), d.dtype) @ operand(w, d.dtype).T, 0.0)
    xhat = (yp.double() - mean.double()) * rstd.double()
    args = dict(
        g=g,
        y=y,
        a=a,
        b=b,
        c=c,
        w=w,
        yp=yp,
        sp=sp,
        tp=tp,
        mean=mean,
        rstd=rstd,
        out=empty(M, C, dtype=d.dtype),
    )
    args |= dict(psum=empty(tiles, C), pdot=empty(tiles, C), M=M, C=C, K=K)
    expected = {
        "out": Expected(out, 1e-5),
        "psum": Expected(lambda args: tile_sums(args["out"], bm), 1e-4),
        "pdot": Expected(lambda args: tile_sums(args["out"].double() * xhat, bm), 1e-4),
    }
    return Case(kernels.conv1x1_dgrad, args, (tiles, cdiv(C, bn)), expected, options(config, BM=bm, BN=bn, BK=bk))


def conv1x1_wgrad(d: Data, config: Config, M: int, C: int, K: int, rows: int) -> Case:
    bc, bk, bm = config.tile
    yp, g, y = d.activation(M, C), d.stored(M, K), d.stored(M, K)
    (sp, tp), a, b, c = d.affine(C), d.fp32(K), d.fp32(K, scale=0.3), d.fp32(K, scale=0.3)
    splits = cdiv(M, rows)
    z, dy = operand(prologue(yp, sp, tp), d.dtype), operand(bn_backward(g, y, a, b, c), d.dtype)
    part = torch.stack([z[i * rows : (i + 1) * rows].T @ dy[i * rows : (i + 1) * rows] for i in range(splits)])
    args = dict(yp=yp, sp=sp, tp=tp, g=g, y=y, a=a, b=b, c=c, part=empty(splits, C, K), M=M, C=C, K=K, ROWS=rows)
    return Case(
        kernels.conv1x1_wgrad,
        args,
        (cdiv(C, bc), cdiv(K, bk), splits),
        {"part": Expected(part, 1e-4)},
        options(config, BC=bc, BK=bk, BM=bm),
    )


def gram(d: Data, config: Config, M: int, C: int, rows: int) -> Case:
    bc, bd, bm = config.tile
    y, (s, t), splits = d.activation(M, C), d.affine(C), cdiv(M, rows)
    z, exact = operand(prologue(y, s, t), d.dtype), prologue(y, s, t).to(d.dtype).double()
    cut = [slice(i * rows, (i + 1) * rows) for i in range(splits)]
    args = dict(y=y, s=s, t=t, part=empty(splits, C, C), psum=empty(splits, C), M=M, C=C, ROWS=rows)
    expected = {
        "part": Expected(torch.stack([z[k].T @ z[k] for k in cut]), 1e-4),
        "psum": Expected(torch.stack([exact[k].sum(0) for k in cut]), 1e-4),
    }
    return Case(kernels.gram, args, (cdiv(C, bc), cdiv(C, bd), splits), expected, options(config, BC=bc, BD=bd, BM=bm))


def folded_tail(d: Data, config: Config, M: int, C: int, K: int) -> Case:
    bm, bn, bk = config.tile
    y, wf, (s, t), shift, res = (
        d.activation(M, C),
        d.stored(C, K, scale=C**-0.5),
        d.affine(C),
        d.fp32(K),
        d.stored(M, K),
    )
    out = (operand(prologue(y, s, t), d.dtype) @ operand(wf, d.dtype) + shift.double() + res.double()).relu()
    args = dict(y=y, s=s, t=t, wf=wf, shift=shift, res=res, out=empty(M, K, dtype=d.dtype), M=M, C=C, K=K)
    return Case(
        kernels.folded_tail,
        args,
        (cdiv(M, bm), cdiv(K, bn)),
        {"out": Expected(out, 1e-5)},
        options(config, BM=bm, BN=bn, BK=bk),
    )


def bn_backward_reduce(d: Data, config: Config, M: int, C: int, rows: int) -> Case:
    bm, bc = config.tile
    g, y, (s, t), mean, rstd = d.stored(M, C), d.activation(M, C), d.affine(C), d.fp32(C), d.positive(C)
    splits = cdiv(M, rows)
    gm = torch.where(fma32(y, s, t) > 0, g, 0).double()
    xhat = (y.double() - mean.double()) * rstd.double()
    args = dict(
        g=g,
        y=y,
        s=s,
        t=t,
        mean=mean,
        rstd=rstd,
        psum=empty(splits, C),
        pdot=empty(splits, C),
        M=M,
        C=C,
        ROWS=rows,
    )
    expected = {
        "psum": Expected(tile_sums(gm, rows), 1e-4),
        "pdot": Expected(tile_sums(gm * xhat, rows), 1e-4),
    }
    return Case(kernels.bn_backward_reduce, args, (cdiv(C, bc), splits), expected, options(config, BM=bm, BC=bc))


def bn_backward_apply(d: Data, config: Config, M: int, C: int) -> Case:
    bm, bc = config.tile
    g, y, (s, t) = d.stored(M, C), d.activation(M, C), d.affine(C)
    a, b, c = d.fp32(C), d.fp32(C, scale=0.3), d.fp32(C, scale=0.3)
    out = bn_backward(torch.where(fma32(y, s, t) > 0, g, 0), y, a, b, c).double()
    args = dict(g=g, y=y, s=s, t=t, a=a, b=b, c=c, out=empty(M, C, dtype=d.dtype), M=M, C=C)
    return Case(
        kernels.bn_backward_apply,
        args,
        (cdiv(M, bm), cdiv(C, bc)),
        {"out": Expected(out, 1e-7)},
        options(config, BM=bm, BC=bc),
    )


def maxpool(d: Data, config: Config, N: int, H: int, W: int, C: int) -> Case:
    bm, bc = config.tile
    OH, OW = (H - 1) // 2 + 1, (W - 1) // 2 + 1
    y, (s, t) = d.activation(N, H, W, C), d.affine(C, low=-1.5)  # often nothing is positive: ties at 0
    pad = F.pad(prologue(y, s, t).to(d.dtype).double(), (0, 0, 1, 1, 1, 1), value=-1.0)
    taps = torch.stack(
        [pad[:, r : r + 2 * OH - 1 : 2, q : q + 2 * OW - 1 : 2] for r, q in itertools.product(range(3), range(3))]
    )
    best, M = taps.max(0).values, N * OH * OW
    first = (taps == best).to(torch.uint8).argmax(0)
    args = dict(
        y=y,
        s=s,
        t=t,
        out=empty(M, C, dtype=d.dtype),
        arg=empty(M, C, dtype=torch.uint8),
        N=N,
        H=H,
        W=W,
        OH=OH,
        OW=OW,
        C=C,
    )
    expected = {"out": Expected(best.reshape(M, C)), "arg": Expected(first.reshape(M, C))}
    return Case(kernels.bn_relu_maxpool, args, (cdiv(M, bm), cdiv(C, bc)), expected, options(config, BM=bm, BC=bc))


# ---- configurations and sizes
GEMM = Config((128, 64, 32), 4, 3), Config((128, 128, 64), 8, 3)
GRADIENT = Config((64, 64, 32), 4, 3), Config((128, 128, 64), 8, 2)
ROWS = Config((32, 64), 4, 3), Config((16, 128), 8, 3)


def sizes(names: str, *rows: Sequence[int], **more: int) -> list[Size]:
    return [dict(zip(names.split(), r, strict=True)) | more for r in rows]


ENDS = range(5, 133, 8)  # an M that ends in each group of 8 rows of a tile; the channels vary along
GEMM_SIZES = sizes(
    "M C K",
    (200, 160, 80),
    (133, 48, 16),
    (177, 112, 144),
    (245, 80, 48),
    (96, 16, 80),
    (256, 64, 64),
    (17, 32, 128),
)
GEMM_SIZES += [dict(M=m, C=16 * (1 + m // 8 % 4), K=16 * (1 + m // 8 % 9)) for m in ENDS]
STRIDE1 = sizes(
    "N H W C K",
    (2, 9, 11, 48, 80),
    (3, 5, 7, 16, 144),
    (1, 13, 10, 80, 16),
    (5, 6, 5, 32, 48),
    (1, 16, 16, 64, 64),
    (1, 3, 3, 16, 16),
    (1, 12, 11, 64, 128),
    stride=1,
)
STRIDE1 += [dict(N=1, H=1, W=m, C=16 * (1 + m // 8 % 3), K=16 * (1 + m // 8 % 9), stride=1) for m in ENDS]
STRIDE2 = sizes(
    "N H W C K",
    (2, 17, 21, 48, 80),
    (3, 13, 13, 16, 144),
    (1, 23, 25, 80, 16),
    (5, 11, 10, 32, 48),
    (1, 31, 33, 64, 64),
    (1, 3, 3, 16, 16),
    (1, 23, 22, 64, 128),
    stride=2,
)
STRIDE2 += [dict(N=1, H=2, W=2 * m - 1, C=16 * (1 + m // 8 % 3), K=16 * (1 + m // 8 % 9), stride=2) for m in ENDS]
REDUCTION = sizes(
    "M C rows",
    (300, 80, 192),
    (133, 16, 64),
    (215, 144, 128),
    (51, 48, 64),
    (64, 64, 64),
    (16, 16, 64),
    (97, 128, 64),
)
WGRAD = sizes(
    "M C K rows",
    (404, 80, 144, 256),
    (133, 16, 48, 64),
    (215, 144, 80, 128),
    (51, 48, 16, 64),
    (64, 64, 64, 64),
    (16, 128, 80, 64),
    (300, 16, 16, 320),
)
WGRAD += [dict(M=m, C=16 * (1 + m // 8 % 9), K=16 * (1 + m // 16 % 5), rows=64) for m in ENDS]
ROW_SIZES = sizes("M C", (300, 80), (133, 16), (215, 144), (51, 48), (64, 64), (17, 128))
POOL_SIZES = sizes(
    "N H W C", (2, 9, 12, 80), (3, 5, 7, 16), (1, 13, 10, 144), (5, 6, 5, 48), (1, 16, 16, 64), (1, 3, 3, 16)
)

SUBJECTS: dict[str, tuple[Callable[..., Case], tuple[Config, ...], list[Size]]] = {
    "conv1x1_stats": (conv1x1_stats, GEMM, GEMM_SIZES),
    "conv3x3_s1": (conv3x3, GEMM, STRIDE1),
    "conv3x3_s2": (conv3x3, GEMM, STRIDE2),
    "conv1x1_dgrad": (conv1x1_dgrad, GEMM, GEMM_SIZES),
    "conv1x1_wgrad": (conv1x1_wgrad, GRADIENT, WGRAD),
    "gram": (gram, GRADIENT, REDUCTION),
    "folded_tail": (folded_tail, GEMM, GEMM_SIZES),
    "bn_backward_reduce": (bn_backward_reduce, ROWS, REDUCTION),
    "bn_backward_apply": (bn_backward_apply, ROWS, ROW_SIZES),
    "maxpool": (maxpool, ROWS, POOL_SIZES),
}


def build(dtype: str, *, make: Callable[..., Case], config: Config, problems: Sequence[Size]) -> list[Case]:
    return [make(Data(7 + i, DTYPES[dtype]), config, **size) for i, size in enumerate(problems)]


# Every kernel with its first configuration, and as <name>_wide with its second.
CASES: dict[str, Builder] = {
    name + suffix: functools.partial(build, make=make, config=config, problems=problems)
    for name, (make, configs, problems) in SUBJECTS.items()
    for suffix, config in zip(("", "_wide"), configs, strict=True)
}
