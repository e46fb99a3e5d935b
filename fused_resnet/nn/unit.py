"""A fused unit: reads its parameters off the user's own modules and runs them as one autograd Function."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .. import autograd, planner
from ..autograd import ChainSpec, Geometry, Pool, UnitParams, UnitSpec
from . import checks
from .plain import (
    is_frozen_batch_norm,
    why_not_batch_norm,
    why_not_convolution,
    why_not_pad,
    why_not_pool,
    why_not_relu,
)
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

    Call: ``unit(x, residual, *modules)`` with modules = (conv, bn or None, relu or None) per unit of the main
    path, then the projection's (conv, bn), the zero-padding shortcut's module, or the stem's max-pool.

    kind: a key of FUNCTIONS; depth: units on the main path; shortcut: as in `ChainSpec`; memory: "speed",
    "balanced" or "min"; inplace_add: the stock code adds the shortcut in place, so that the sum keeps the
    main path's dtype.
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
        units, projection, last = self.split(modules)
        if _is_unbatched(x, units) or self._changed(units, projection, last):
            return self.stock(x, residual, modules)
        checks.input_tensor(x)
        autocast = _autocast_dtype(x)
        dtype = autocast or x.dtype
        if self._keeps_wider_dtype(x, residual, modules, dtype):
            return self.stock(x, residual, modules)
        stats, shapes, out, projected = self._check(x, units, projection, autocast is not None)
        synced = any(s.group is not None for s in stats)  # the other processes wait for this one's statistics
        if (x.numel() == 0 and not synced) or not self._adds_like(out, x, residual, projected, last):
            return self.stock(x, residual, modules)
        cast = x.to(dtype)
        norms = [s.norm for s in stats]
        plan = planner.plan_chain(shapes, norms, self.memory, cast, self.depth, synced)
        spec = self._spec(units, projection, last, stats, plan)
        for recorder in recorders:
            recorder(self, x, modules, shapes, plan, spec)
        layers = [*(u[:2] for u in units), *([projection] if projection else [])]
        for _, bn in layers:
            count_batch(bn)
        tensors = [t for layer in layers for t in _parameters(*layer)]
        if self.kind == "conv_bn_act_maxpool":
            return autograd.ConvBNActMaxPool.apply(spec, _pool(last), cast, *tensors)
        residual = residual.to(dtype) if self.shortcut == "tensor" else None
        return FUNCTIONS[self.kind].apply(spec, cast, residual, *tensors)

    def split(self, modules):
        """By role: (conv, bn, relu) of each unit; (conv, bn) of the projection or None; pad, pool or None."""
        units = [modules[3 * i : 3 * i + 3] for i in range(self.depth)]
        rest = modules[3 * self.depth :]
        projection = rest if self.shortcut == "projection" else None
        return units, projection, rest[0] if rest and projection is None else None

    def _changed(self, units, projection, last) -> bool:
        """Was a module replaced by another kind, or something attached to it, since it was fused?"""
        layers = [*units, (*projection, None)] if projection else units
        for conv, bn, relu in layers:
            if why_not_convolution(conv) or (bn is not None and why_not_batch_norm(bn)):
                return True
            if relu is not None and why_not_relu(relu):
                return True
        if last is None:
            return False
        return (why_not_pad(last) if self.shortcut == "pad" else why_not_pool(last)) is not None

    def _keeps_wider_dtype(self, x, residual, modules, dtype) -> bool:
        """Under autocast, cases where stock code computes or returns a wider dtype than the convolution's."""
        if any(m is not None and is_frozen_batch_norm(m) and m.weight.dtype != dtype for m in modules):
            return True
        added = {"tensor": residual, "identity": x, "pad": x}.get(self.shortcut)
        return not self.inplace_add and isinstance(added, torch.Tensor) and added.dtype != dtype

    def _check(self, x, units, projection, autocast):
        """Statistics and shapes of every unit, the output's shape and the projection's (or None).

        Raises before anything has run or changed.
        """
        out, all_stats, shapes, projected = tuple(x.shape), [], [], None
        for i, (conv, bn, _) in enumerate(units):
            all_stats.append(statistics(bn))
            out, sizes = checks.unit(f"unit {i}", conv, bn, x, out, autocast, all_stats[-1])
            shapes.append(sizes)
        if projection is not None:
            all_stats.append(statistics(projection[1]))
            name = "the projection shortcut"
            conv, bn = projection
            projected, sizes = checks.unit(name, conv, bn, x, tuple(x.shape), autocast, all_stats[-1])
            shapes.append(sizes)
        return all_stats, shapes, out, projected

    def _adds_like(self, out, x, residual, projected, last) -> bool:
        """Has the shortcut the main path's shape? If not, stock code broadcasts one of them, or raises."""
        if self.shortcut == "identity":
            return checks.same_shape("x (the identity shortcut)", tuple(x.shape), out)
        if self.shortcut == "projection":
            return checks.same_shape("the projection shortcut", projected, out)
        if self.shortcut == "pad":
            height, width = (-(-n // last.stride) for n in x.shape[2:])
            padded = (x.shape[0], last.out_channels, height, width)
            return checks.same_shape("the zero-padding shortcut", padded, out)
        return self.shortcut == "none" or checks.residual_tensor(residual, x, out)

    def _spec(self, units, projection, last, stats, plan):
        layers = [(conv, "relu") for conv, _, _ in units]
        if projection is not None:
            layers.append((projection[0], "identity"))
        specs = tuple(
            UnitSpec(_geometry(conv), s.norm, act, s.eps, s.momentum, fold, s.group, engine != "library")
            for (conv, act), s, fold, engine in zip(layers, stats, plan.fold, plan.engines, strict=True)
        )
        extra = specs[-1] if projection is not None else None
        pad_stride = last.stride if self.shortcut == "pad" else 1
        return ChainSpec(specs[: self.depth], self.shortcut, extra, pad_stride, plan.recompute)

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


def _is_unbatched(x, units) -> bool:
    """``[C, H, W]``, which convolutions take and batch norms do not."""
    return isinstance(x, torch.Tensor) and x.dim() == 3 and all(bn is None for _, bn, _ in units)


def _autocast_dtype(x):
    """What autocast makes of x and of weights for a convolution; None where it is off. It casts no fp64."""
    kind = x.device.type
    enabled = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if enabled and x.dtype != torch.float64 else None


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
