"""Batch normalisation with activation and residual add, forward and backward."""

import torch

from .layout import per_channel, widen


def bn_stats(y):
    """Per-channel mean and biased variance."""
    var, mean = torch.var_mean(widen(y), dim=(0, 2, 3), correction=0)
    return mean, var


def bn_finalize(mean, var, weight, bias, eps):
    """The coefficients of BN, from Ioffe & Szegedy 2015, algorithm 1, with scale and shift multiplied out."""
    invstd = torch.rsqrt(var + eps)
    scale = invstd if weight is None else weight.to(invstd.dtype) * invstd
    shift = -mean * scale if bias is None else bias.to(invstd.dtype) - mean * scale
    return torch.stack((mean, invstd, scale, shift))


def bn_update_running(running_mean, running_var, mean, var, momentum, correction):
    """``running = (1 - momentum)*running + momentum*batch``; `correction` makes the variance unbiased."""
    for running, batch in ((running_mean, mean), (running_var, var * correction)):
        running.copy_(torch.lerp(running.to(batch.dtype), batch, momentum))


def _normalise(y, norm):
    return torch.addcmul(per_channel(norm[3]), widen(y), per_channel(norm[2]))


def _activate_(z, act):
    return z.relu_() if act == "relu" else z


def bn_act(y, norm, act):
    """``act(scale*y + shift)``."""
    return _activate_(_normalise(y, norm), act).to(y.dtype)


def bn_add_act(y, norm, residual, residual_norm, act):
    """``act(scale*y + shift + r)``, r the residual or its own BN; one rounding at the end."""
    z = _normalise(y, norm)
    z += widen(residual) if residual_norm is None else _normalise(residual, residual_norm)
    return _activate_(z, act).to(y.dtype)


def _normalised(y, norm):
    return (widen(y) - per_channel(norm[0])) * per_channel(norm[1])


def bn_act_bwd_reduce(dout, y, norm, out, dual_y, dual_norm, act):
    """g: dout where the activation let it pass; rows Σg, with y Σg·xhat, with dual_y its BN's Σg·xhat."""
    if act == "identity":
        g = dout.clone()
    else:
        # not "> 0": a NaN lets the gradient pass, as in ReLU's backward
        stopped = (_normalise(y, norm) if out is None else out) <= 0
        g = torch.where(stopped, 0, dout)
    wide = widen(g)
    sums = [wide.sum((0, 2, 3))]
    pairs = ((y, norm), (dual_y, dual_norm))
    sums += [(wide * _normalised(t, n)).sum((0, 2, 3)) for t, n in pairs if t is not None]
    return g, torch.stack(sums)


def bn_bwd_finalize(sums, norm, count):
    """The affine map of BN's backward: dy = scale*(g - Σg/M - xhat*Σg·xhat/M), written as a*g + b*y + c."""
    mean, invstd, a = norm[0], norm[1], norm[2]
    b = -a * invstd * sums[1] / count
    c = -a * sums[0] / count - b * mean
    return torch.stack((a, b, c))


def bn_act_bwd_apply(g, y, dnorm):
    """``a*g + b*y + c``, or ``a*g`` where the statistics were constants (no `y`)."""
    dy = widen(g) * per_channel(dnorm[0])
    if y is not None:
        dy = dy.addcmul_(widen(y), per_channel(dnorm[1])).add_(per_channel(dnorm[2]))
    return dy.to(g.dtype)
