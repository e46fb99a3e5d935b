"""A fused unit: a callable that reads its parameters off the user's own modules and runs them as one Function."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .. import autograd, planner
from ..autograd import ChainSpec, Geometry, Pool, UnitParams, UnitSpec
from . import checks
from .plain import is_frozen_batch_norm, why_not
from .record import recorders
from .statistics import count_batch, statistics

FUNCTIONS = {
    "conv_bn_act": autograd.ConvBNAct,
    "conv_bn_add_act": autograd.ConvBNAddAct,
    "basic_block": autograd.BasicBlock,
    "bottleneck": autograd.Bottleneck,
    "conv_bn_act_maxpool": autograd.ConvBNActMaxPool,
}


@dataclass(frozen=True)
class FusedUnit:
    """What is fused; the modules come with every call, so that replacing, moving or freezing them just works.

    Call: ``unit(x, residual, *modules)`` with modules = (conv, bn or None, relu or None) per unit of the main path, then
    the projection's (conv, bn), the zero-padding shortcut's module, or the stem's max-pool.

    kind: a key of FUNCTIONS; depth: units on the main path; shortcut: as in `ChainSpec`; inplace_add: the stock code adds
    the shortcut in place, so the sum keeps the main path's dtype; memory: "speed", "balanced" or "min".
    """

    kind: str
    depth: int
    shortcut: str = "none"
    inplace_add: bool = True
    memory: str = "balanced"

    @property
    def __name__(self):
        return self.kind

    def __call__(self, x, residual, *modules):
        checks.input_tensor(x)
        if x.numel() == 0 or any(m is not None and why_not(m) for m in modules):
            return self.stock(x, residual, modules)
        dtype = _compute_dtype(x)
        if self._keeps_wider_dtype(x, residual, modules, dtype):
            return self.stock(x, residual, modules)
        units = [modules[3 * i : 3 * i + 3] for i in range(self.depth)]
        projection = modules[3 * self.depth :] if self.shortcut == "projection" else None
        stats, shapes = self._check(x, residual, units, projection, dtype != x.dtype, modules)
        plan = planner.plan_chain(shapes, [s.norm == "batch" for s in stats], self.memory, x.device.type)
        spec = self._spec(units, projection, stats, plan, modules)
        for recorder in recorders:
            recorder(self, x, modules, shapes, plan, spec)
        bns = [u[1] for u in units] + ([projection[1]] if projection else [])
        for bn in bns:
            count_batch(bn)
        convs = [u[0] for u in units] + ([projection[0]] if projection else [])
        tensors = [t for conv, bn in zip(convs, bns, strict=True) for t in _parameters(conv, bn)]
        x = x.to(dtype)
        if self.kind == "conv_bn_act_maxpool":
            return autograd.ConvBNActMaxPool.apply(spec, _pool(modules[-1]), x, *tensors)
        residual = residual.to(dtype) if self.shortcut == "tensor" else None
        return FUNCTIONS[self.kind].apply(spec, x, residual, *tensors)

    def _keeps_wider_dtype(self, x, residual, modules, dtype) -> bool:
        """Under autocast, cases where stock code computes or returns a wider dtype than the convolution's."""
        if any(m is not None and is_frozen_batch_norm(m) and m.weight.dtype != dtype for m in modules):
            return True
        added = {"tensor": residual, "identity": x, "pad": x}.get(self.shortcut)
        return added is not None and not self.inplace_add and added.dtype != dtype

    def _check(self, x, residual, units, projection, autocast, modules):
        """Statistics and shapes of every unit; raises before anything has run or changed."""
        shape, all_stats, shapes = tuple(x.shape), [], []
        for i, (conv, bn, _) in enumerate(units):
            all_stats.append(statistics(bn))
            shape, sizes = checks.unit(i, conv, bn, x, shape, autocast, all_stats[-1])
            shapes.append(sizes)
        if projection is not None:
            all_stats.append(statistics(projection[1]))
            got, sizes = checks.unit("shortcut", *projection, x, tuple(x.shape), autocast, all_stats[-1])
            shapes.append(sizes)
            _same_shape("the projection shortcut", got, shape)
        elif self.shortcut == "identity":
            _same_shape("x (the identity shortcut)", tuple(x.shape), shape)
        elif self.shortcut == "pad":
            pad = modules[-1]
            height, width = (-(-n // pad.stride) for n in x.shape[2:])
            _same_shape("the zero-padding shortcut", (x.shape[0], pad.out_channels, height, width), shape)
        elif self.shortcut == "tensor":
            checks.residual_tensor(residual, x, shape)
        return all_stats, shapes

    def _spec(self, units, projection, stats, plan, modules):
        specs = [
            UnitSpec(_geometry(conv), s.norm, "relu", s.eps, s.momentum, fold, s.group)
            for (conv, _, _), s, fold in zip(units, stats, plan.fold, strict=False)
        ]
        extra = None
        if projection is not None:
            s = stats[-1]
            extra = UnitSpec(
                _geometry(projection[0]), s.norm, "identity", s.eps, s.momentum, plan.fold[-1], s.group
            )
        pad_stride = modules[-1].stride if self.shortcut == "pad" else 1
        return ChainSpec(tuple(specs), self.shortcut, extra, pad_stride, plan.recompute, plan.prologue)

    def stock(self, x, residual, modules):
        """The same computation by calling the modules themselves, with whatever is attached to them."""
        h = x
        for i in range(self.depth):
            conv, bn, act = modules[3 * i : 3 * i + 3]
            h = conv(h)
            h = h if bn is None else bn(h)
            if i == self.depth - 1 and self.shortcut != "none":
                h = self._stock_add(h, x, residual, modules)
            h = F.relu(h) if act is None else act(h)
        return modules[-1](h) if self.kind == "conv_bn_act_maxpool" else h

    def _stock_add(self, h, x, residual, modules):
        if self.shortcut == "projection":
            conv, bn = modules[-2:]
            added = conv(x) if bn is None else bn(conv(x))
        elif self.shortcut == "pad":
            added = modules[-1](x)
        else:
            added = x if self.shortcut == "identity" else residual
        return h.add_(added) if self.inplace_add else h + added


def _same_shape(name, got, expected):
    if got != expected:
        raise ValueError(f"{name}: expected shape {expected} of the main path, got {got}")


def _compute_dtype(x):
    """The dtype that a convolution of x runs in: autocast's where it is on (fp64 is never cast)."""
    kind = x.device.type
    if x.dtype != torch.float64 and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return x.dtype


def _geometry(conv) -> Geometry:
    return Geometry(conv.stride, conv.padding, conv.dilation, conv.groups)


def _parameters(conv, bn) -> UnitParams:
    if bn is None:
        return UnitParams(conv.weight, conv.bias, None, None, None, None)
    return UnitParams(conv.weight, conv.bias, bn.weight, bn.bias, bn.running_mean, bn.running_var)


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def _pool(pool) -> Pool:
    stride = pool.kernel_size if pool.stride is None else pool.stride
    return Pool(_pair(pool.kernel_size), _pair(stride), _pair(pool.padding))
