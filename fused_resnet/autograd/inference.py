"""A chain of units without a backward: one op, where the backend has whole blocks and all BNs are known."""

from types import NoneType
from typing import Any

import torch
from torch import Tensor

from .. import backends, ops
from ..backends import cpu
from ..ops.registry import cast, told, unchecked
from . import chain, unit
from .spec import ChainSpec, Operand, UnitParams, UnitSpec

OP = "conv_chain_fprop"
_PLAIN = frozenset((torch.Tensor, torch.nn.Parameter, NoneType))


def run(
    spec: ChainSpec,
    x: Tensor,
    residual: Tensor | None,
    units: list[UnitParams],
    projection: UnitParams | None,
) -> Tensor | None:
    """The chain's output, or None where it has to go unit by unit.

    It does where batch statistics have to be taken, where the planner gave a convolution to the library,
    under a compiler or a transform, which know single convolutions, and on another backend than the CPU's.
    """
    if not x.is_cpu or not _known(spec):
        return None
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return None
    groups = [u.conv.groups for u in spec.units]
    lists: list[list] = [[]] * 6
    asked = x, *lists, groups, None, None, (1, 1), residual, "relu"  # with what a backend looks at
    if not backends.goes_to("cpu", OP, asked):
        return None
    main = _main_path(spec.units, x, units)
    arguments = x, *main, groups, *_shortcut(spec, x, residual, units, projection), spec.units[-1].act
    tensors = (x, *main[0], *main[1], arguments[8], arguments[11])
    call = getattr(unchecked if _PLAIN.issuperset(map(type, tensors)) else ops, OP)
    return call(*arguments)


def _known(spec: ChainSpec) -> bool:
    """Are all BNs known beforehand, all convolutions a backend's own, all inner activations ReLU?"""
    every = spec.units if spec.projection is None else (*spec.units, spec.projection)
    known = all([u.norm != "batch" and u.prologue for u in every])
    return known and all([u.act == "relu" for u in spec.units[:-1]])


def _weight(params: UnitParams, x: Tensor) -> Tensor:
    if type(params.weight) not in _PLAIN:  # it may have no values to tell a change by: a fake tensor
        return cast(params.weight, x.dtype)
    return told("kept_cast", cpu.kept_cast, params.weight, x.dtype)


def _norm(spec: UnitSpec, params: UnitParams, x: Tensor) -> Tensor | None:
    return unit.known_norm(spec, params, Operand(x)).norm


def _main_path(specs: tuple[UnitSpec, ...], x: Tensor, units: list[UnitParams]) -> tuple[Any, ...]:
    """weights to dilations of `conv_chain_fprop`."""
    weights = [_weight(params, x) for params in units]
    biases = [None if p.conv_bias is None else cast(p.conv_bias, x.dtype) for p in units]
    norms = [_norm(spec, params, x) for spec, params in zip(specs, units, strict=True)]
    strides = [n for spec in specs for n in spec.conv.stride]
    paddings = [n for spec in specs for n in spec.conv.padding]
    dilations = [n for spec in specs for n in spec.conv.dilation]
    return weights, biases, norms, strides, paddings, dilations


def _shortcut(
    spec: ChainSpec,
    x: Tensor,
    residual: Tensor | None,
    units: list[UnitParams],
    projection: UnitParams | None,
) -> tuple[Tensor | None, Tensor | None, tuple[int, int], Tensor | None]:
    """projection_weight to residual."""
    none = None, None, (1, 1)
    if spec.projection is None or projection is None:
        operand = chain.given_shortcut(spec, x, residual, units[-1].weight.shape[0])
        return *none, None if operand is None else operand.tensor
    if unit.dual(spec.projection, projection, any_stride=True):
        norm = _norm(spec.projection, projection, x)
        return _weight(projection, x), norm, spec.projection.conv.stride, None
    return *none, unit.forward(spec.projection, projection, Operand(x))[0].tensor
