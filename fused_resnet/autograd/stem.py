"""The stem, convolution → BN → activation → max-pool: the normalised full-size map is never written."""

from typing import NamedTuple

from ..ops.registry import laid_out
from ..ops.registry import unchecked as ops
from . import unit
from .spec import ChainSpec, Operand, UnitParams
from .unit import Upstream


class Pool(NamedTuple):
    """Window of a max-pool, (height, width) each."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]


def forward(spec: ChainSpec, pool: Pool, x, params: UnitParams):
    """Returns the pooled output, the argmax bytes, and what the unit saved."""
    result, saved = unit.raw_forward(spec.units[0], params, Operand(x))
    out, argmax = ops.bn_act_maxpool(result.tensor, result.norm, result.act, *pool)
    return out, argmax, saved


def backward(spec: ChainSpec, pool: Pool, dout, argmax, x, params: UnitParams, saved, need):
    """Gradients in the order of the Function's arguments."""
    unit_spec = spec.units[0]
    if spec.recompute:
        _, saved = unit.raw_rerun(unit_spec, params, Operand(x), saved)
    y, norm, act = saved.y, saved.norm, unit_spec.act
    up = Upstream(*ops.bn_act_maxpool_bwd_reduce(laid_out(dout, y), argmax, y, norm, act, *pool))
    grads, pull = unit.backward(unit_spec, params, saved, Operand(x), up, need[3:7], need[2])
    dx = unit.input_gradient(unit_spec, pull, Operand(x), None) if need[2] else None
    return None, None, dx, *grads, None, None
