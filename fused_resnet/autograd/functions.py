"""The `torch.autograd.Function` of each fused unit.

All residual units share one calling convention, ``Unit.apply(spec, x, residual, *tensors)``: tensors are the
`UnitParams` of every unit of the chain one after another, then those of the projection shortcut if there is
one. They run with autocast off: the caller casts x, and weights are cast to x's dtype inside, so that their
gradients keep fp32.
"""

from contextlib import nullcontext

import torch
from torch.amp import autocast, is_autocast_available
from torch.autograd import Function

from . import chain, double_backward, inference, stem
from .spec import PARAMS, ChainSpec, Saved, UnitParams, take, without_running_statistics


def _without_autocast(device_type):
    known = is_autocast_available(device_type)  # not for the meta device
    on = known and torch.is_autocast_enabled(device_type)
    return autocast(device_type, enabled=False) if on else nullcontext()


def run(function, *args):
    """The output of a Function; where there will be no backward, without what is for backward alone."""
    return function.apply(*args) if torch.is_grad_enabled() else function.infer(*args)


class _Chain(Function):
    @staticmethod
    def compute(spec: ChainSpec, x, residual, *tensors):
        """The output, the parameters of every unit, and what each of them saved."""
        params, projection = _Chain._units(spec, tensors)
        with _without_autocast(x.device.type):
            out, saved, kept_projection = chain.forward(spec, x, residual, params, projection)
        if projection is None:
            return out, params, saved
        return out, [*params, projection], [*saved, kept_projection]

    @staticmethod
    def infer(spec: ChainSpec, x, residual, *tensors):
        """The output alone."""
        params, projection = _Chain._units(spec, tensors)
        with _without_autocast(x.device.type):
            out = inference.run(spec, x, residual, params, projection)
            return chain.forward(spec, x, residual, params, projection)[0] if out is None else out

    @staticmethod
    def _units(spec: ChainSpec, tensors):
        """The parameters of the main path's units, and the projection's or None."""
        units = take(tensors, len(tensors) // PARAMS, UnitParams)
        return (units, None) if spec.projection is None else (units[:-1], units[-1])

    @staticmethod
    def forward(ctx, spec: ChainSpec, x, residual, *tensors):
        out, units, saved = _Chain.compute(spec, x, residual, *tensors)
        ctx.spec = spec
        kept = (t for record in (*map(without_running_statistics, units), *saved) for t in record)
        ctx.save_for_backward(out, x, residual, *kept)
        ctx.set_materialize_grads(False)
        return out

    @staticmethod
    def backward(ctx, dout):
        spec: ChainSpec = ctx.spec
        out, x, residual, *flat = ctx.saved_tensors
        width = len(spec.units) + (spec.projection is not None)
        units, saved = take(flat, width, UnitParams), take(flat[width * PARAMS :], width, Saved)
        need = ctx.needs_input_grad
        if dout is None:
            return (None,) * len(need)
        with _without_autocast(x.device.type):
            if torch.is_grad_enabled():  # create_graph=True: through ops that can be differentiated again
                return double_backward.chain(spec, dout, x, residual, units, saved, need)
            return _Chain._gradients(spec, dout, out, x, units, saved, need)

    @staticmethod
    def _gradients(spec, dout, out, x, units, saved, need):
        needs = [need[3 + i * PARAMS :][:4] for i in range(len(units))]
        main = len(spec.units)
        params, kept = units[:main], saved[:main]
        projection, kept_projection, need_projection = None, None, (False,) * 4
        if spec.projection is not None:
            projection, kept_projection, need_projection = units[main], saved[main], needs[main]
        dx, residual_grad, grads, projection_grads = chain.backward(
            spec,
            dout,
            out,
            x,
            params,
            kept,
            projection,
            kept_projection,
            need[1:3],
            needs[:main],
            need_projection,
        )
        every = grads if projection is None else [*grads, projection_grads]
        flat = [t for unit_grads in every for t in (*unit_grads, None, None)]
        return None, dx, residual_grad, *flat


class ConvBNAct(_Chain):
    """One unit: ``act(bn(conv(x)))``, or ``act(conv(x) + bias)``.

    Equivalent to
    ``F.relu(F.batch_norm(F.conv2d(x, weight), running_mean, running_var, gamma, beta, training))``.
    """


class ConvBNAddAct(_Chain):
    """One unit with a residual: ``act(bn(conv(x)) + residual)``."""


class BasicBlock(_Chain):
    """Two 3x3 units and a shortcut (He et al. 2015, figure 5 left)."""


class Bottleneck(_Chain):
    """1x1, 3x3, 1x1 units and a shortcut (He et al. 2015, figure 5 right)."""


class ConvBNActMaxPool(Function):
    """The stem: ``max_pool2d(relu(bn(conv(x))))``, always with a batch norm.

    Called as ``apply(spec, pool, x, *UnitParams)``.
    """

    @staticmethod
    def compute(spec, pool, x, *tensors):
        """The output, the maxima's places, and what the unit saved."""
        with _without_autocast(x.device.type):
            return stem.forward(spec, pool, x, UnitParams(*tensors))

    @staticmethod
    def infer(spec, pool, x, *tensors):
        """The output alone."""
        return ConvBNActMaxPool.compute(spec, pool, x, *tensors)[0]

    @staticmethod
    def forward(ctx, spec, pool, x, *tensors):
        out, argmax, saved = ConvBNActMaxPool.compute(spec, pool, x, *tensors)
        params = UnitParams(*tensors)
        if spec.recompute:
            saved = chain.drop_recomputable(saved)
        ctx.spec, ctx.pool = spec, pool
        ctx.save_for_backward(x, argmax, *without_running_statistics(params), *saved)
        ctx.set_materialize_grads(False)
        return out

    @staticmethod
    def backward(ctx, dout):
        x, argmax, *flat = ctx.saved_tensors
        params, saved = UnitParams(*flat[:PARAMS]), Saved(*flat[PARAMS:])
        need = ctx.needs_input_grad
        if dout is None:
            return (None,) * len(need)
        with _without_autocast(x.device.type):
            if torch.is_grad_enabled():
                return double_backward.stem(ctx.spec, ctx.pool, dout, x, params, saved, need)
            return stem.backward(ctx.spec, ctx.pool, dout, argmax, x, params, saved, need)
