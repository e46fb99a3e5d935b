"""Arguments for every op, in any dtype and layout: the one place that the op tests draw them from."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

NHWC, NCHW = torch.channels_last, torch.contiguous_format


class Conv(NamedTuple):
    """Sizes of a convolution."""

    n: int = 2
    c: int = 4
    h: int = 6
    w: int = 5
    k: int = 6
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def x_size(self):
        return self.n, self.c, self.h, self.w

    @property
    def weight_size(self):
        return self.k, self.c // self.groups, *self.kernel

    @property
    def y_size(self):
        """Where the output would be empty, sizes below 1."""
        sizes = zip(self.x_size[2:], self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return self.n, self.k, *((x + 2 * p - d * (r - 1) - 1) // s + 1 for x, r, s, p, d in sizes)

    @property
    def geometry(self):
        return list(self.stride), list(self.padding), list(self.dilation), self.groups


POINTWISE = Conv(kernel=(1, 1), padding=(0, 0))
CONVS = (
    Conv(),
    POINTWISE,
    Conv(h=7, stride=(2, 2)),
    Conv(kernel=(1, 1), padding=(0, 0), stride=(2, 2)),
    Conv(groups=2, dilation=(2, 1), padding=(2, 1)),
    Conv(kernel=(7, 5), stride=(2, 1), padding=(3, 2), c=3),
    Conv(c=4, k=4, groups=4),
)


class Pooling(NamedTuple):
    kernel_size: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (2, 2)
    padding: tuple[int, int] = (1, 1)

    def output_size(self, size):
        return tuple((x + 2 * p - k) // s + 1 for x, k, s, p in zip(size, *self, strict=True))


POOLINGS = (Pooling(), Pooling((2, 3), (1, 2), (0, 1)))


@dataclass(frozen=True)
class Make:
    """Draws tensors of one dtype and memory format."""

    dtype: torch.dtype = torch.float32
    layout: torch.memory_format = NHWC

    @property
    def wide(self):
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def activation(self, *size):
        return torch.randn(size).to(self.dtype).contiguous(memory_format=self.layout)

    def weight(self, *size):
        return (torch.randn(size) * 0.5).to(self.dtype)

    def vector(self, *size):
        return torch.randn(size, dtype=self.wide)

    def norm(self, channels):
        mean, var, weight, bias = (self.vector(channels) for _ in range(4))
        invstd, weight = (var.abs() + 0.5).rsqrt(), weight.sign() * (weight.abs() + 0.2)
        return torch.stack((mean, invstd, weight * invstd, bias - mean * weight * invstd))

    def prologue(self, channels, given, act="relu"):
        """x_norm and x_act."""
        return (self.norm(channels), act) if given else (None, "identity")


def bn_stats(make):
    yield (make.activation(3, 4, 5, 6),)
    yield (make.activation(2, 5, 1, 1) + 10,)


def bn_finalize(make):
    mean, var = make.vector(5), make.vector(5).abs()
    yield mean, var, make.vector(5), make.vector(5), 1e-5
    yield mean, var, None, None, 1e-3
    yield (
        mean,
        var,
        torch.randn(5, dtype=make.dtype),
        None,
        1e-5,
    )  # parameters may be narrower than statistics


def bn_update_running(make):
    def running():
        return torch.randn(5, dtype=make.dtype)

    yield running(), running(), make.vector(5), make.vector(5).abs(), 0.1, 1.25
    yield running(), running(), make.vector(5), make.vector(5).abs(), 1.0, 1.0


def bn_act(make):
    for act in ("relu", "identity"):
        yield make.activation(2, 4, 3, 5), make.norm(4), act


def bn_add_act(make):
    def y():
        return make.activation(2, 4, 3, 5)

    yield y(), make.norm(4), y(), None, "relu"
    yield y(), make.norm(4), y(), make.norm(4), "relu"
    yield y(), make.norm(4), y(), None, "identity"


def bn_act_bwd_reduce(make):
    def y():
        return make.activation(2, 4, 3, 5)

    norm, dual_norm = make.norm(4), make.norm(4)
    yield y(), y(), norm, None, None, None, "relu"
    yield y(), y(), norm, y(), None, None, "relu"
    yield y(), y(), norm, y().relu(), y(), dual_norm, "relu"
    yield y(), None, None, y(), None, None, "relu"
    yield y(), None, None, y(), y(), dual_norm, "relu"
    yield y(), y(), norm, None, None, None, "identity"
    yield y(), None, None, None, None, None, "identity"


def bn_bwd_finalize(make):
    yield make.vector(2, 5), make.norm(5), 37.0


def bn_act_bwd_apply(make):
    def y():
        return make.activation(2, 4, 3, 5)

    yield y(), y(), make.vector(3, 4)
    yield y(), None, make.vector(3, 4)


def bn_act_maxpool(make):
    for pooling in POOLINGS:
        for act in ("relu", "identity"):
            yield make.activation(2, 4, 6, 7), make.norm(4), act, *map(list, pooling)


def argmax_of(y, norm, act, pooling):
    """Positions of the maxima as the forward gives them, of values in fp64."""
    mean, invstd, scale, shift = norm.double()
    z = F.batch_norm(y.double(), mean, invstd**-2, scale / invstd, shift + mean * scale, False, 0.0, 0.0)
    z = F.relu(z) if act == "relu" else z
    (_, kernel_w), (stride_h, stride_w), (pad_h, pad_w) = pooling
    _, index = F.max_pool2d(z, *pooling, return_indices=True)
    row, column = index // y.shape[3], index % y.shape[3]
    row -= torch.arange(index.shape[2])[:, None] * stride_h - pad_h
    column -= torch.arange(index.shape[3]) * stride_w - pad_w
    return (row * kernel_w + column).to(torch.uint8)


def bn_act_maxpool_bwd_reduce(make):
    for pooling in POOLINGS:
        for act in ("relu", "identity"):
            y, norm = make.activation(2, 4, 6, 7), make.norm(4)
            dout = make.activation(2, 4, *pooling.output_size((6, 7)))
            argmax = argmax_of(y, norm, act, pooling).contiguous(memory_format=make.layout)
            yield dout, argmax, y, norm, act, *map(list, pooling)


def _tensors(make, conv):
    return make.activation(*conv.x_size), make.weight(*conv.weight_size), make.activation(*conv.y_size)


def conv_fprop(make, convs=CONVS):
    for i, conv in enumerate(convs):
        x, weight, residual = _tensors(make, conv)
        prologue = make.prologue(conv.c, i % 2, ("relu", "identity")[i // 2 % 2])
        bias = make.weight(conv.k)
        yield x, weight, None, *prologue, *conv.geometry, make.norm(conv.k), residual, "relu"
        yield x, weight, bias, *prologue, *conv.geometry, make.norm(conv.k), None, "relu"
        yield x, weight, bias, *prologue, *conv.geometry, None, residual, "relu"
        yield x, weight, None, *prologue, *conv.geometry, None, None, "identity"


def conv_fprop_dual(make):
    for i, stride in enumerate(([1, 1], [2, 2], [1, 3])):
        x, reduced = make.activation(2, 4, 5, 6), (-(-5 // stride[0]), -(-6 // stride[1]))
        main = make.activation(2, 3, *reduced), make.weight(6, 3, 1, 1), *make.prologue(3, i < 2)
        shortcut = x, make.weight(6, 4, 1, 1), stride, make.norm(6)
        yield *main, make.norm(6), *shortcut, ("relu", "identity")[i % 2]


def chain(make, x, convs, projection_stride=None, residual=None, act="relu", bias=False):
    """Arguments of `conv_chain_fprop`: `convs` in a row on x, each of its own number of channels."""
    geometry = [
        [n for conv in convs for n in getattr(conv, name)] for name in ("stride", "padding", "dilation")
    ]
    weights = [make.weight(*conv.weight_size) for conv in convs]
    biases = [make.weight(conv.k) if bias else None for conv in convs]
    norms = [make.norm(conv.k) if i or not bias else None for i, conv in enumerate(convs)]
    projection = None, None, [1, 1]
    if projection_stride:
        projection = make.weight(convs[-1].k, x.shape[1], 1, 1), make.norm(convs[-1].k), projection_stride
    return x, weights, biases, norms, *geometry, [conv.groups for conv in convs], *projection, residual, act


def conv_chain_fprop(make):
    x = make.activation(2, 4, 6, 5)
    bottleneck = POINTWISE._replace(k=3), Conv(c=3, k=3), POINTWISE._replace(c=3, k=4)
    yield chain(make, x, bottleneck, residual=x)
    yield chain(make, x, (Conv(), Conv(c=6, k=4)), residual=make.activation(2, 4, 6, 5), bias=True)
    strided = bottleneck[0], Conv(c=3, k=3, stride=(2, 2)), bottleneck[2]
    yield chain(make, x, strided, projection_stride=[2, 2])
    yield chain(make, x, (Conv(stride=(2, 1)), Conv(c=6, k=8)), projection_stride=[2, 1], act="identity")
    yield chain(make, x, (Conv(groups=2, dilation=(2, 1), padding=(2, 1)),), bias=True)


def conv_fprop_stats(make, convs=CONVS):
    for i, conv in enumerate(convs):
        x, weight, _ = _tensors(make, conv)
        yield x, weight, *make.prologue(conv.c, i % 2), *conv.geometry


def conv_dgrad(make, convs=CONVS):
    for i, conv in enumerate(convs):
        x, weight, g = _tensors(make, conv)
        y, dnorm, size = make.activation(*conv.y_size), make.vector(3, conv.k), list(conv.x_size)
        yield g, weight, size, *conv.geometry, y, dnorm, x
        yield g, weight, size, *conv.geometry, None, dnorm, None
        if i < 2:
            yield g, weight, size, *conv.geometry, None, None, None


def conv_dgrad_reduce(make, convs=CONVS):
    for i, conv in enumerate(convs):
        x, weight, g = _tensors(make, conv)
        before = x, make.norm(conv.c), ("relu", "identity")[i % 2]
        yield g, weight, *conv.geometry, make.activation(*conv.y_size), make.vector(3, conv.k), *before
        if i < 2:
            yield g, weight, *conv.geometry, None, None, *before


def conv_wgrad(make, convs=CONVS):
    for i, conv in enumerate(convs):
        x, _, g = _tensors(make, conv)
        y, dnorm, size = make.activation(*conv.y_size), make.vector(3, conv.k), list(conv.weight_size)
        yield g, x, *make.prologue(conv.c, i % 2), size, *conv.geometry, y, dnorm
        yield g, x, *make.prologue(conv.c, 1 - i % 2), size, *conv.geometry, None, None


def conv_wgrad_masked(make):
    for i, stride in enumerate(([1, 1], [2, 2])):  # oneDNN's own weight gradient breaks the heap at [1, 3]
        dout, out = (make.activation(2, 6, -(-5 // stride[0]), -(-6 // stride[1])) for _ in range(2))
        x = make.activation(2, 4, 5, 6)
        yield dout, out.relu(), x, *make.prologue(4, i % 2), [6, 4, 1, 1], stride


def gram(make):
    for stride in ([1, 1], [2, 2], [1, 3]):
        yield make.activation(3, 4, 5, 6), None, "identity", stride
        yield make.activation(3, 4, 5, 6), make.norm(4), "relu", stride


def _folded(make, stride):
    c, k, x = 4, 6, make.activation(2, 4, 5, 6)
    g = make.activation(2, k, -(-5 // stride[0]), -(-6 // stride[1]))
    return g, make.weight(k, c), x, make.weight(c, c), make.vector(c)


def folded_dgrad(make):
    for stride in ([1, 1], [2, 2], [1, 3]):
        g, weight_g, x, weight_x, bias = _folded(make, stride)
        yield g, weight_g, x, None, "identity", weight_x, bias, stride, None
        yield g, weight_g, x, make.norm(4), "relu", weight_x, bias, stride, make.activation(2, 4, 5, 6)


def folded_dgrad_reduce(make):
    for act in ("relu", "identity"):
        g, weight_g, x, weight_x, bias = _folded(make, (1, 1))
        yield g, weight_g, x, make.norm(4), act, weight_x, bias


def _moments(make, channels):
    """Mean and centred moments of some rows."""
    z = make.vector(20, channels)
    centred = z - z.mean(0)
    return z.mean(0), centred.t() @ centred


def folded_stats(make):
    for k, c in ((6, 4), (3, 1)):
        yield make.weight(k, c, 1, 1), *_moments(make, c), 20.0


def folded_sums(make):
    for rows, k, c in ((1, 6, 4), (2, 3, 5)):
        vectors = make.vector(rows, k), make.weight(k, c, 1, 1), make.norm(k), make.vector(c)
        yield make.vector(k, c, 1, 1), *vectors


def folded_wgrad(make):
    for k, c in ((6, 4), (3, 1)):
        vectors = make.vector(2, k), make.vector(3, k), make.weight(k, c, 1, 1)
        yield make.vector(k, c, 1, 1), *vectors, *_moments(make, c)


def folded_matrices(make):
    for k, c in ((6, 4), (3, 1)):
        yield make.weight(k, c, 1, 1), make.vector(2, k), make.vector(3, k), make.vector(c), 30.0


SAMPLES = {
    f.__name__: f
    for f in (
        bn_stats,
        bn_finalize,
        bn_update_running,
        bn_act,
        bn_add_act,
        bn_act_bwd_reduce,
        bn_bwd_finalize,
        bn_act_bwd_apply,
        bn_act_maxpool,
        bn_act_maxpool_bwd_reduce,
        conv_fprop,
        conv_chain_fprop,
        conv_fprop_dual,
        conv_fprop_stats,
        conv_dgrad,
        conv_dgrad_reduce,
        conv_wgrad,
        conv_wgrad_masked,
        gram,
        folded_dgrad,
        folded_dgrad_reduce,
        folded_stats,
        folded_sums,
        folded_wgrad,
        folded_matrices,
    )
}
