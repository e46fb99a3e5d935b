"""Puts the layers of other libraries into a stock model, where these have batch norm and ReLU in one."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import fx, nn

__all__ = ["INPLACE_ABN_SLOPE", "apex_batch_norms", "inplace_abn"]

INPLACE_ABN_SLOPE = 0.01  # that library's default; ReLU itself cannot be undone, which it relies on

# From a batch norm, whether a ReLU follows, whether something is added in between: what takes their place.
Replacement = Callable[[nn.BatchNorm2d, bool, bool], nn.Module | None]


def replace_batch_norms(model: nn.Module, replacement: Replacement) -> fx.GraphModule:
    """`model` with batch norms, and the ReLU and addition behind them, in one module where there is one.

    Args: replacement: gives None where the batch norm is to stay. A module for all three is called with both
    summands. Of an addition of two batch norms the first one takes part.
    """
    traced = fx.symbolic_trace(model)
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        bn = modules[str(node.target)] if node.op == "call_module" else None
        if not isinstance(bn, nn.BatchNorm2d):
            continue
        added = _only_user(node, _is_addition)
        if added is not None and added.args[0] is not node:
            added = None
        last = _only_user(added or node, lambda user: _is_relu(user, modules))
        new = replacement(bn, last is not None, added is not None and last is not None)
        if new is not None:
            traced.set_submodule(str(node.target), new)
            _take_over(traced.graph, node, added if last is not None else None, last)
    _forbid_inplace_additions(traced.graph)
    traced.graph.lint()
    traced.recompile()
    return traced


def _only_user(node: fx.Node, test: Callable[[fx.Node], bool]) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and test(users[0]) else None


def _is_addition(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in (operator.add, operator.iadd, torch.add)


def _is_relu(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    return node.op == "call_module" and isinstance(modules[str(node.target)], nn.ReLU)


def _take_over(graph: fx.Graph, node: fx.Node, added: fx.Node | None, last: fx.Node | None) -> None:
    """The module of `node` does the work of `added` and `last`, too."""
    if last is None:
        return
    if added is not None:  # its other summand may be made after `node`
        with graph.inserting_before(added):
            moved = graph.call_module(str(node.target), (node.args[0], added.args[1]))
    else:
        with graph.inserting_before(last):
            moved = graph.call_module(str(node.target), node.args)
    last.replace_all_uses_with(moved)
    for gone in (last, added, node):
        if gone is not None:
            graph.erase_node(gone)


def _forbid_inplace_additions(graph: fx.Graph) -> None:
    """The layers need their outputs in backward."""
    for node in graph.nodes:
        if node.target is operator.iadd:
            node.target = operator.add


def inplace_abn(model: nn.Module) -> nn.Module:
    """With mapillary's InPlaceABN: its leaky ReLU instead of ReLU, so the function is another one."""
    from inplace_abn import InPlaceABN

    def layer(bn: nn.BatchNorm2d, act: bool, adds: bool) -> nn.Module | None:
        if not act or adds:
            return None
        made = InPlaceABN(
            bn.num_features, bn.eps, bn.momentum, activation="leaky_relu", activation_param=INPLACE_ABN_SLOPE
        )
        return _with_state(made, bn)

    return replace_batch_norms(model, layer)


def apex_batch_norms(model: nn.Module) -> nn.Module:
    """With NVIDIA Apex's BatchNorm2d_NHWC (contrib.groupbn): ReLU and addition inside, fp16 and CUDA only."""
    from apex.contrib.groupbn import BatchNorm2d_NHWC

    def layer(bn: nn.BatchNorm2d, act: bool, adds: bool) -> nn.Module | None:
        return _Nhwc(_with_state(BatchNorm2d_NHWC(bn.num_features, fuse_relu=act), bn))

    return replace_batch_norms(model, layer)


def _with_state(made: nn.Module, bn: nn.BatchNorm2d) -> nn.Module:
    made.load_state_dict(bn.state_dict(), strict=False)
    assert bn.running_mean is not None
    return made.to(bn.running_mean.device)


class _Nhwc(nn.Module):
    """For a layer that takes ``[N, H, W, C]``: activations are ``[N, C, H, W]`` in channels_last here."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor, added: torch.Tensor | None = None) -> torch.Tensor:
        inputs = [t.permute(0, 2, 3, 1).contiguous() for t in (x, added) if t is not None]
        return self.layer(*inputs).permute(0, 3, 1, 2)
