"""Goes through a whole model and decides what `fuse` would do to which of its modules. Changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.fx as fx
import torch.nn as nn

from .analyse import Analysis, analyses
from .premises import CONTAINERS

Analyses = dict[bool, Analysis]  # in training and in eval mode


@dataclass
class Survey:
    """rewrites: modules with something to fuse in their own forward, by path. stays: paths of modules that
    are left as they are with all in them, and why. holds_block: is there a residual block, fused or not?
    """

    rewrites: dict[str, tuple[nn.Module, Analyses]] = field(default_factory=dict)
    stays: dict[str, str] = field(default_factory=dict)
    holds_block: bool = False


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def shared_modules(model: nn.Module) -> set[int]:
    """Ids of modules registered at several places, but for stateless ones."""
    count = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
    return {id(m) for m in model.modules() if count[id(m)] > 1 and m.state_dict(keep_vars=True)}


def why_opaque(module: nn.Module) -> str | None:
    """Why a module's class cannot be subclassed or its forward looked into, or None."""
    for kind in (torch.jit.ScriptModule, fx.GraphModule):
        if isinstance(module, kind):
            return f"a {kind.__name__}, whose code is not Python source"
    if type(module).__module__.startswith(("torch.nn.parallel", "torch.distributed", "torch._dynamo")):
        return "a wrapper; its content is fused instead"
    if "forward" in module.__dict__:
        return "its forward was replaced on the instance"
    return None


def has_forward(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward


def _is_candidate(module: nn.Module) -> bool:
    return has_forward(module) and why_opaque(module) is None and _holds_convolutions(module)


def _holds_convolutions(module: nn.Module) -> bool:
    """Convolutions among the children, looking through containers."""
    return any(
        isinstance(c, nn.Conv2d) or (isinstance(c, CONTAINERS) and _holds_convolutions(c))
        for c in module.children()
    )


def survey(module: nn.Module, shared: set[int], path: str = "") -> Survey:
    """Blocks from the top down, chains from the bottom up: these belong to the innermost module calling them.

    Args: a module of stock classes only; shared: ids of the whole model's shared modules.
    """
    if isinstance(module, (torch.jit.ScriptModule, fx.GraphModule)):
        return Survey()
    candidate = _is_candidate(module)
    found = analyses(module, shared, inline=True) if candidate else {}
    stays = {name: why for a in found.values() for name, why in a.stays.items()}
    below = {name: survey(child, shared, join(path, name)) for name, child in _callees(module)}
    if any(s.holds_block for name, s in below.items() if name in stays):
        stays = {}  # a block of blocks is no block, but a network with an addition in it
    for analysis in found.values():
        analysis.drop(set(stays))
    whole = any(a.whole_block for a in found.values())
    result = Survey(stays={join(path, name): why for name, why in stays.items()})
    result.holds_block = whole or bool(stays) or any(s.holds_block for s in below.values())
    sequentials = _sequentials(found)
    skipped = set(stays) | {p for p in sequentials if any(n.startswith(f"{p}.") for n in stays)}
    if whole:
        skipped |= sequentials | {t for a in found.values() for m in a.matches for t in m.targets}
    for name, sub in below.items():
        if name not in skipped:
            result.rewrites |= sub.rewrites
            result.stays |= sub.stays
    if not whole and sequentials:  # what is in them belongs to them
        found = analyses(module, shared, inline=False)
        for analysis in found.values():
            analysis.drop(set(stays))
    if any(a.matches for a in found.values()):
        result.rewrites[path] = (module, found)
    return result


def _callees(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Children, and what is in those that have no forward (nn.ModuleList)."""
    for name, child in module.named_children():
        if has_forward(child):
            yield prefix + name, child
        else:
            yield from _callees(child, f"{prefix}{name}.")


def _sequentials(found: Analyses) -> set[str]:
    """Paths of the sequentials that were looked into."""
    transparent = (item for a in found.values() if a.traced for item in a.traced.premises.transparent.items())
    return {path for path, kind in transparent if kind is nn.Sequential}
