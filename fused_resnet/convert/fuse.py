"""`fuse` and `unfuse`: swap the classes of modules in place."""

from __future__ import annotations

import torch.nn as nn

from ..planner import MEMORY_MODES
from .module import Programs, as_stock, fused_type, install, is_wrapped
from .rewrite import rewrite
from .survey import Analyses, shared_modules, survey


def fuse(model: nn.Module, memory: str = "balanced") -> nn.Module:
    """Swap every residual block, stem and conv→BN→ReLU chain of `model` for its fused form, in place.

    The result computes the same function: same modules under the same names, same parameters and buffers (the
    same objects, so an optimizer made before still works), same state_dict, same training and eval behaviour.
    What cannot be fused exactly is left alone; `explain` says why. A model that is fused already is fused
    anew: with another `memory`, or after its structure changed (a block whose children were replaced runs its
    own forward until then).

    Args:
        model: any module: torchvision's and timm's ResNets, this package's models, or any other whose forward
            has conv→BN→ReLU or conv→ReLU chains that torch.fx can trace.
        memory: what training keeps for backward. "speed": every convolution's output. "balanced": in addition
            no output of 1x1 convolutions whose BN statistics can be had from their input (the widest tensors
            of a bottleneck). "min": each block's input and output; the convolutions run again in backward.

    Returns:
        The same object.

    Raises:
        TypeError: model is not an nn.Module.
        ValueError: memory is none of the three.

    Where it raises, the model is as it was.

    Equivalent to doing nothing, but faster and smaller; Gram folding is derived in docs/design.md.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if memory not in MEMORY_MODES:
        raise ValueError(f"memory: expected one of {MEMORY_MODES}, got {memory!r}")
    made: dict[int, Programs] = {}
    with as_stock(model):
        for module, found in survey(model, shared_modules(model)).rewrites.values():
            made[id(module)] = _rewrite(found, memory)
            fused_type(type(module))
    for module in list(model.modules()):  # from here on nothing can fail
        install(module, made.get(id(module), {}))
    return model


def _rewrite(found: Analyses, memory: str) -> Programs:
    usable = ((mode, a.traced, a.matches) for mode, a in found.items())
    return {mode: rewrite(traced, matches, memory) for mode, traced, matches in usable if traced and matches}


def programs(module: nn.Module, memory: str) -> Programs:
    """The fused forwards of one module."""
    with as_stock(module):
        rewrites = survey(module, shared_modules(module)).rewrites
        return _rewrite(rewrites[""][1], memory) if "" in rewrites else {}


def unfuse(model: nn.Module) -> nn.Module:
    """Give every fused module of `model` its original class back, in place.

    Returns: the same object, with exactly the types it had before `fuse`.
    Raises: TypeError if model is no module; ValueError if a wrapper has subclassed a fused module's class.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    for name, module in model.named_modules():
        if is_wrapped(module):
            raise ValueError(
                f"{name}: expected a class made by fuse, got {type(module).__name__}; unwrap it first"
            )
    for module in model.modules():
        install(module, {})
    return model
