"""Activation memory that a forward pass keeps for backward."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["saved_activation_bytes"]


class _Kept:
    """A saved tensor, alive for as long as the graph keeps it."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def saved_activation_bytes(
    model: nn.Module, input: Tensor, loss: Callable[[Any], Tensor] | None = None
) -> int:
    """Bytes that autograd keeps between forward and backward, without parameters and buffers.

    Every storage counts once and in full, however many graph nodes keep a view of it; `input` counts where a
    layer keeps it. Not counted: memory that operators use while they run, gradients. So this is what every
    further image in the batch adds, not the peak that an allocator reports.

    The model runs once, in the mode it is in and under the autocast that is on; no gradient is computed and
    buffers (running statistics) are not changed.

    Args:
        model: called as ``model(input)``; fused or stock, on any device (fake tensors too).
        input: ``[N, C, H, W]`` or whatever the model takes.
        loss: from the model's output to a scalar, if what it keeps is to count as well.

    Returns:
        Bytes (1 MiB = 2**20 of them).
    """
    buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    constant = {_storage(t) for t in (*model.parameters(), *model.buffers(), *buffers.values())}
    kept: weakref.WeakSet[_Kept] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Kept:
        saved = _Kept(tensor)
        kept.add(saved)
        return saved

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        # the graph lives as long as `output`: what is in `kept` after this line is what backward would find
        output = torch.func.functional_call(model, buffers, (input,))
        if loss is not None:
            output = loss(output)
    sizes = {_storage(saved.tensor): saved.tensor.untyped_storage().nbytes() for saved in kept}
    del output
    return sum(size for storage, size in sizes.items() if storage not in constant)
