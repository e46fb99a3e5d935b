"""Decides what of one module's own forward is fused, and says why the rest is not."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.fx as fx
import torch.nn as nn

from .match import Match, Matcher
from .trace import NotTraceable, Traced, trace


@dataclass
class Analysis:
    """One module's forward in one mode, with the units found in it.

    reason: why it cannot be read, where `traced` is None. stays: names of the modules of residual blocks in
    this forward that are not fused as a whole, so that nothing in them is; with the reasons.
    """

    traced: Traced | None = None
    reason: str | None = None
    matches: list[Match] = field(default_factory=list)
    stays: dict[str, str] = field(default_factory=dict)

    @property
    def whole_block(self) -> bool:
        return any(m.addition is not None for m in self.matches)

    def drop(self, targets: set[str]) -> None:
        """Leave these modules alone."""
        self.matches = [m for m in self.matches if not m.targets & targets]


def analyse(module: nn.Module, training: bool, shared: set[int], inline: bool) -> Analysis:
    """Trace and match. With `inline`, sequentials of layers (projection shortcuts) are looked into."""
    try:
        traced = trace(module, training, inline)
    except NotTraceable as error:
        return Analysis(reason=str(error))
    matcher = Matcher(traced.graph, module, shared)
    blocks = matcher.blocks()
    taken = {n for b in blocks for n in b.nodes}
    matches = blocks + matcher.chains(taken)
    return Analysis(traced, None, matches, _unfused_blocks(matcher, matches))


def analyses(module: nn.Module, shared: set[int], inline: bool) -> dict[bool, Analysis]:
    """Of both modes: training and eval may take different branches."""
    return {training: analyse(module, training, shared, inline) for training in (True, False)}


def _ancestors(node) -> set[fx.Node]:
    seen, queue = set(), [node]
    while queue:
        n = queue.pop()
        if n not in seen:
            seen.add(n)
            queue.extend(n.all_input_nodes)
    return seen


def _unfused_blocks(matcher: Matcher, matches: list[Match]) -> dict[str, str]:
    """Modules of the post-activation residual blocks that no match covers entirely, with the reasons."""
    found: dict[str, str] = {}
    for addition in matcher.additions():
        behind = matcher.only_user(addition)
        if behind is None or behind.op == "output" or _holds_convolution(matcher.module(behind)):
            continue
        sides = [_ancestors(a) for a in addition.args]
        block = (sides[0] ^ sides[1]) | {addition, behind}
        if (why := _why_not_whole(matcher, matches, addition, behind, block)) is not None:
            found |= {str(n.target): why for n in block if n.op == "call_module"}
    return found


def _holds_convolution(module: nn.Module | None) -> bool:
    return module is not None and any(isinstance(m, nn.Conv2d) for m in module.modules())


def _why_not_whole(matcher, matches, addition, behind, block) -> str | None:
    """Why the block (nodes between the fork and the activation) is not fused as a whole, or None if it is."""
    match = next((m for m in matches if m.addition is addition), None)
    ordered = [n for n in matcher.graph.nodes if n in block and n.op.startswith("call")]
    if match is not None:
        covered = {n for m in matches for n in m.nodes}
        if match.residual is not None:
            shortcut = _ancestors(match.residual)
            # a shortcut may be anything; one with convolutions beside a single layer may be the main path
            convolves = any(_holds_convolution(matcher.module(n)) for n in shortcut & block)
            if match.kind != "conv_bn_add_act" or not convolves:
                covered |= shortcut
        rest = [n for n in ordered if n not in covered]
        return f"{matcher.describe(_obstacle(matcher, rest))} inside the block" if rest else None
    if not matcher.is_layer(behind):
        return f"{matcher.describe(behind)} behind the addition"
    rest = [n for n in ordered if n not in (addition, behind)]
    before = [a for a in addition.args if a in rest and not matcher.is_layer(a)]
    if before:
        return f"{matcher.describe(before[0])} before the addition"
    return f"{matcher.describe(_obstacle(matcher, rest or [addition]))} inside the block"


def _obstacle(matcher, nodes):
    """The first that is no layer, else the first."""
    return next((n for n in nodes if not matcher.is_layer(n)), nodes[0])
