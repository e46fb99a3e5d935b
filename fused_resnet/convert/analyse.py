"""Decides what of one module's own forward is fused, and says why the rest is not."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.fx as fx
import torch.nn as nn

from .match import Match, Matcher
from .trace import NotTraceable, trace


@dataclass
class Analysis:
    """The graph of a module's forward in one mode with the units found in it.

    reason: why it is left alone, if it is; stays: it is a residual block that cannot be fused as a whole, so that nothing
    inside it is fused either.
    """

    graph: fx.Graph | None = None
    matches: list[Match] = field(default_factory=list)
    reason: str | None = None
    stays: bool = False

    @property
    def whole_block(self) -> bool:
        return any(m.addition is not None for m in self.matches)


def analyse(module: nn.Module, training: bool, shared: set[int], inline: bool) -> Analysis:
    """Trace and match. With `inline`, sequentials of layers (projection shortcuts) are looked into."""
    try:
        graph = trace(module, training, inline)
    except NotTraceable as error:
        return Analysis(reason=str(error))
    _bypass_identities(graph, module)
    matcher = Matcher(graph, module, shared)
    blocks = matcher.blocks()
    taken = {n for b in blocks for n in b.nodes}
    matches = blocks + matcher.chains(taken)
    reason = _why_block_stays(matcher, matches)
    return Analysis(graph, reason=reason, stays=True) if reason else Analysis(graph, matches)


def _bypass_identities(graph: fx.Graph, module: nn.Module) -> None:
    """nn.Identity stands where an option of the model is off (timm's anti-aliasing, drop block)."""
    for node in list(graph.nodes):
        if node.op == "call_module" and type(module.get_submodule(node.target)) is nn.Identity:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _ancestors(node) -> set[fx.Node]:
    seen, queue = set(), [node]
    while queue:
        n = queue.pop()
        if n not in seen:
            seen.add(n)
            queue.extend(n.all_input_nodes)
    return seen


def _why_block_stays(matcher: Matcher, matches: list[Match]) -> str | None:
    """A post-activation residual block is fused as a whole or left as it is.

    None where the forward is no such block (no or several additions, or no activation behind it).
    """
    additions = matcher.additions()
    if len(additions) != 1 or len(additions[0].users) != 1:
        return None
    addition, behind = additions[0], next(iter(additions[0].users))
    if behind.op == "output":
        return None
    match = next((m for m in matches if m.addition is addition), None)
    if match is None:
        obstacle = next((a for a in addition.args if a.op != "placeholder" and not _is_layer(matcher, a)), behind)
        return f"{matcher.describe(obstacle)} {'behind' if obstacle is behind else 'before'} the addition"
    covered = {n for m in matches for n in m.nodes} | (_ancestors(match.residual) if match.residual else set())
    rest = [n for n in matcher.graph.nodes if n.op.startswith("call") and n not in covered]
    if not rest:
        return None
    obstacle = next((n for n in rest if not _is_layer(matcher, n)), rest[0])
    return f"{matcher.describe(obstacle)} inside the block"


def _is_layer(matcher: Matcher, node) -> bool:
    return isinstance(matcher.module(node), (nn.Conv2d, nn.BatchNorm2d, nn.SyncBatchNorm, nn.ReLU))
