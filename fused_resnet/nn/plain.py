"""Which modules may be absorbed into a fused unit: exactly the stock ones, with nothing attached."""

from typing import Any

import torch.nn as nn
from torch.nn.utils import parametrize

from .shortcut import ZeroPadShortcut

BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
LARGEST_POOL = 16  # the stem keeps each maximum's place in a window of at most 16x16, in one byte


def tensor(module: nn.Module, name: str) -> Any:
    """``getattr(module, name)`` of a parameter or buffer, which by `nn.Module.__getattr__` takes its time."""
    if name in module._parameters:
        return module._parameters[name]
    if name in module._buffers:
        return module._buffers[name]
    return getattr(module, name)  # a plain attribute: replicas of nn.DataParallel have them


def is_frozen_batch_norm(module) -> bool:
    """torchvision's FrozenBatchNorm2d, told by name so that torchvision is not needed."""
    cls = type(module)
    if cls in BATCH_NORMS:
        return False
    return cls.__name__ == "FrozenBatchNorm2d" and cls.__module__.startswith("torchvision.")


def is_batch_norm(module) -> bool:
    return type(module) in BATCH_NORMS or is_frozen_batch_norm(module)


def attached(module: nn.Module) -> str | None:
    """What is attached to a module that must keep firing when it is called, or None."""
    held = module.__dict__  # `nn.Module.__getattr__` would take its time
    if held["_forward_hooks"] or held["_forward_pre_hooks"]:
        return "forward hooks"
    if held["_backward_hooks"] or held["_backward_pre_hooks"]:
        return "backward hooks"
    if "forward" in held:
        return "a forward of its own"
    return None


def _of_another_type(module: nn.Module, expected: str) -> str:
    if parametrize.is_parametrized(module):
        return "parametrized"
    return f"a {type(module).__name__}, not exactly {expected}"


def why_not_convolution(conv: nn.Module) -> str | None:
    """Why a module is no convolution that a fused unit can absorb, or None."""
    if type(conv) is not nn.Conv2d:  # a parametrization changes the type, too
        return _of_another_type(conv, "nn.Conv2d")
    if conv.padding_mode != "zeros":
        return f"padding_mode={conv.padding_mode!r}"
    if isinstance(conv.padding, str):
        return f"padding={conv.padding!r}"
    weight = tensor(conv, "weight")
    if not weight.dtype.is_floating_point:
        return f"a weight of dtype {weight.dtype}"
    kind = type(weight)
    if kind is not nn.Parameter and hasattr(kind, "__tensor_flatten__"):  # of a quantised tensor, for one
        return f"a weight of type {kind.__name__}"
    return attached(conv)


def why_not_batch_norm(bn: nn.Module) -> str | None:
    """Why a module is no batch norm that a fused unit can absorb, or None."""
    return attached(bn) if is_batch_norm(bn) else _of_another_type(bn, "nn.BatchNorm2d")


def why_not_relu(module: nn.Module) -> str | None:
    """Why a module is no ReLU that a fused unit can absorb, or None."""
    return attached(module) if type(module) is nn.ReLU else _of_another_type(module, "nn.ReLU")


def why_not_pad(module: nn.Module) -> str | None:
    """Why a module is no zero-padding shortcut that a fused unit can absorb, or None."""
    if type(module) is not ZeroPadShortcut:
        return _of_another_type(module, "ZeroPadShortcut")
    return attached(module)


def why_not_pool(pool: nn.Module) -> str | None:
    """Why a module is no max-pool that the stem can absorb, or None."""
    if type(pool) is not nn.MaxPool2d:
        return _of_another_type(pool, "nn.MaxPool2d")
    if pool.ceil_mode or pool.return_indices or pool.dilation not in (1, (1, 1)):
        return "a max-pool with ceil_mode, return_indices or dilation"
    size = pool.kernel_size if isinstance(pool.kernel_size, int) else max(pool.kernel_size)
    return attached(pool) if size <= LARGEST_POOL else f"a window over {LARGEST_POOL}"
