"""What every kernel must give: in fp64, by torch's own functions, with the roundings that the kernels define.

Where a kernel rounds is part of what it promises, so it is repeated here; all else is computed in fp64:

* a prologue's ``z = act(scale*x + shift)`` and ``dy = a*g + b*y + c`` are fp32 fused multiply-adds, rounded
  to the storage dtype, as the tensor cores read them;
* tensor cores multiply 16-bit operands as they are, and fp32 ones with their low 13 bits cut (tf32), unless
  ``torch.backends.cudnn.allow_tf32`` forbids it;
* sums and moments are those of the tensors that the kernel stored (the argument `results`).

What is left is the fp32 accumulation, in an order of the kernel's own choice, and the rounding of the result.
Both are bounded element by element (`Expected.allowed`), so that a single wrong element shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

__all__ = ["Expected", "check", "expected"]

UNIT = 2.0**-24  # half a unit in the last place of 1 in fp32

# Sums of n terms in fp32 err by at most n*UNIT*Σ|terms|, where all errors and terms have the same sign. They
# have not: tiles are summed apart, and errors of both signs cancel, which leaves about sqrt(roundings)*UNIT
# times the sum so far. The problems stay below 11 units; a wrong or missing term is 1/n of Σ|terms|,
# thousands of units.
ACCUMULATION = 16 * UNIT

# Tensor cores do not round, they cut, and errors of one sign add up. All products of one instruction (8 of
# tf32, 16 of fp16) and the sum so far are aligned to the largest of them, cut to 26 bits (sm_90; sm_80: 25),
# added, and cut to 24: sums over the rows of the problems err by up to 35 units (67 on sm_80). An H100's
# largest errors are those of this model to the last digit. The factor is what that takes beside ACCUMULATION.
TENSOR_CORES = 8


class Expected(NamedTuple):
    """The right value of a result in fp64, how far each element may be off, and the dtype it is stored in."""

    value: Tensor
    allowed: Tensor
    dtype: torch.dtype


def _half_ulp(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Half the distance of two neighbours in `dtype` around `value`."""
    info = torch.finfo(dtype)
    exponent = torch.frexp(value.abs().clamp(min=info.smallest_normal)).exponent
    return torch.ldexp(torch.full_like(value, info.eps), exponent - 2)


def _accumulated(value: Tensor, magnitude: Tensor, dtype: torch.dtype = torch.float32) -> Expected:
    """A sum made in fp32, rounded once to `dtype`. magnitude: the sum of its terms' absolute values."""
    return Expected(value, 1.02 * _half_ulp(value, dtype) + ACCUMULATION * magnitude, dtype)


def _exact(value: Tensor, dtype: torch.dtype) -> Expected:
    """A value of which every rounding is defined."""
    return Expected(value.double(), torch.zeros_like(value, dtype=torch.float64), dtype)


# ---- the kernels' arithmetic


def _per_channel(v: Tensor) -> Tensor:
    return v.double()[:, None, None]


def _fma(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Fused multiply-add in fp32 per channel: fp64 holds the product exactly and rounds the sum far below."""
    shift = _per_channel(shift) if shift.dim() == 1 else shift.double()
    return (x.double() * _per_channel(scale) + shift).float()


def _activated(z: Tensor, act: str) -> Tensor:
    return F.relu(z) if act == "relu" else z


def _normed(x: Tensor, norm: Tensor | None, act: str) -> Tensor:
    """``act(scale*x + shift)`` as stored, or x."""
    return x if norm is None else _activated(_fma(x, norm[2], norm[3]), act).to(x.dtype)


def _gradient(g: Tensor, y: Tensor | None, dnorm: Tensor | None) -> Tensor:
    """``dy = a*g + b*y + c`` as stored, or g."""
    if dnorm is None:
        return g
    a, b, c = dnorm
    return _fma(g, a, torch.zeros_like(a) if y is None else _fma(y, b, c)).to(g.dtype)


def _operand(v: Tensor) -> Tensor:
    """What is multiplied, of a tensor as stored."""
    if v.dtype == torch.float32 and torch.backends.cudnn.allow_tf32:
        v = (v.contiguous().view(torch.int32) & -(2**13)).view(torch.float32)
    return v.double()


def _on_tensor_cores(magnitude: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum of products' absolute values, larger by as much as operands of this dtype are summed worse."""
    exact = dtype == torch.float32 and not torch.backends.cudnn.allow_tf32
    return magnitude if exact else TENSOR_CORES * magnitude


def _product(function: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """A bilinear function of two stored tensors, and what `_accumulated` takes as its terms' magnitude."""
    dtype, a, b = a.dtype, _operand(a), _operand(b)
    return function(a, b), _on_tensor_cores(function(a.abs(), b.abs()), dtype)


def _stopped(g: Tensor, y: Tensor, norm: Tensor, act: str) -> Tensor:
    """Where the activation of ``scale*y + shift`` lets no gradient pass; NaN lets it pass."""
    return _fma(y, norm[2], norm[3]) <= 0 if act == "relu" else torch.zeros_like(g, dtype=torch.bool)


def _sums(g: Tensor, *units: tuple[Tensor | None, Tensor | None]) -> Expected:
    """Σg and Σg·xhat of every unit's (y, norm) over the stored g."""
    terms = [g.double()]
    for y, norm in units:
        if y is not None and norm is not None:
            terms.append(g.double() * (y.double() - _per_channel(norm[0])) * _per_channel(norm[1]))
    sums = [(t.sum((0, 2, 3)), t.abs().sum((0, 2, 3))) for t in terms]
    value, magnitude = (torch.stack(column) for column in zip(*sums, strict=True))
    return _accumulated(value, magnitude)


def _moments(y: Tensor) -> tuple[Expected, Expected]:
    """Mean and biased variance of a stored tensor.

    A mean's error e enters the variance twice: merging tiles, their means' distances of about one standard
    deviation are off by e, and all of it is off by e².
    """
    rows = y.double().transpose(0, 1).flatten(1)
    mean, var, size = rows.mean(1), rows.var(1, correction=0), rows.abs().mean(1)
    of_mean = _accumulated(mean, size)
    e = ACCUMULATION * size
    return of_mean, Expected(var, ACCUMULATION * var + 2 * var.sqrt() * e + e**2 + UNIT * var, torch.float32)


# ---- batch norm


def bn_stats(results, y):
    return _moments(y)


def bn_finalize(results, mean, var, weight, bias, eps):
    invstd = 1 / torch.sqrt(var.double() + eps)
    scale = invstd if weight is None else weight.double() * invstd
    shift = -mean.double() * scale + (0 if bias is None else bias.double())
    size = (mean.double() * scale).abs() + (0 if bias is None else bias.double().abs())
    value = torch.stack((mean.double(), invstd, scale, shift))
    return (_accumulated(value, torch.stack((0 * size, invstd, scale.abs(), size))),)


def bn_update_running(results, running_mean, running_var, mean, var, momentum, correction):
    found = []
    for running, batch in ((running_mean, mean.double()), (running_var, var.double() * correction)):
        kept, moved = running.double() * (1 - momentum), batch * momentum
        # lerp moves by the difference of the two
        found.append(_accumulated(kept + moved, running.double().abs() + batch.abs(), running.dtype))
    return tuple(found)


def bn_act(results, y, norm, act):
    return (_exact(_normed(y, norm, act), y.dtype),)


def bn_add_act(results, y, norm, residual, residual_norm, act):
    r, size = residual.double(), residual.double().abs()
    if residual_norm is not None:
        scale, shift = _per_channel(residual_norm[2]), _per_channel(residual_norm[3])
        r, size = r * scale + shift, size * scale.abs() + shift.abs()
    scale, shift = _per_channel(norm[2]), _per_channel(norm[3])
    z = _activated(y.double() * scale + shift + r, act)
    return (_accumulated(z, (y.double() * scale).abs() + shift.abs() + size, y.dtype),)


def bn_act_bwd_reduce(results, dout, y, norm, out, dual_y, dual_norm, act):
    if act == "identity":
        g = dout
    else:
        g = torch.where(_stopped(dout, y, norm, act) if out is None else out <= 0, 0, dout)
    return _exact(g, dout.dtype), _sums(results[0], (y, norm), (dual_y, dual_norm))


def bn_bwd_finalize(results, sums, norm, count):
    (sg, sgx), (mean, invstd, a, _) = sums.double(), norm.double()
    b, c = -a * invstd * sgx / count, -a * sg / count
    value = torch.stack((a, b, c - b * mean))
    return (_accumulated(value, torch.stack((0 * a, b.abs(), c.abs() + (b * mean).abs()))),)


def bn_act_bwd_apply(results, g, y, dnorm):
    return (_exact(_gradient(g, y, dnorm), g.dtype),)


# ---- the stem's pool


def _positions(index: Tensor, y: Tensor, kernel_size, stride, padding) -> Tensor:
    """Indices of ``F.max_pool2d`` as positions inside their windows."""
    row = index // y.shape[3] + padding[0] - stride[0] * torch.arange(index.shape[2])[:, None]
    column = index % y.shape[3] + padding[1] - stride[1] * torch.arange(index.shape[3])
    return row * kernel_size[1] + column


def bn_act_maxpool(results, y, norm, act, kernel_size, stride, padding):
    z = _normed(y, norm, act).double().contiguous()
    out, index = F.max_pool2d(z, kernel_size, stride, padding, return_indices=True)
    return _exact(out, y.dtype), _exact(_positions(index, y, kernel_size, stride, padding), torch.uint8)


def bn_act_maxpool_bwd_reduce(results, dout, argmax, y, norm, act, kernel_size, stride, padding):
    height, width = y.shape[2:]
    row = argmax.long() // kernel_size[1] - padding[0] + stride[0] * torch.arange(dout.shape[2])[:, None]
    column = argmax.long() % kernel_size[1] - padding[1] + stride[1] * torch.arange(dout.shape[3])

    def unpooled(gradients):
        flat = torch.zeros(*y.shape[:2], height * width, dtype=torch.float64)
        index = (row * width + column).flatten(2)
        return flat.scatter_add(2, index, gradients.double().flatten(2)).view_as(y)

    stopped = _stopped(y, y, norm, act)
    dz, size = (torch.where(stopped, 0, unpooled(d)) for d in (dout, dout.abs()))
    return _accumulated(dz, size, y.dtype), _sums(results[0], (y, norm))


# ---- convolutions


def _convolve(geometry: Sequence[Any]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, weight: F.conv2d(x, weight, None, *geometry)


def conv_fprop(
    results, x, weight, bias, x_norm, x_act, stride, padding, dilation, groups, norm, residual, act
):
    y, size = _product(_convolve((stride, padding, dilation, groups)), _normed(x, x_norm, x_act), weight)
    if bias is not None:
        y, size = y + _per_channel(bias), size + _per_channel(bias).abs()
    if norm is not None:
        y, size = _affine(y, size, norm)
    if residual is not None:
        y, size = y + residual.double(), size + residual.double().abs()
    return (_accumulated(_activated(y, act), size, x.dtype),)


def _affine(y: Tensor, size: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    scale, shift = _per_channel(norm[2]), _per_channel(norm[3])
    return y * scale + shift, size * scale.abs() + shift.abs()


def conv_fprop_dual(
    results,
    x,
    weight,
    x_norm,
    x_act,
    norm,
    shortcut_x,
    shortcut_weight,
    shortcut_stride,
    shortcut_norm,
    act,
):
    main = _product(F.conv2d, _normed(x, x_norm, x_act), weight)
    shortcut = _product(lambda a, w: F.conv2d(a, w, stride=shortcut_stride), shortcut_x, shortcut_weight)
    (y, size), (r, r_size) = _affine(*main, norm), _affine(*shortcut, shortcut_norm)
    return (_accumulated(_activated(y + r, act), size + r_size, x.dtype),)


def conv_fprop_stats(results, x, weight, x_norm, x_act, stride, padding, dilation, groups):
    y, size = _product(_convolve((stride, padding, dilation, groups)), _normed(x, x_norm, x_act), weight)
    return _accumulated(y, size, x.dtype), *_moments(results[0])


def _input_gradient(dy, weight, input_size, *geometry):
    return _product(lambda d, w: conv2d_input(input_size, w, d, *geometry), dy, weight)


def conv_dgrad(results, g, weight, input_size, stride, padding, dilation, groups, y, dnorm, residual):
    dy = _gradient(g, y, dnorm)
    dx, size = _input_gradient(dy, weight, input_size, stride, padding, dilation, groups)
    if residual is not None:
        dx, size = dx + residual.double(), size + residual.double().abs()
    return (_accumulated(dx, size, g.dtype),)


def _masked_with_sums(results, dz, size, x, x_norm, x_act):
    stopped = _stopped(x, x, x_norm, x_act)
    g = _accumulated(torch.where(stopped, 0, dz), torch.where(stopped, 0, size), x.dtype)
    return g, _sums(results[0], (x, x_norm))


def conv_dgrad_reduce(results, g, weight, stride, padding, dilation, groups, y, dnorm, x, x_norm, x_act):
    dy = _gradient(g, y, dnorm)
    dz, size = _input_gradient(dy, weight, x.shape, stride, padding, dilation, groups)
    return _masked_with_sums(results, dz, size, x, x_norm, x_act)


def conv_wgrad(results, g, x, x_norm, x_act, weight_size, stride, padding, dilation, groups, y, dnorm):
    def weight_gradient(z, dy):
        return conv2d_weight(z, weight_size, dy, stride, padding, dilation, groups)

    return (_accumulated(*_product(weight_gradient, _normed(x, x_norm, x_act), _gradient(g, y, dnorm))),)


def conv_wgrad_masked(results, dout, out, x, x_norm, x_act, weight_size, stride):
    g, geometry = torch.where(out <= 0, 0, dout), (stride, (0, 0), (1, 1), 1)
    dw = conv_wgrad(results, g, x, x_norm, x_act, weight_size, *geometry, None, None)
    return _exact(g.double(), dout.dtype), _sums(results[0]), *dw


def gram(results, x, x_norm, x_act, stride):
    """Moments of the deviations from the first row, which are rounded before they are multiplied."""
    z = _normed(x, x_norm, x_act)[:, :, :: stride[0], :: stride[1]].transpose(0, 1).flatten(1).float()
    pivot = z[:, :1]
    mean = z.double().mean(1), (z - pivot).abs().double().mean(1) + pivot[:, 0].abs().double()
    d = _rounded_difference(z - pivot, x.dtype)
    sums, count = d.sum(1), d.shape[1]
    product = d @ d.t() - torch.outer(sums, sums) / count
    # an error of the sums t enters t·tᵀ/M from both sides
    of_sums = torch.outer(sums.abs(), d.abs().sum(1)) / count
    size = _on_tensor_cores(d.abs() @ d.abs().t(), x.dtype) + of_sums + of_sums.t()
    return _accumulated(*mean), _accumulated(product, size)


def _rounded_difference(d: Tensor, dtype: torch.dtype) -> Tensor:
    """fp32 rounded to `dtype`; for tf32 to 11 bits by Dekker's splitting (1971), of which no bit is cut."""
    if dtype == torch.float32 and torch.backends.cudnn.allow_tf32:
        scaled = d * 8193.0
        return (scaled - (scaled - d)).double()
    return d.to(dtype).double()


def _folded(g, weight_g, x, x_norm, x_act, weight_x, bias, stride):
    read = _normed(x, x_norm, x_act)[:, :, :: stride[0], :: stride[1]]
    products = [
        _product(lambda a, w: torch.einsum("nkpq,kc->ncpq", a, w), a, w)
        for a, w in ((g, weight_g), (read, weight_x))
    ]
    dz, size = (sum(column) for column in zip(*products, strict=True))
    return dz + _per_channel(bias), size + _per_channel(bias).abs()


def folded_dgrad(results, g, weight_g, x, x_norm, x_act, weight_x, bias, stride, residual):
    found = []
    for at_pixels in _folded(g, weight_g, x, x_norm, x_act, weight_x, bias, stride):
        full = torch.zeros(x.shape, dtype=torch.float64)
        full[:, :, :: stride[0], :: stride[1]] = at_pixels
        found.append(full)
    dx, size = found
    if residual is not None:
        dx, size = dx + residual.double(), size + residual.double().abs()
    return (_accumulated(dx, size, x.dtype),)


def folded_dgrad_reduce(results, g, weight_g, x, x_norm, x_act, weight_x, bias):
    dz, size = _folded(g, weight_g, x, x_norm, x_act, weight_x, bias, (1, 1))
    return _masked_with_sums(results, dz, size, x, x_norm, x_act)


# ---- comparing

_RESULTS: dict[Callable[..., tuple[Expected, ...]], tuple[str, ...]] = {
    bn_stats: ("mean", "var"),
    bn_finalize: ("norm",),
    bn_update_running: ("running_mean", "running_var"),
    bn_act: ("out",),
    bn_add_act: ("out",),
    bn_act_bwd_reduce: ("g", "sums"),
    bn_bwd_finalize: ("dnorm",),
    bn_act_bwd_apply: ("dy",),
    bn_act_maxpool: ("out", "argmax"),
    bn_act_maxpool_bwd_reduce: ("g", "sums"),
    conv_fprop: ("out",),
    conv_fprop_dual: ("out",),
    conv_fprop_stats: ("y", "mean", "var"),
    conv_dgrad: ("dx",),
    conv_dgrad_reduce: ("g", "sums"),
    conv_wgrad: ("dw",),
    conv_wgrad_masked: ("g", "sums", "dw"),
    gram: ("mean", "gram"),
    folded_dgrad: ("dx",),
    folded_dgrad_reduce: ("g", "sums"),
}
_TRUTHS = {f.__name__: f for f in _RESULTS}


def expected(op: str, args: Sequence[Any], results: Sequence[Tensor]) -> dict[str, Expected]:
    """The right results of `op` by name.

    Args:
        args: of the op, CPU tensors; for `bn_update_running` as they were before.
        results: what the kernels gave, of which sums and moments are taken.
    """
    truth = _TRUTHS[op]
    return dict(zip(_RESULTS[truth], truth(results, *args), strict=True))


def check(op: str, args: Sequence[Any], results: Sequence[Tensor]) -> dict[str, float]:
    """The largest error of each result in units of what is allowed there: above 1 is wrong.

    Infinite where only one of the two is NaN, or where something exact is off.

    Raises:
        ValueError: a result has another shape or dtype than it should.
    """
    found = {}
    for got, (name, want) in zip(results, expected(op, args, results).items(), strict=True):
        if got.shape != want.value.shape or got.dtype != want.dtype:
            raise ValueError(
                f"{op}: {name} is {got.dtype} {tuple(got.shape)}, not {want.dtype} {tuple(want.value.shape)}"
            )
        found[name] = _worst(got.double(), want)
    return found


def _worst(got: Tensor, want: Expected) -> float:
    same = (got == want.value) | (got.isnan() & want.value.isnan())
    errors = torch.where(same, 0, (got - want.value).abs() / want.allowed)
    return errors.nan_to_num(nan=torch.inf).max().item() if errors.numel() else 0.0
