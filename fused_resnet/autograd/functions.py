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

from . import chain, double_backward, inference, replay, stem
from .spec import PARAMS, ChainSpec, Saved, UnitParams, take, without_running_statistics


def _autocast_is_on(x):
    if x.is_cpu:  # names of devices take their time
        return torch.is_autocast_enabled("cpu")
    kind = x.device.type
    return is_autocast_available(kind) and torch.is_autocast_enabled(kind)  # not for the meta device


def autocast_dtype(x):
    """What autocast makes of x and of weights for a convolution; None where it is off. It casts no fp64."""
    return (
        torch.get_autocast_dtype(x.device.type) if _autocast_is_on(x) and x.dtype != torch.float64 else None
    )


def _without_autocast(x):
    return autocast(x.device.type, enabled=False) if _autocast_is_on(x) else nullcontext()


def run(function, *args):
    """The output of a Function; where there will be no backward, without what is for backward alone."""
    return function.apply(*args) if torch.is_grad_enabled() else function.infer(*args)


def recording(function, *args):
    """What `run` would replay without gradients; None where it would not."""
    return function.recording(*args)


class _Chain(Function):
    @staticmethod
    def _units(spec: ChainSpec, tensors):
        """The parameters of the main path's units, and the projection's or None."""
        units = take(tensors, len(tensors) // PARAMS, UnitParams)
        return (units, None) if spec.projection is None else (units[:-1], units[-1])

    @staticmethod
    def _train(spec: ChainSpec, inputs):
        """From x, the residual and all parameters: the output, and what every unit saves, in a row."""
        x, residual, *tensors = inputs
        params, projection = _Chain._units(spec, tensors)
        out, saved, kept_projection = chain.forward(spec, x, residual, params, projection)
        every = saved if projection is None else [*saved, kept_projection]
        return out, *(t for record in every for t in record)

    @staticmethod
    def _infer(spec: ChainSpec, inputs):
        """From x, the residual and all parameters: the output alone."""
        x, residual, *tensors = inputs
        params, projection = _Chain._units(spec, tensors)
        out = inference.run(spec, x, residual, params, projection)
        return (chain.forward(spec, x, residual, params, projection)[0] if out is None else out,)

    @staticmethod
    def infer(spec: ChainSpec, x, residual, *tensors):
        """The output alone."""
        with _without_autocast(x):
            return replay.run(_Chain._infer, spec, (x, residual, *tensors))[0]

    @staticmethod
    def recording(spec: ChainSpec, x, residual, *tensors):
        """What `infer` would replay, a recording of ``(x, residual, *tensors)``."""
        return replay.recording(_Chain._infer, spec, (x, residual, *tensors))

    @staticmethod
    def forward(ctx, spec: ChainSpec, x, residual, *tensors):
        with _without_autocast(x):
            out, *saved = replay.run(_Chain._train, spec, (x, residual, *tensors))
        ctx.spec = spec
        ctx.save_for_backward(out, x, residual, *without_running_statistics(tensors), *saved)
        ctx.set_materialize_grads(False)
        return out

    @staticmethod
    def backward(ctx, dout):
        spec: ChainSpec = ctx.spec
        need = ctx.needs_input_grad
        if dout is None:
            return (None,) * len(need)
        out, x, residual, *flat = ctx.saved_tensors
        with _without_autocast(dout):
            if torch.is_grad_enabled():  # create_graph=True: through ops that can be differentiated again
                units, saved = _Chain._records(spec, flat)
                return double_backward.chain(spec, dout, x, residual, units, saved, need)
            grads = replay.run(_Chain._gradients, spec, (dout, out, x, *flat), need)
        return grads if torch.compiler.is_compiling() else _Chain._laid_out(grads, flat)

    @staticmethod
    def _laid_out(grads, flat):
        """`grads` with those of 1x1 weights in the parameters' strides, which may differ where a size is 1.

        DistributedDataParallel looks at these, too.
        """
        for i in range(3, len(grads), PARAMS):
            grad, weight = grads[i], flat[i - 3]
            if grad is None or grad.stride() == weight.stride() or weight.shape[2:] != (1, 1):
                continue
            if grad.stride()[:2] == weight.stride()[:2]:
                strided = grad.as_strided(weight.shape, weight.stride())
                grads = (*grads[:i], strided, *grads[i + 1 :])
        return grads

    @staticmethod
    def _records(spec, flat):
        """The parameters of every unit, and what each of them saved."""
        width = len(spec.units) + (spec.projection is not None)
        return take(flat, width, UnitParams), take(flat[width * PARAMS :], width, Saved)

    @staticmethod
    def _gradients(spec, inputs, need):
        """From dout, out, x and the records: gradients in the order of the Function's arguments."""
        dout, out, x, *flat = inputs
        units, saved = _Chain._records(spec, flat)
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
    def _train(spec, inputs, pool):
        """From x and the parameters: the output, the maxima's places, and what the unit saves."""
        x, *tensors = inputs
        out, argmax, saved = stem.forward(spec, pool, x, UnitParams(*tensors))
        return out, argmax, *(chain.drop_recomputable(saved) if spec.recompute else saved)

    @staticmethod
    def _compute(spec, pool, x, *tensors):
        with _without_autocast(x):
            return replay.run(ConvBNActMaxPool._train, spec, (x, *tensors), pool)

    @staticmethod
    def infer(spec, pool, x, *tensors):
        """The output alone."""
        return ConvBNActMaxPool._compute(spec, pool, x, *tensors)[0]

    @staticmethod
    def recording(spec, pool, x, *tensors):
        """What `infer` would replay, a recording of ``(x, *tensors)``."""
        return replay.recording(ConvBNActMaxPool._train, spec, (x, *tensors), pool)

    @staticmethod
    def forward(ctx, spec, pool, x, *tensors):
        out, argmax, *saved = ConvBNActMaxPool._compute(spec, pool, x, *tensors)
        ctx.spec, ctx.pool = spec, pool
        ctx.save_for_backward(x, argmax, *without_running_statistics(tensors), *saved)
        ctx.set_materialize_grads(False)
        return out

    @staticmethod
    def backward(ctx, dout):
        need = ctx.needs_input_grad
        if dout is None:
            return (None,) * len(need)
        x, argmax, *flat = ctx.saved_tensors
        with _without_autocast(x):
            if torch.is_grad_enabled():
                params, saved = UnitParams(*flat[:PARAMS]), Saved(*flat[PARAMS:])
                return double_backward.stem(ctx.spec, ctx.pool, dout, x, params, saved, need)
            return replay.run(ConvBNActMaxPool._gradients, ctx.spec, (dout, argmax, x, *flat), ctx.pool, need)

    @staticmethod
    def _gradients(spec, inputs, pool, need):
        """Gradients in the order of the Function's arguments."""
        dout, argmax, x, *flat = inputs
        params, saved = UnitParams(*flat[:PARAMS]), Saved(*flat[PARAMS:])
        return stem.backward(spec, pool, dout, argmax, x, params, saved, need)
