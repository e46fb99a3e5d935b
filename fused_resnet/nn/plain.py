"""Which modules may be absorbed into a fused unit: exactly the stock ones, with nothing attached."""

import torch.nn as nn
from torch.nn.utils import parametrize

BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def is_frozen_batch_norm(module) -> bool:
    """torchvision's FrozenBatchNorm2d, told by name so that torchvision is not needed."""
    cls = type(module)
    return cls.__name__ == "FrozenBatchNorm2d" and cls.__module__.startswith("torchvision.")


def is_batch_norm(module) -> bool:
    return type(module) in BATCH_NORMS or is_frozen_batch_norm(module)


def attached(module: nn.Module) -> str | None:
    """What is attached to a module that must keep firing when it is called, or None."""
    if module._forward_hooks or module._forward_pre_hooks:
        return "forward hooks"
    if module._backward_hooks or module._backward_pre_hooks:
        return "backward hooks"
    if "forward" in module.__dict__:
        return "a forward of its own"
    return None


def why_not_convolution(conv: nn.Module) -> str | None:
    """Why a module is no convolution that a fused unit can absorb, or None."""
    if parametrize.is_parametrized(conv):
        return "parametrized"
    if type(conv) is not nn.Conv2d:
        return f"a {type(conv).__name__}, not exactly nn.Conv2d"
    if conv.padding_mode != "zeros":
        return f"padding_mode={conv.padding_mode!r}"
    if isinstance(conv.padding, str):
        return f"padding={conv.padding!r}"
    if not conv.weight.is_floating_point():
        return f"a weight of dtype {conv.weight.dtype}"
    return attached(conv)


def why_not_batch_norm(bn: nn.Module) -> str | None:
    """Why a module is no batch norm that a fused unit can absorb, or None."""
    if parametrize.is_parametrized(bn):
        return "parametrized"
    if not is_batch_norm(bn):
        return f"a {type(bn).__name__}, not exactly nn.BatchNorm2d"
    return attached(bn)


def why_not(module: nn.Module) -> str | None:
    """Why a module of any absorbed kind cannot be absorbed as it is now, or None."""
    if isinstance(module, nn.Conv2d):
        return why_not_convolution(module)
    if is_batch_norm(module):
        return why_not_batch_norm(module)
    return attached(module)
