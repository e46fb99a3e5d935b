"""Convolutions with fused prologues and epilogues, by the library convolution and the BN ops around it."""

import torch
import torch.nn.functional as F

from .layout import accumulation_dtype, from_rows, memory_format, per_channel, rows, subsample, widen
from .norm import bn_act, bn_act_bwd_apply, bn_act_bwd_reduce, bn_add_act, bn_stats


def _operand(x, x_norm, x_act):
    """What the convolution reads: x, or act(BN(x)). Zero padding comes after it."""
    return x if x_norm is None else bn_act(x, x_norm, x_act)


def _gradient(g, y, dnorm):
    """What the backward convolutions read: g, or BN's backward of it."""
    return g if dnorm is None else bn_act_bwd_apply(g, y, dnorm)


def conv_fprop(x, weight, bias, x_norm, x_act, stride, padding, dilation, groups, norm, residual, act):
    """``act(scale*(conv(x) + bias) + shift + residual)``."""
    y = F.conv2d(_operand(x, x_norm, x_act), weight, bias, stride, padding, dilation, groups)
    if norm is not None:
        return bn_act(y, norm, act) if residual is None else bn_add_act(y, norm, residual, None, act)
    if residual is not None:
        y = (widen(y) + widen(residual)).to(y.dtype)
    return y.relu_() if act == "relu" else y


def conv_fprop_stats(x, weight, x_norm, x_act, stride, padding, dilation, groups):
    """The raw convolution and its batch statistics."""
    y = F.conv2d(_operand(x, x_norm, x_act), weight, None, stride, padding, dilation, groups)
    return y, *bn_stats(y)


def _library_backward(dy, x, weight, stride, padding, dilation, groups, want):
    return torch.ops.aten.convolution_backward(
        dy, x, weight, None, stride, padding, dilation, False, [0, 0], groups, [*want, False]
    )


def conv_dgrad(g, weight, input_size, stride, padding, dilation, groups, y, dnorm, residual):
    """Gradient of the convolution's input, plus the residual's gradient."""
    dy = _gradient(g, y, dnorm)
    # the library looks at the input's shape and layout only
    x = torch.empty(input_size, dtype=g.dtype, device=g.device, memory_format=memory_format(g))
    dx, _, _ = _library_backward(dy, x, weight, stride, padding, dilation, groups, (True, False))
    return dx if residual is None else dx.add_(residual)


def conv_dgrad_reduce(g, weight, stride, padding, dilation, groups, y, dnorm, x, x_norm, x_act):
    """`conv_dgrad`, then the mask and the BN sums of the unit that made x."""
    dz = conv_dgrad(g, weight, x.shape, stride, padding, dilation, groups, y, dnorm, None)
    return bn_act_bwd_reduce(dz, x, x_norm, None, None, None, x_act)


def conv_wgrad(g, x, x_norm, x_act, weight_size, stride, padding, dilation, groups, y, dnorm):
    """Gradient of the weight in the accumulation dtype."""
    z, dy = _operand(x, x_norm, x_act), _gradient(g, y, dnorm)
    if tuple(weight_size[2:]) == (1, 1) and groups == 1 and tuple(padding) == (0, 0):
        # a plain matrix product keeps fp32 accumulation to the end where the library rounds to the storage dtype
        return torch.mm(widen(rows(dy)).t(), widen(rows(subsample(z, stride)))).view(weight_size)
    weight = torch.empty(weight_size, dtype=g.dtype, device=g.device)
    _, dw, _ = _library_backward(dy, z, weight, stride, padding, dilation, groups, (False, True))
    return dw.to(accumulation_dtype(g)).contiguous()


def gram(x, x_norm, x_act, stride):
    """Mean and centred second moments of the rows z of a 1x1 convolution's input: Σz/M and Σ(z-mean)(z-mean)ᵀ."""
    z = widen(rows(subsample(_operand(x, x_norm, x_act), stride)))
    mean = z.mean(0)
    centred = z - mean
    return mean, torch.mm(centred.t(), centred)


def _folded_gradient(g, weight_g, x, x_norm, x_act, weight_x, bias, stride):
    """``g @ weight_g + z @ weight_x + bias`` at the pixels that a strided 1x1 convolution reads."""
    z = widen(rows(subsample(_operand(x, x_norm, x_act), stride)))
    dz = torch.addmm(bias, z, widen(weight_x)).addmm_(widen(rows(g)), widen(weight_g))
    return from_rows(dz.to(g.dtype), g, x.shape[1])


def folded_dgrad(g, weight_g, x, x_norm, x_act, weight_x, bias, stride, residual):
    """Input gradient of a Gram-folded convolution, plus the residual's gradient."""
    dz = _folded_gradient(g, weight_g, x, x_norm, x_act, weight_x, bias, stride)
    if tuple(stride) != (1, 1):
        dx = torch.zeros(x.shape, dtype=g.dtype, device=g.device).contiguous(memory_format=memory_format(x))
        subsample(dx, stride).copy_(dz)
        dz = dx
    return dz if residual is None else dz.add_(residual)


def folded_dgrad_reduce(g, weight_g, x, x_norm, x_act, weight_x, bias):
    """`folded_dgrad` of a stride-1 unit, then the mask and the BN sums of the unit that made x."""
    dz = _folded_gradient(g, weight_g, x, x_norm, x_act, weight_x, bias, (1, 1))
    return bn_act_bwd_reduce(dz, x, x_norm, None, None, None, x_act)
