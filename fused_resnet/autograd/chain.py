"""Forward and backward of a chain of units with a residual: the one algorithm behind every residual block."""

import torch
import torch.nn.functional as F

from ..ops.registry import copied, laid_out
from ..ops.registry import unchecked as ops
from . import unit
from .spec import ChainSpec, Operand, Saved, UnitParams
from .unit import Upstream


def pad_shortcut(x, stride, channels):
    """Option A of He et al. 2015: the subsampled input with zero channels appended, laid out as x."""
    padded = F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, channels - x.shape[1]))
    return laid_out(padded, x)


def given_shortcut(spec: ChainSpec, x, residual, channels):
    """The residual as an operand, but for projections; `channels` of the last unit."""
    if spec.shortcut == "pad":
        return Operand(pad_shortcut(x, spec.pad_stride, channels))
    given = {"none": None, "identity": x, "tensor": residual}[spec.shortcut]
    return None if given is None else Operand(given)


def forward(spec: ChainSpec, x, residual, params: list[UnitParams], projection: UnitParams | None):
    """Run the chain.

    Returns: the output, what each unit saved, and what the projection saved (or None).
    """
    operand, saved = Operand(x), []
    for unit_spec, unit_params in zip(spec.units[:-1], params[:-1], strict=True):
        operand, kept = unit.forward(unit_spec, unit_params, unit.read(unit_spec, operand))
        saved.append(_to_keep(spec, kept))
    operand = unit.read(spec.units[-1], operand)
    out, kept, kept_projection = _tail(spec, x, operand, residual, params[-1], projection)
    if kept_projection is not None:
        kept_projection = _to_keep(spec, kept_projection)
    return out, [*saved, _to_keep(spec, kept)], kept_projection


def _to_keep(spec: ChainSpec, saved: Saved) -> Saved:
    return drop_recomputable(saved) if spec.recompute else saved


def _tail(spec: ChainSpec, x, operand, residual, params: UnitParams, projection: UnitParams | None):
    """The last unit and the shortcut: the block's output, what each of them saved.

    The output is an output of the Function, saved there once, so that they need not.
    """
    last, kept_projection = spec.units[-1], None
    if spec.shortcut == "projection":
        if unit.dual(last, params) and unit.dual(spec.projection, projection, any_stride=True):
            kept_projection = unit.known_norm(spec.projection, projection, Operand(x))
            kept = unit.known_norm(last, params, operand)
            stride = spec.projection.conv.stride
            added = x, projection.weight, stride, kept_projection.norm
            return unit.dual_forward(last, params, operand, kept.norm, *added), kept, kept_projection
        shortcut, kept_projection = unit.forward(spec.projection, projection, Operand(x))
        kept_projection = _without_output(kept_projection)
    else:
        shortcut = given_shortcut(spec, x, residual, params.weight.shape[0])
    result, kept = unit.forward(last, params, operand, shortcut)
    out = result.tensor if result.norm is None else unit.finish(last, result, shortcut)
    return out, _without_output(kept), kept_projection


def _without_output(saved: Saved) -> Saved:
    return saved if saved.out is None else saved._replace(out=None)


def drop_recomputable(saved: Saved) -> Saved:
    """What `memory="min"` keeps of a unit: per-channel vectors."""
    return saved._replace(y=None, out=None, gram=None)


def rerun(spec: ChainSpec, x, params, saved, projection, kept_projection):
    """Fill in again what `drop_recomputable` dropped."""
    operand, full = Operand(x), []
    for i, (unit_spec, unit_params, kept) in enumerate(zip(spec.units, params, saved, strict=True)):
        last = i == len(params) - 1
        operand, kept = unit.rerun(unit_spec, unit_params, unit.read(unit_spec, operand), kept, last)
        full.append(kept)
    if kept_projection is not None:
        _, kept_projection = unit.rerun(spec.projection, projection, Operand(x), kept_projection, True)
    return full, kept_projection


def _operands(spec, x, saved):
    """What each unit of the chain read, in raw form."""
    operands = [Operand(x)]
    for unit_spec, kept in zip(spec.units[:-1], saved[:-1], strict=True):
        stored = kept.y is not None
        operands.append(Operand(kept.y, kept.norm, unit_spec.act) if stored else Operand(kept.out))
    return operands


def _tail_upstream(spec, params, read, dout, out, saved: Saved, kept_projection: Saved | None):
    """What arrives at the last unit, which reads `read` (None: of no use), and at the projection (or None).

    The projection's sums have memory of their own: both become gradients of two biases, which a user may
    change in place.
    """
    dual = kept_projection if kept_projection is not None and kept_projection.y is not None else None
    last = spec.units[-1]
    if read is not None and last.fold and last.act == "relu" and dual is None:
        up = unit.masked_upstream(last, params, read, dout, out)
        return up, None if kept_projection is None else Upstream(up.g, copied(up.sums))
    norm = saved.norm if saved.y is not None else None
    mask = out if last.act == "relu" else None
    second = (None, None) if dual is None else (dual.y, dual.norm)
    g, sums = ops.bn_act_bwd_reduce(dout, saved.y, norm, mask, *second, last.act)
    if kept_projection is None:
        return Upstream(g, sums), None
    own = sums[:2] if saved.y is not None else sums[:1]
    projection_sums = copied(sums[:1] if dual is None else sums[:: len(sums) - 1])
    return Upstream(g, own), Upstream(g, projection_sums)


def _shortcut_gradient(spec, g, x, projection_pull):
    """Gradient that reaches the block's input on the shortcut."""
    if spec.shortcut in ("none", "tensor"):
        return None
    if spec.shortcut == "identity":
        return g
    if spec.shortcut == "projection":
        return unit.input_gradient(spec.projection, projection_pull, Operand(x), None)
    dx = torch.zeros_like(x)
    dx[:, :, :: spec.pad_stride, :: spec.pad_stride] = g[:, : x.shape[1]]
    return dx


def backward(
    spec: ChainSpec, dout, out, x, params, saved, projection, kept_projection, need, needs, need_projection
):
    """Gradients of a chain.

    Here a training step's memory is at its peak: a tensor that has been read for the last time is let go of.

    Args: need: whether x and the residual need a gradient; needs, need_projection: per unit, which of its
    first four tensors do.
    Returns: dx or None, the residual's gradient or None, per-unit gradients, the projection's gradients.
    """
    need_x, need_residual = need
    if spec.recompute:
        saved, kept_projection = rerun(spec, x, params, saved, projection, kept_projection)
    saved, operands = list(saved), _operands(spec, x, saved)
    wanted = need_x or any(any(n) for n in needs)
    read = unit.read(spec.units[-1], operands[-1]) if wanted else None
    dout = laid_out(dout, out)
    up, projection_up = _tail_upstream(spec, params[-1], read, dout, out, saved[-1], kept_projection)
    grads, projection_grads, projection_pull = [[None] * 4 for _ in params], [None] * 4, None
    if spec.shortcut == "projection" and (need_x or any(need_projection)):
        projection_grads, projection_pull = unit.backward(
            spec.projection,
            projection,
            kept_projection,
            Operand(x),
            projection_up,
            need_projection,
            need_x,
        )
    g = up.g if need_x and spec.shortcut in ("identity", "pad") else None
    dx, residual_grad = None, up.g if need_residual else None
    dout = kept_projection = projection_up = None
    for i in reversed(range(len(params))):
        below = need_x or any(any(n) for n in needs[:i])
        if not below and not any(needs[i]):
            break
        operand = operands.pop()
        if read is None:
            read = unit.read(spec.units[i], operand)
        grads[i], pull = unit.backward(spec.units[i], params[i], saved.pop(), read, up, needs[i], below)
        up = None
        if not below:
            break
        if i == 0:
            shortcut = _shortcut_gradient(spec, g, x, projection_pull)
            g = projection_pull = None
            dx = unit.input_gradient(spec.units[0], pull, read, shortcut)
        elif operand.norm is not None:
            up = unit.input_gradient_reduce(spec.units[i], pull, read, operand)
        else:
            dz = unit.input_gradient(spec.units[i], pull, read, None)
            before = spec.units[i - 1].act
            up = Upstream(*ops.bn_act_bwd_reduce(dz, None, None, read.tensor, None, None, before))
        dz = operand = read = pull = None
    return dx, residual_grad, grads, projection_grads
