"""A fused unit: reads its parameters off the user's own modules and runs them as one autograd Function."""

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .. import autograd, planner
from ..autograd import ChainSpec, Pool, UnitSpec
from ..planner import ConvShape, Plan
from . import again, checks
from .checks import Input
from .layer import TENSORS, Layer, read
from .plain import (
    why_not_batch_norm,
    why_not_convolution,
    why_not_pad,
    why_not_pool,
    why_not_relu,
)
from .record import recorders
from .statistics import count_batch

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

    @property
    def is_stem(self) -> bool:
        return self.kind == "conv_bn_act_maxpool"

    def __call__(self, x, residual, *modules):
        out = again.run(self, x, residual, modules)
        return self._look(x, residual, modules) if out is None else out

    def _look(self, x, residual, modules):
        """A call that reads the modules, as the first one does."""
        units, projection, last = self.split(modules)
        if _is_unbatched(x, units) or self._changed(units, projection, last):
            return self.stock(x, residual, modules)
        checks.input_tensor(x)
        autocast = autograd.autocast_dtype(x)
        dtype = autocast or x.dtype
        convolutions = [*(u[:2] for u in units), *([projection] if projection else [])]
        layers, params = zip(*[read(conv, bn) for conv, bn in convolutions], strict=True)
        if self._keeps_wider_dtype(x, residual, layers, dtype):
            return self.stock(x, residual, modules)
        plain = _plain(x, layers)
        facts = layers, Input(x.shape, x.dtype, x.device), self.depth, autocast is not None, self.memory
        fit = _known_fit(*facts) if plain else _fit(*facts)
        if (x.numel() == 0 and not fit.synced) or not self._adds_like(fit, x, residual, last):
            return self.stock(x, residual, modules)
        cast = x if dtype == x.dtype else x.to(dtype)
        plan = planner.plan_chain(fit.shapes, fit.norms, fit.fold, self.memory, cast, self.depth)
        pad_stride = last.stride if self.shortcut == "pad" else 1
        choices = fit, plan, self.depth, self.shortcut, pad_stride
        spec = _known_spec(*choices) if plain else _spec(*choices)
        for recorder in recorders:
            recorder(self, x, modules, fit.shapes, plan, spec)
        count_batch([bn for _, bn in convolutions])
        tensors = [t for layer in params for t in layer]
        if self.is_stem:
            given = spec, _pool(last), cast, *tensors
        else:
            given = spec, cast, residual.to(dtype) if self.shortcut == "tensor" else None, *tensors
        out = autograd.run(FUNCTIONS[self.kind], *given)
        if plain and not torch.is_grad_enabled() and "batch" not in fit.norms:
            again.keep(self, x, modules, self._names(), autograd.recording(FUNCTIONS[self.kind], *given))
        return out

    def _names(self) -> tuple[tuple[str, ...], ...]:
        """Of the tensors that are read off each of the modules."""
        unit: tuple[tuple[str, ...], ...] = (*TENSORS, ())
        rest: tuple[tuple[str, ...], ...] = ()
        if self.shortcut == "projection":
            rest = TENSORS
        elif self.shortcut == "pad" or self.is_stem:
            rest = ((),)
        return unit * self.depth + rest

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

    def _keeps_wider_dtype(self, x, residual, layers, dtype) -> bool:
        """Under autocast, cases where stock code computes or returns a wider dtype than the convolution's."""
        if any([layer.frozen_dtype not in (None, dtype) for layer in layers]):
            return True
        added = {"tensor": residual, "identity": x, "pad": x}.get(self.shortcut)
        return not self.inplace_add and isinstance(added, torch.Tensor) and added.dtype != dtype

    def _adds_like(self, fit, x, residual, last) -> bool:
        """Has the shortcut the main path's shape? If not, stock code broadcasts one of them, or raises."""
        if self.shortcut == "identity":
            return checks.same_shape("x (the identity shortcut)", tuple(x.shape), fit.out)
        if self.shortcut == "projection":
            return checks.same_shape("the projection shortcut", fit.projected, fit.out)
        if self.shortcut == "pad":
            height, width = (-(-n // last.stride) for n in x.shape[2:])
            padded = (x.shape[0], last.out_channels, height, width)
            return checks.same_shape("the zero-padding shortcut", padded, fit.out)
        return self.shortcut == "none" or checks.residual_tensor(residual, x, fit.out)

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
        return modules[-1](h) if self.is_stem else h

    def _stock_add(self, h, x, residual, modules):
        if self.shortcut == "projection":
            conv, bn = modules[-2:]
            added = conv(x) if bn is None else bn(conv(x))
        elif self.shortcut == "pad":
            added = modules[-1](x)
        else:
            added = x if self.shortcut == "identity" else residual
        return h.add_(added) if self.inplace_add else h + added


@dataclass(frozen=True, eq=False)  # itself a key, by identity
class Fit:
    """How an input fits a unit's layers.

    fold: as in `Plan`; projected: the shape of the projection shortcut, None without; synced: do other
    processes wait for this one's statistics?
    """

    layers: tuple[Layer, ...]
    shapes: tuple[ConvShape, ...]
    norms: tuple[str, ...]
    fold: tuple[bool, ...]
    out: tuple[int, ...]
    projected: tuple[int, ...] | None
    synced: bool


def _fit(layers: tuple[Layer, ...], x: Input, depth: int, autocast: bool, memory: str) -> Fit:
    """Shapes of every layer, the main path's `depth` ones and the projection.

    Raises before anything has run or changed.
    """
    out, shapes, projected = tuple(x.shape), [], None
    for i, layer in enumerate(layers[:depth]):
        out, sizes = checks.unit(f"unit {i}", layer, x, out, autocast)
        shapes.append(sizes)
    for layer in layers[depth:]:
        projected, sizes = checks.unit("the projection shortcut", layer, x, tuple(x.shape), autocast)
        shapes.append(sizes)
    norms = tuple([layer.stats.norm for layer in layers])
    synced = any([layer.stats.group is not None for layer in layers])
    fold = planner.fold_chain(shapes, norms, memory, synced)
    return Fit(layers, tuple(shapes), norms, fold, out, projected, synced)


def _spec(fit: Fit, plan: Plan, depth: int, shortcut: str, pad_stride: int) -> ChainSpec:
    specs = []
    for i, (layer, fold, engine) in enumerate(zip(fit.layers, plan.fold, plan.engines, strict=True)):
        stats, act = layer.stats, "relu" if i < depth else "identity"
        statistics = stats.norm, act, stats.eps, stats.momentum, fold, stats.group
        specs.append(UnitSpec(layer.conv, *statistics, engine != "library"))
    projection = specs[depth] if len(specs) > depth else None
    return ChainSpec(tuple(specs[:depth]), shortcut, projection, pad_stride, plan.recompute)


# What follows from plain values alone is worked out once.
_known_fit = functools.lru_cache(maxsize=4096)(_fit)
_known_spec = functools.lru_cache(maxsize=4096)(_spec)


def _plain(x: torch.Tensor, layers: tuple[Layer, ...]) -> bool:
    """Do `_fit` and `_spec` get plain values, which may be kept?

    Not while a compiler traces or on fake tensors, whose sizes may be open. And a process group, which its
    owner may destroy, is nothing to keep.
    """
    if torch.compiler.is_compiling() or type(x) not in (torch.Tensor, torch.nn.Parameter):
        return False
    return all([layer.stats.group is None for layer in layers])


def _is_unbatched(x, units) -> bool:
    """``[C, H, W]``, which convolutions take and batch norms do not."""
    return isinstance(x, torch.Tensor) and x.dim() == 3 and all(bn is None for _, bn, _ in units)


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def _pool(pool) -> Pool:
    stride = pool.kernel_size if pool.stride is None else pool.stride
    return Pool(_pair(pool.kernel_size), _pair(stride), _pair(pool.padding))
