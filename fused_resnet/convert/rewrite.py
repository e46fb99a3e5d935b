"""Turns a matched graph into the Python function that a fused module runs."""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.fx as fx
import torch.nn as nn
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from ..nn import FusedUnit
from .match import Layer, Match
from .premises import Premises
from .trace import Traced

_counter = itertools.count()


@dataclass(frozen=True)
class Program:
    """A module's forward with fused units, for one mode (train or eval).

    function: called with the module and its arguments. units: (unit, names of its modules).
    """

    function: Callable
    source: str
    premises: Premises
    units: tuple[tuple[FusedUnit, tuple[str | None, ...]], ...]
    memory: str

    def applies(self, module: nn.Module, args: tuple, kwargs: dict) -> bool:
        """May the fused forward stand in for the stock one in this call?"""
        return not _observed(args, kwargs) and self.premises.hold(module, args, kwargs)

    def __deepcopy__(self, memo):
        return self  # names only, nothing of the instance

    def __reduce__(self):
        return Pending, (self.memory,)  # code is not pickled: `FusedModule.__setstate__` makes it again


@dataclass(frozen=True)
class Pending:
    """Stands in a pickle for a Program."""

    memory: str


def _observed(args: tuple, kwargs: dict) -> bool:
    """Does something look at the stock operations, or need more of them than autograd Functions can do?

    Export and tracing record them, hooks on all modules expect every module to be called, function transforms
    (torch.func) and forward-mode AD go through each one.
    """
    if torch.compiler.is_exporting() or torch.jit.is_tracing() or _has_any_global_hook():
        return True
    if any(isinstance(a, fx.Proxy) for a in (*args, *kwargs.values())):
        return True
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def rewrite(traced: Traced, matches: list[Match], memory: str) -> Program:
    """Replace every match in the graph (which is used up) by a call of its unit, and compile the result."""
    units = []
    for match in matches:
        unit = FusedUnit(match.kind, len(match.layers), match.shortcut, match.inplace, memory)
        names = tuple(_module_names(match))
        _replace(traced.graph, match, unit, names)
        units.append((unit, names))
    code = traced.graph.python_code("self")
    return Program(_compile(code), code.src, traced.premises, tuple(units), memory)


def _module_names(match: Match) -> list[str | None]:
    """Targets of the modules that the unit is called with, in `FusedUnit`'s order."""

    def target(node):
        return node.target if node is not None and node.op == "call_module" else None

    def names(layer: Layer):
        return [target(layer.conv), target(layer.bn)]

    found = [n for layer in match.layers for n in (*names(layer), target(layer.relu))]
    found += names(match.projection) if match.projection else []
    return found + ([target(match.extra)] if match.extra is not None else [])


def _replace(graph: fx.Graph, match: Match, unit: FusedUnit, names) -> None:
    with graph.inserting_before(match.last):
        modules = [None if n is None else graph.get_attr(n) for n in names]
        fused = graph.call_function(unit, (match.layers[0].conv.args[0], match.residual, *modules))
    match.last.replace_all_uses_with(fused)
    order = {n: i for i, n in enumerate(graph.nodes)}
    for node in sorted(match.nodes, key=order.__getitem__, reverse=True):
        graph.erase_node(node)


def _compile(code) -> Callable:
    """The graph's source as a function whose lines tracebacks can show."""
    name = f"<fused_resnet {next(_counter)}>"
    lines = code.src.splitlines(keepends=True)
    linecache.cache[name] = (len(code.src), None, lines, name)
    scope = dict(code.globals)
    exec(compile(code.src, name, "exec"), scope)
    return scope["forward"]
