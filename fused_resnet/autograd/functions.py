"""The `torch.autograd.Function` of each fused unit.

All residual units share one calling convention, ``Unit.apply(spec, x, residual, *tensors)``: tensors are the
`UnitParams` of every unit of the chain one after another, then those of the projection shortcut if there is one.
They run with autocast off: the caller casts x, and weights are cast to x's dtype inside, so that their gradients
keep fp32.
"""

import torch
from torch.amp import autocast
from torch.autograd import Function

from . import chain, double_backward, stem
from .spec import PARAMS, SAVED, ChainSpec, Saved, UnitParams, layout, take


def _without_autocast(device_type):
    return autocast(device_type, enabled=False)


class _Chain(Function):
    @staticmethod
    def forward(ctx, spec: ChainSpec, x, residual, *tensors):
        units = take(tensors, len(tensors) // PARAMS, UnitParams)
        params, projection = units[: len(spec.units)], units[len(spec.units)] if spec.projection is not None else None
        with _without_autocast(x.device.type):
            out, saved, kept_projection = chain.forward(spec, x, residual, params, projection)
        saved = saved if kept_projection is None else [*saved, kept_projection]
        if spec.recompute:
            saved = [chain.drop_recomputable(s) for s in saved]
        ctx.spec, ctx.residual_given = spec, residual is not None
        ctx.save_for_backward(out, x, *tensors, *(t for s in saved for t in s), residual)
        ctx.set_materialize_grads(False)
        return out

    @staticmethod
    def backward(ctx, dout):
        spec: ChainSpec = ctx.spec
        out, x, *flat, residual = ctx.saved_tensors
        width = len(spec.units) + (spec.projection is not None)
        tensors, saved = flat[: width * PARAMS], take(flat[width * PARAMS :], width, Saved)
        need = ctx.needs_input_grad
        if dout is None:
            return (None,) * len(need)
        if torch.is_grad_enabled():  # create_graph=True: through ops that autograd can differentiate again
            return double_backward.chain(spec, dout, x, residual, tensors, need)
        with _without_autocast(x.device.type):
            return _Chain._gradients(spec, dout, out, x, tensors, saved, need)

    @staticmethod
    def _gradients(spec, dout, out, x, tensors, saved, need):
        units = take(tensors, len(saved), UnitParams)
        needs = [need[3 + i * PARAMS :][:4] for i in range(len(units))]
        main = len(spec.units)
        params, kept = units[:main], saved[:main]
        projection, kept_projection, need_projection = None, None, (False,) * 4
        if spec.projection is not None:
            projection, kept_projection, need_projection = units[main], saved[main], needs[main]
        if spec.recompute:
            kept, kept_projection = chain.rerun(spec, x, params, kept, projection, kept_projection)
        dout = dout.contiguous(memory_format=layout(out))
        dx, g, grads, projection_grads = chain.backward(
            spec, dout, out, x, params, kept, projection, kept_projection, need[1], needs[:main], need_projection
        )
        every = grads if projection is None else [*grads, projection_grads]
        flat = [t for unit_grads in every for t in (*unit_grads, None, None)]
        return None, dx if need[1] else None, g if need[2] else None, *flat


class ConvBNAct(_Chain):
    """One unit: ``act(bn(conv(x)))``, or ``act(conv(x) + bias)``.

    Equivalent to ``F.relu(F.batch_norm(F.conv2d(x, weight), running_mean, running_var, gamma, beta, training))``.
    """


class ConvBNAddAct(_Chain):
    """One unit with a residual: ``act(bn(conv(x)) + residual)``."""


class BasicBlock(_Chain):
    """Two 3x3 units and a shortcut (He et al. 2015, figure 5 left): ``relu(bn2(conv2(relu(bn1(conv1(x))))) + s(x))``."""


class Bottleneck(_Chain):
    """1x1, 3x3, 1x1 units and a shortcut (He et al. 2015, figure 5 right)."""


class ConvBNActMaxPool(Function):
    """The stem: ``max_pool2d(relu(bn(conv(x))))``; ``apply(spec, pool, x, *UnitParams)``."""

    @staticmethod
    def forward(ctx, spec, pool, x, *tensors):
        params = UnitParams(*tensors)
        with _without_autocast(x.device.type):
            out, argmax, saved = stem.forward(spec, pool, x, params)
        if spec.recompute:
            saved = chain.drop_recomputable(saved)
        ctx.spec, ctx.pool = spec, pool
        ctx.save_for_backward(x, argmax, *tensors, *saved)
        ctx.set_materialize_grads(False)
        return out

    @staticmethod
    def backward(ctx, dout):
        x, argmax, *flat = ctx.saved_tensors
        tensors, saved = flat[:PARAMS], Saved(*flat[PARAMS : PARAMS + SAVED])
        need = ctx.needs_input_grad
        if dout is None:
            return (None,) * len(need)
        if torch.is_grad_enabled():
            return double_backward.stem(ctx.spec, ctx.pool, dout, x, tensors, need)
        with _without_autocast(x.device.type):
            return stem.backward(ctx.spec, ctx.pool, dout, argmax, x, UnitParams(*tensors), saved, need)
