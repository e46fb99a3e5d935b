"""`fuse` and `unfuse`: swap the classes of modules in place."""

from __future__ import annotations

from collections import Counter

import torch
import torch.fx as fx
import torch.nn as nn

from ..planner import MEMORY_MODES
from .analyse import Analysis, analyse
from .match import Matcher
from .module import fused_type, is_fused
from .rewrite import Program, rewrite
from .trace import plain_attributes

# containers that have no forward of their own code: convolutions in them belong to whoever holds them
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def fuse(model: nn.Module, memory: str = "balanced") -> nn.Module:
    """Swap every residual block, stem and conv→BN→ReLU chain of `model` for its fused form, in place.

    The result computes the same function: same modules under the same names, same parameters and buffers (the same
    objects, so an optimizer made before still works), same state_dict, same training and eval behaviour. What cannot be
    fused exactly is left alone; `explain` says why.

    Args:
        model: any module: torchvision's and timm's ResNets, this package's models, or any other whose forward has
            conv→BN→ReLU or conv→ReLU chains that torch.fx can trace.
        memory: what training keeps for backward. "speed": every convolution's output. "balanced": in addition no output
            of 1x1 convolutions whose BN statistics can be had from their input (the widest tensors of a bottleneck).
            "min": only each block's input and output; the convolutions run again in backward.

    Returns:
        The same object.

    Raises:
        TypeError: model is not an nn.Module.
        ValueError: memory is none of the three.

    Equivalent to doing nothing, but faster and smaller; Gram folding is derived in docs/design.md.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if memory not in MEMORY_MODES:
        raise ValueError(f"memory: expected one of {MEMORY_MODES}, got {memory!r}")
    _convert(model, memory, shared_modules(model))
    return model


def unfuse(model: nn.Module) -> nn.Module:
    """Give every fused module of `model` its original class back, in place.

    Returns: the same object, with exactly the types it had before `fuse`.
    Raises: TypeError if model is no module; ValueError if a wrapper has since subclassed a fused module's class.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    fused = [(n, m) for n, m in model.named_modules() if is_fused(m)]
    for name, module in fused:
        if "_stock_type" not in type(module).__dict__:
            raise ValueError(f"{name}: expected a class made by fuse, got {type(module).__name__}; unwrap it first")
    for _, module in fused:
        stock = module._stock_type
        del module.__dict__["_fused_programs"]
        module.__class__ = stock
    return model


def shared_modules(model: nn.Module) -> set[int]:
    """Ids of modules registered at several places, but for stateless ones."""
    count = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
    return {
        id(m) for m in model.modules() if count[id(m)] > 1 and any(True for _ in m.state_dict(keep_vars=True))
    }


def why_opaque(module: nn.Module) -> str | None:
    """Why a module's class cannot be subclassed or its forward looked into, or None."""
    if isinstance(module, (torch.jit.ScriptModule, fx.GraphModule)):
        return f"a {type(module).__name__}, whose code is not Python source"
    if type(module).__module__.startswith(("torch.nn.parallel", "torch.distributed", "torch._dynamo")):
        return "a wrapper; its content is fused instead"
    if "forward" in module.__dict__:
        return "its forward was replaced on the instance"
    return None


def holds_convolutions(module: nn.Module) -> bool:
    """Convolutions among the children, looking through containers."""
    return any(
        isinstance(c, nn.Conv2d) or (isinstance(c, CONTAINERS) and holds_convolutions(c)) for c in module.children()
    )


def _candidate(module: nn.Module) -> bool:
    has_forward = not isinstance(module, (nn.ModuleList, nn.ModuleDict))
    return has_forward and not is_fused(module) and why_opaque(module) is None and holds_convolutions(module)


def _convert(module: nn.Module, memory: str, shared: set[int]) -> None:
    """Blocks from the top down, chains from the bottom up: a chain belongs to the innermost module that calls it."""
    if isinstance(module, (torch.jit.ScriptModule, fx.GraphModule)):
        return
    absorbed: set[str] = set()
    candidate, found = _candidate(module), {}
    if candidate:
        found = analyses(module, shared, inline=True)
        if any(a.stays for a in found.values()):
            return
        if any(a.whole_block for a in found.values()):
            absorbed = {n.split(".")[0] for a in found.values() for m in a.matches for n in _targets(m)}
            _swap(module, _rewrite_all(module, found, memory, shared))
    for name, child in module.named_children():
        if name not in absorbed:
            _convert(child, memory, shared)
    if candidate and not is_fused(module):
        _swap(module, programs(module, memory, shared))


def analyses(module: nn.Module, shared: set[int], inline: bool) -> dict[bool, Analysis]:
    """Of both modes: training and eval may take different branches."""
    return {training: analyse(module, training, shared, inline) for training in (True, False)}


def _targets(match):
    return [n.target for n in match.nodes if n.op == "call_module"]


def programs(module: nn.Module, memory: str, shared: set[int] | None = None) -> dict[bool, Program]:
    """The fused forwards of a module, per mode; the stock class's forward is what is read."""
    shared = shared_modules(module) if shared is None else shared
    found = analyses(module, shared, inline=True)
    if not any(a.whole_block for a in found.values()):
        found = analyses(module, shared, inline=False)
    return _rewrite_all(module, found, memory, shared)


def _rewrite_all(module, found, memory, shared) -> dict[bool, Program]:
    return {
        training: rewrite(a.graph, a.matches, Matcher(a.graph, module, shared), plain_attributes(module), memory)
        for training, a in found.items()
        if a.matches
    }


def _swap(module: nn.Module, made: dict[bool, Program]) -> None:
    if made:
        module.__dict__["_fused_programs"] = made
        module.__class__ = fused_type(type(module))

