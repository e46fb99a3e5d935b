"""Backward with ``create_graph=True``: each unit once more in plain, twice differentiable torch operations."""

import torch
import torch.nn.functional as F

from .chain import pad_shortcut
from .spec import PARAMS, ChainSpec, UnitParams, UnitSpec, take


def _unit(spec: UnitSpec, params: UnitParams, x):
    """Convolution and normalisation of one unit, without its activation."""
    if spec.group is not None:
        raise NotImplementedError("double backward through batch statistics of several processes is not supported")
    batch = spec.norm == "batch"
    weight, bias = params.weight.to(x.dtype), params.conv_bias
    y = F.conv2d(x, weight, None if batch or bias is None else bias.to(x.dtype), *spec.conv)
    if spec.norm == "none":
        return y
    mean, var = (None, None) if batch else (params.running_mean, params.running_var)
    return F.batch_norm(y, mean, var, params.norm_weight, params.norm_bias, batch, 0.0, spec.eps)


def _activate(spec, y):
    return F.relu(y) if spec.act == "relu" else y


def _chain_output(spec: ChainSpec, x, residual, units):
    projection = units[len(spec.units)] if spec.projection is not None else None
    h = x
    for unit_spec, params in zip(spec.units[:-1], units, strict=False):
        h = _activate(unit_spec, _unit(unit_spec, params, h))
    last = len(spec.units) - 1
    h = _unit(spec.units[last], units[last], h)
    if spec.shortcut == "projection":
        h = h + _unit(spec.projection, projection, x)
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
    result = [None] * len(inputs)
    for i, grad in zip(wanted, grads, strict=True):
        result[i] = grad
    return result


def chain(spec: ChainSpec, dout, x, residual, tensors, need):
    """Gradients in the order of the Function's arguments (spec first)."""

    def function(x, residual, *tensors):
        return _chain_output(spec, x, residual, take(tensors, len(tensors) // PARAMS, UnitParams))

    return None, *_differentiate(function, [x, residual, *tensors], need[1:], dout)


def stem(spec: ChainSpec, pool, dout, x, tensors, need):
    """Gradients in the order of the Function's arguments (spec and pool first)."""

    def function(x, *tensors):
        unit_spec = spec.units[0]
        return F.max_pool2d(_activate(unit_spec, _unit(unit_spec, UnitParams(*tensors), x)), *pool)

    return None, None, *_differentiate(function, [x, *tensors], need[2:], dout)
