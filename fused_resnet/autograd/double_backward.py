"""Backward with ``create_graph=True``: each unit once more, in torch's twice differentiable operations."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .chain import pad_shortcut
from .spec import ChainSpec, UnitParams, UnitSpec, take


def _unit(spec: UnitSpec, params: UnitParams, norm, x):
    """Convolution and normalisation of one unit without its activation; `norm`: its frozen statistics."""
    if spec.group is not None:
        raise NotImplementedError("double backward through SyncBatchNorm's statistics is not supported")
    batch = spec.norm == "batch"
    weight, bias = params.weight.to(x.dtype), params.conv_bias
    y = F.conv2d(x, weight, None if batch or bias is None else bias.to(x.dtype), *spec.conv)
    if spec.norm == "none":
        return y
    mean, var, eps = (None, None, spec.eps) if batch else (norm[0], norm[1].pow(-2), 0.0)
    scale, shift = (None if t is None else t.to(norm.dtype) for t in (params.norm_weight, params.norm_bias))
    return F.batch_norm(y, mean, var, scale, shift, batch, 0.0, eps)


def _activate(spec, y):
    return F.relu(y) if spec.act == "relu" else y


def _chain_output(spec: ChainSpec, x, residual, units, norms):
    h, last = x, len(spec.units) - 1
    for unit_spec, params, norm in zip(spec.units[:last], units, norms, strict=False):
        h = _activate(unit_spec, _unit(unit_spec, params, norm, h))
    h = _unit(spec.units[last], units[last], norms[last], h)
    if spec.shortcut == "projection":
        h = h + _unit(spec.projection, units[-1], norms[-1], x)
    elif spec.shortcut == "pad":
        h = h + pad_shortcut(x, spec.pad_stride, h.shape[1])
    elif spec.shortcut != "none":
        h = h + (x if spec.shortcut == "identity" else residual)
    return _activate(spec.units[last], h)


def _differentiate(function, inputs, need, dout):
    """Gradients of ``function(*inputs)`` that can themselves be differentiated.

    The function sees views, so that only its own use of an input counts, not the input's history.
    """
    views = [t.view_as(t) if isinstance(t, torch.Tensor) else t for t in inputs]
    wanted = [i for i, n in enumerate(need) if n]
    out = function(*views)
    grads = torch.autograd.grad(out, [views[i] for i in wanted], dout, create_graph=True, allow_unused=True)
    result: list[Tensor | None] = [None] * len(inputs)
    for i, grad in zip(wanted, grads, strict=True):
        result[i] = grad
    return result


def chain(spec: ChainSpec, dout, x, residual, units, saved, need):
    """Gradients in the order of the Function's arguments (spec first)."""

    def function(x, residual, *tensors):
        return _chain_output(spec, x, residual, take(tensors, len(units), UnitParams), norms)

    norms = [s.norm for s in saved]
    tensors = [t for params in units for t in params]
    return None, *_differentiate(function, [x, residual, *tensors], need[1:], dout)


def stem(spec: ChainSpec, pool, dout, x, params, saved, need):
    """Gradients in the order of the Function's arguments (spec and pool first)."""

    def function(x, *tensors):
        h = _unit(spec.units[0], UnitParams(*tensors), saved.norm, x)
        return F.max_pool2d(_activate(spec.units[0], h), *pool)

    return None, None, *_differentiate(function, [x, *params], need[2:], dout)
