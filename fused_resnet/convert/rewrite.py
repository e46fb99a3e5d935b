"""Turns a matched graph into the Python function that a fused module runs."""

from __future__ import annotations

import itertools
import linecache
from dataclasses import dataclass
from typing import Any, Callable

import torch
import torch.fx as fx

from ..nn import FusedUnit
from .match import Layer, Match, Matcher

_counter = itertools.count()


@dataclass(frozen=True)
class Program:
    """A module's forward with fused units, for one mode (train or eval).

    function: called with the module and its arguments. attributes: what the module's plain attributes were when its
    forward was traced; with others, its control flow might have gone elsewhere. units: (unit, names of its modules).
    """

    function: Callable
    source: str
    attributes: dict[str, Any]
    units: tuple[tuple[FusedUnit, tuple[str | None, ...]], ...]
    memory: str

    def applies(self, module, args, kwargs) -> bool:
        """May the fused forward stand in for the stock one in this call?

        Not while something else looks at the stock operations (export, tracing), nor after the attributes changed.
        """
        if torch.compiler.is_exporting() or torch.jit.is_tracing():
            return False
        if any(isinstance(a, fx.Proxy) for a in (*args, *kwargs.values())):
            return False
        present = module.__dict__
        return all(name in present and present[name] == value for name, value in self.attributes.items())

    def __deepcopy__(self, memo):
        return self  # names only, nothing of the instance

    def __reduce__(self):
        return Pending, (self.memory,)  # code is not pickled: `FusedModule.__setstate__` makes it again


@dataclass(frozen=True)
class Pending:
    """Stands in a pickle for a Program."""

    memory: str


def rewrite(graph: fx.Graph, matches: list[Match], matcher: Matcher, attributes: dict, memory: str) -> Program:
    """Replace every match in `graph` by a call of its unit, and compile the result."""
    units = []
    for match in matches:
        unit = FusedUnit(match.kind, len(match.layers), match.shortcut, _inplace(match, matcher), memory)
        names = tuple(_module_names(match, matcher))
        _replace(graph, match, unit, names)
        units.append((unit, names))
    code = graph.python_code("self")
    return Program(_compile(code), code.src, attributes, tuple(units), memory)


def _inplace(match: Match, matcher: Matcher) -> bool:
    return match.addition is None or matcher.inplace(match.addition)


def _module_names(match: Match, matcher: Matcher) -> list[str | None]:
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
