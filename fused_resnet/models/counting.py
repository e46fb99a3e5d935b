"""Counts of parameters and of multiply-adds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["multiply_adds", "parameter_count"]

aten = torch.ops.aten


def parameter_count(model: nn.Module) -> int:
    """Number of scalars in the model's parameters.

    Frozen parameters count; a parameter shared by several modules counts once; buffers (the running
    statistics of batch norm) do not count.
    """
    return sum(p.numel() for p in model.parameters())


def multiply_adds(model: nn.Module, input_size: Sequence[int]) -> int:
    """Exact multiply-adds of one forward pass, as He et al. 2015 count "FLOPs".

    Counted: every convolution and every linear layer (matrix product), one multiply-add per weight
    applied to one output position, whether or not the position's window reaches into the padding.
    Not counted: biases, batch norm, ReLU, pooling, the shortcut's addition, zero padding. (Twice this
    number is what tools call FLOPs when they count a multiplication and an addition as two.)

    The pass runs in eval mode on a copy without storage (the ``meta`` device): nothing is computed,
    no memory is taken, the model is unchanged, and the model may itself be on any device.

    Args:
        model: the network, called with one tensor.
        input_size: shape of that tensor including the batch, e.g. ``(1, 3, 224, 224)``. The result
            is for the whole batch.

    Returns:
        The number of multiply-adds.

    Raises:
        ValueError: ``input_size`` is empty or has an entry below 1.
    """
    if len(input_size) == 0 or any(size < 1 for size in input_size):
        raise ValueError(f"input_size must be a shape of positive sizes, got {tuple(input_size)}")
    twin = _meta_copy(model).eval()
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    counter = _Counter()
    # Outside inference mode the dispatcher shows every convolution and linear layer as the few
    # operators the counter knows, whatever module or function called it.
    with torch.inference_mode(False), torch.no_grad(), counter:
        twin(torch.empty(tuple(input_size), dtype=dtype, device="meta"))
    return counter.total


def _meta_copy(model: nn.Module) -> nn.Module:
    """Deep copy of ``model`` in stock form, so that every operator shows, without storage."""
    from fused_resnet import unfuse  # on use, as in _common: no import order is forced on the conversion code

    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        empty = torch.empty_like(parameter, device="meta")
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=False)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return unfuse(copy.deepcopy(model, memo))


class _Counter(TorchDispatchMode):
    """Adds up the multiply-adds of the operators run while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.total += _operator_multiply_adds(func, args, out)
        return out


def _operator_multiply_adds(func: Callable[..., Any], args: tuple[Any, ...], out: Tensor) -> int:
    if func is aten.convolution.default:
        source, weight, transposed = args[0], args[1], args[6]
        # weight[0] holds the taps of one output channel (transposed: that one input value feeds).
        positions = source.numel() if transposed else out.numel()
        return int(positions * weight[0].numel())
    if func in (aten.mm.default, aten.bmm.default):
        return int(out.numel() * args[0].shape[-1])
    if func in (aten.addmm.default, aten.baddbmm.default):
        return int(out.numel() * args[1].shape[-1])
    return 0
