"""Finds fused units in the graph of a module's forward.

Chains are read along single-use edges: convolution, batch norm (or none), ReLU; residual blocks backwards
from the ReLU behind an addition.
"""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx as fx
import torch.nn as nn
import torch.nn.functional as F

from ..nn.plain import (
    is_batch_norm,
    why_not_batch_norm,
    why_not_convolution,
    why_not_pad,
    why_not_pool,
    why_not_relu,
)

RELU_FUNCTIONS = (F.relu, F.relu_, torch.relu, torch.relu_)
ADD_FUNCTIONS = (operator.add, operator.iadd, torch.add)
_INPLACE = "iadd isub imul itruediv ifloordiv imod ipow iand ior ixor setitem"
INPLACE_OPERATORS = {getattr(operator, name) for name in _INPLACE.split()}


@dataclass(frozen=True)
class Layer:
    """Nodes of a convolution, its batch norm (or None) and the ReLU behind (or None)."""

    conv: fx.Node
    bn: fx.Node | None
    relu: fx.Node | None

    @property
    def nodes(self):
        return [n for n in (self.conv, self.bn, self.relu) if n is not None]

    @property
    def end(self):
        return self.bn or self.conv


@dataclass(frozen=True)
class Match:
    """A fused unit in a graph: kind, layers of the main path, shortcut; it replaces the last node."""

    kind: str
    layers: tuple[Layer, ...]
    last: fx.Node
    shortcut: str = "none"
    projection: Layer | None = None
    addition: fx.Node | None = None
    residual: fx.Node | None = None
    extra: fx.Node | None = None  # the stem's pool or the zero-padding shortcut

    @property
    def nodes(self):
        own = [n for layer in self.layers for n in layer.nodes]
        own += self.projection.nodes if self.projection else []
        for node in (self.addition, self.extra, self.last):
            if node is not None and node not in own:
                own.append(node)
        return own

    @property
    def targets(self) -> set[str]:
        """Names of the modules that it absorbs."""
        return {n.target for n in self.nodes if n.op == "call_module"}

    @property
    def inplace(self) -> bool:
        """Does the stock code add into the main path's tensor?"""
        return self.addition is None or is_inplace_addition(self.addition)


def is_inplace_addition(node: fx.Node) -> bool:
    return node.target in (operator.iadd, "add_")


class Matcher:
    """Reads one graph; `shared` holds the ids of modules that stand at several places of the model."""

    def __init__(self, graph: fx.Graph, root: nn.Module, shared: set[int]):
        self.graph, self.root, self.shared = graph, root, shared
        self.order = {node: i for i, node in enumerate(graph.nodes)}
        self.calls = Counter(node.target for node in graph.nodes if node.op == "call_module")

    def module(self, node) -> Any:
        """What a node calls; None where that is no module."""
        if not isinstance(node, fx.Node) or node.op != "call_module":
            return None
        return self.root.get_submodule(str(node.target))

    def why_not_conv(self, node) -> str | None:
        """Why the convolution at `node` cannot be absorbed."""
        return why_not_convolution(self.module(node)) or self._why_not_single(node)

    def _why_not_single(self, node) -> str | None:
        if id(self.module(node)) in self.shared:
            return "shared between several places of the model"
        return "called more than once" if self.calls[node.target] > 1 else None

    def _is_relu(self, node) -> bool:
        if node.op == "call_function":
            return node.target in RELU_FUNCTIONS
        if node.op == "call_method":
            return node.target in ("relu", "relu_")
        return node.op == "call_module" and why_not_relu(self.module(node)) is None

    def _is_add(self, node) -> bool:
        if len(node.args) != 2 or node.kwargs:
            return False
        if node.op == "call_function":
            return node.target in ADD_FUNCTIONS
        return node.op == "call_method" and node.target in ("add", "add_")

    def _is_conv(self, node) -> bool:
        return isinstance(self.module(node), nn.Conv2d) and self.why_not_conv(node) is None

    def _is_bn(self, node) -> bool:
        module = self.module(node)
        return module is not None and is_batch_norm(module) and self.why_not_layer(node) is None

    @staticmethod
    def only_user(node) -> Any:
        users = list(node.users)
        return users[0] if len(users) == 1 else None

    def _layer_ending_at(self, node) -> Layer | None:
        """conv or conv→bn whose result is `node`, used once."""
        if not isinstance(node, fx.Node) or len(node.users) != 1:
            return None
        bn = node if self._is_bn(node) else None
        conv: Any = bn.args[0] if bn else node
        if not self._is_conv(conv) or len(conv.users) != 1 or conv.kwargs:
            return None
        out_channels = self.module(conv).out_channels
        if bn and getattr(self.module(bn), "num_features", out_channels) != out_channels:
            return None
        return Layer(conv, bn, None)

    def _main_path(self, end) -> list[Layer]:
        """Layers back from `end` (the addition's operand), each feeding the next through a ReLU."""
        layer = self._layer_ending_at(end)
        if layer is None:
            return []
        path = [layer]
        while True:
            relu = path[0].conv.args[0]
            if not isinstance(relu, fx.Node) or not self._is_relu(relu) or len(relu.users) != 1:
                return path
            before = self._layer_ending_at(relu.args[0])
            if before is None:
                return path
            path.insert(0, Layer(before.conv, before.bn, relu))

    def _residual(self, relu, addition) -> Match | None:
        """The block that ends at ``relu(addition)``."""
        best = None
        for main, other in (addition.args, addition.args[::-1]):
            path = self._main_path(main)
            if not path or not isinstance(other, fx.Node) or (best and len(path) <= len(best[0])):
                continue
            if is_inplace_addition(addition) and main is not addition.args[0]:
                continue  # the shortcut's own tensor is overwritten
            best = (path, other)
        if best is None:
            return None
        path, other = best
        path[-1] = Layer(path[-1].conv, path[-1].bn, relu)
        return self._with_shortcut(path, other, relu, addition)

    def _with_shortcut(self, path, other, relu, addition) -> Match:
        kind = {2: "basic_block", 3: "bottleneck"}.get(len(path))
        start = path[0].conv.args[0]
        if kind is not None:
            if other is start:
                return Match(kind, tuple(path), relu, "identity", addition=addition)
            projection = self._layer_ending_at(other)
            if projection is not None and projection.conv.args[0] is start:
                return Match(kind, tuple(path), relu, "projection", projection, addition)
            if self._is_pad(other) and other.args[0] is start and len(other.users) == 1:
                return Match(kind, tuple(path), relu, "pad", addition=addition, extra=other)
            return Match(kind, tuple(path), relu, "tensor", addition=addition, residual=other)
        return Match("conv_bn_add_act", tuple(path[-1:]), relu, "tensor", addition=addition, residual=other)

    def blocks(self) -> list[Match]:
        """Residual units, in graph order."""
        found = []
        for node in self.graph.nodes:
            if self._is_relu(node) and isinstance(node.args[0], fx.Node) and self._is_add(node.args[0]):
                addition = node.args[0]
                match = self._residual(node, addition) if len(addition.users) == 1 else None
                if match is not None and self._is_movable(match):
                    found.append(match)
        return found

    def chains(self, taken: set[fx.Node]) -> list[Match]:
        """conv→(bn)→relu units outside `taken`; with bn and a max-pool behind it, the stem."""
        found = []
        for relu in self.graph.nodes:
            if not self._is_relu(relu) or relu in taken:
                continue
            layer = self._layer_ending_at(relu.args[0])
            if layer is None or layer.conv in taken:
                continue
            match = self._chain(layer, relu)
            if self._is_movable(match):
                found.append(match)
        return found

    def _chain(self, layer: Layer, relu: fx.Node) -> Match:
        layers = (Layer(layer.conv, layer.bn, relu),)
        pool = self.only_user(relu)
        if layer.bn is not None and pool is not None and self._is_stem_pool(pool):
            return Match("conv_bn_act_maxpool", layers, pool, extra=pool)
        return Match("conv_bn_act", layers, relu)

    def _is_pad(self, node) -> bool:
        return node.op == "call_module" and why_not_pad(self.module(node)) is None

    def _is_stem_pool(self, node) -> bool:
        return node.op == "call_module" and why_not_pool(self.module(node)) is None

    def _is_movable(self, match: Match) -> bool:
        """Is what the match reads still the same at its last node, where the fused unit will read it?"""
        reads, own = {match.layers[0].conv.args[0], match.residual}, set(match.nodes)
        first, last = min(self.order[n] for n in own), self.order[match.last]
        between = (n for n, i in self.order.items() if first < i < last and n not in own)
        return not any(n.args and n.args[0] in reads and self._writes(n) for n in between)

    def _writes(self, node) -> bool:
        """Does a node visibly write to its first argument?"""
        if node.op == "call_module":
            return getattr(self.module(node), "inplace", False)
        name = node.target if node.op == "call_method" else getattr(node.target, "__name__", "")
        flagged = node.kwargs.get("inplace") or any(a is True for a in node.args[1:])
        return name.endswith("_") or node.target in INPLACE_OPERATORS or bool(flagged)

    def additions(self) -> list[fx.Node]:
        found = (n for n in self.graph.nodes if self._is_add(n))
        return [n for n in found if all(isinstance(a, fx.Node) for a in n.args)]

    def is_layer(self, node) -> bool:
        """A convolution, batch norm or ReLU that could be absorbed."""
        return self._is_conv(node) or self._is_bn(node) or self._is_relu(node)

    def why_not_layer(self, node) -> str | None:
        """What keeps a convolution, batch norm or ReLU from being absorbed; None for all else."""
        module = self.module(node)
        if isinstance(module, nn.Conv2d):
            return self.why_not_conv(node)
        if is_batch_norm(module):
            return why_not_batch_norm(module) or self._why_not_single(node)
        return why_not_relu(module) if type(module) is nn.ReLU else None

    def describe(self, node) -> str:
        """A node in words, for the report."""
        if self._is_add(node):
            return "an addition"
        if node.op != "call_module":
            return f"{getattr(node.target, '__name__', node.target)}()"
        why = self.why_not_layer(node)
        return f"{node.target} ({type(self.module(node)).__name__}{f': {why}' if why else ''})"
