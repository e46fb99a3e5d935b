"""Activation memory of a training step: what forward keeps for backward, and the most alive at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["peak_activation_bytes", "saved_activation_bytes"]


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


def peak_activation_bytes(
    step: Callable[[], Any], parameters: Iterable[Tensor], device: torch.device | str = "cpu"
) -> int:
    """The most bytes that a training step has allocated at once on `device`, less gradients of `parameters`.

    On the CPU everything counts that torch's allocator hands out during the step: what is kept for backward,
    gradients of activations, and what operators use while they run. What was there before (parameters, the
    input) does not, nor does memory that a library takes from the system by itself. On a GPU the allocator
    tells its peak alone, so there the parameters' gradients count, too. The step runs twice; the first run
    makes what is made only once.

    Args:
        step: forward and backward, leaving its gradients in ``.grad``.
        parameters: whose ``.grad`` are not to count; they are None before each run.
        device: of the tensors.
    """
    parameters = list(parameters)
    for p in parameters:
        p.grad = None
    step()
    for p in parameters:
        p.grad = None
    if torch.device(device).type == "cuda":
        return _peak_on_gpu(step, device)
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        step()
    gradients = {p.grad.untyped_storage().data_ptr() for p in parameters if p.grad is not None}
    return _peak(list(_allocations(profiler)), gradients)


def _peak_on_gpu(step: Callable[[], Any], device: torch.device | str) -> int:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _allocations(profiler: torch.profiler.profile) -> Iterator[tuple[int, int]]:
    """Address and bytes of every allocation on the CPU, bytes negative where freed, in order of time."""
    stack = list(profiler.profiler.kineto_results.experimental_event_tree())  # type: ignore[union-attr]
    found = []
    while stack:
        event = stack.pop()
        stack.extend(event.children)
        if event.tag == torch._C._profiler._EventType.Allocation and event.extra_fields.device.type == "cpu":
            found.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
    for _, address, size in sorted(found, key=lambda event: event[0]):
        yield address, size


def _peak(events: list[tuple[int, int]], kept: set[int]) -> int:
    """The most bytes alive at once. kept: addresses; what lives there after the last event never counts."""
    begun: dict[int, int] = {}  # address -> the event that allocated it
    for index, (address, size) in enumerate(events):
        if size > 0:
            begun[address] = index
        else:
            begun.pop(address, None)
    ignored = {index for address, index in begun.items() if address in kept}
    alive: dict[int, int] = {}
    total = peak = 0
    for index, (address, size) in enumerate(events):
        if size > 0 and index not in ignored:
            alive[address] = size
            total += size
            peak = max(peak, total)
        elif size < 0:  # of what was there before the first event nothing is known here
            total -= alive.pop(address, 0)
    return peak
