"""Finds fused units in the graph of a module's forward.

Chains are read along single-use edges: convolution, batch norm (or none), ReLU; residual blocks backwards from the ReLU
behind an addition.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
import torch.fx as fx
import torch.nn as nn
import torch.nn.functional as F

from ..nn.plain import why_not, why_not_batch_norm, why_not_convolution
from ..nn.shortcut import ZeroPadShortcut

RELU_FUNCTIONS = (F.relu, F.relu_, torch.relu, torch.relu_)
ADD_FUNCTIONS = (operator.add, operator.iadd, torch.add)


@dataclass(frozen=True)
class Layer:
    """Convolution, batch norm (or None) and the ReLU behind (None where something else follows), as graph nodes."""

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
    """A fused unit in a graph: its kind, layers of the main path, shortcut, and the node it replaces (the last)."""

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


class Matcher:
    """Reads one graph; `shared` holds the ids of modules that stand at several places of the model."""

    def __init__(self, graph: fx.Graph, root: nn.Module, shared: set[int]):
        self.graph, self.root, self.shared = graph, root, shared
        self.calls: dict[str, int] = {}
        for node in graph.nodes:
            if node.op == "call_module":
                self.calls[node.target] = self.calls.get(node.target, 0) + 1

    def module(self, node) -> nn.Module | None:
        if not isinstance(node, fx.Node) or node.op != "call_module":
            return None
        return self.root.get_submodule(node.target)

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
        return type(self.module(node)) is nn.ReLU and why_not(self.module(node)) is None

    def _is_add(self, node) -> bool:
        if node.op == "call_function":
            return node.target in ADD_FUNCTIONS and len(node.args) == 2 and not node.kwargs
        return node.op == "call_method" and node.target in ("add", "add_") and len(node.args) == 2 and not node.kwargs

    @staticmethod
    def inplace(addition) -> bool:
        return addition.target in (operator.iadd, "add_")

    def _is_conv(self, node) -> bool:
        return isinstance(self.module(node), nn.Conv2d) and self.why_not_conv(node) is None

    def _is_bn(self, node) -> bool:
        module = self.module(node)
        return module is not None and why_not_batch_norm(module) is None and self._why_not_single(node) is None

    @staticmethod
    def only_user(node):
        users = list(node.users)
        return users[0] if len(users) == 1 else None

    def _layer_ending_at(self, node) -> Layer | None:
        """conv or conv→bn whose result is `node`, used once."""
        if not isinstance(node, fx.Node) or len(node.users) != 1:
            return None
        bn = node if self._is_bn(node) else None
        conv = bn.args[0] if bn else node
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
            if self.inplace(addition) and main is not addition.args[0]:
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
            module = self.module(other)
            if type(module) is ZeroPadShortcut and other.args[0] is start and len(other.users) == 1:
                if why_not(module) is None:
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
                if match is not None:
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
            layer = Layer(layer.conv, layer.bn, relu)
            pool = self.only_user(relu)
            if layer.bn is not None and pool is not None and self._is_stem_pool(pool):
                found.append(Match("conv_bn_act_maxpool", (layer,), pool, extra=pool))
            else:
                found.append(Match("conv_bn_act", (layer,), relu))
        return found

    def _is_stem_pool(self, node) -> bool:
        pool = self.module(node)
        if type(pool) is not nn.MaxPool2d or why_not(pool) is not None:
            return False
        size = pool.kernel_size if isinstance(pool.kernel_size, int) else max(pool.kernel_size)
        return size <= 16 and pool.dilation in (1, (1, 1)) and not pool.ceil_mode and not pool.return_indices

    def additions(self) -> list[fx.Node]:
        return [n for n in self.graph.nodes if self._is_add(n) and all(isinstance(a, fx.Node) for a in n.args)]

    def describe(self, node) -> str:
        """A node in words, for the report."""
        if node.op == "call_module":
            return f"{node.target} ({type(self.module(node)).__name__})"
        return f"{getattr(node.target, '__name__', node.target)}()"
