"""Runs a model on fake tensors: no memory, no time, and the model stays as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from .trace import unchanged

__all__ = ["Pretence", "pretending"]


class Pretence(NamedTuple):
    """call: runs the model once and gives its output; leaves: the fakes of parameters, buffers and input."""

    call: Callable[[], Any]
    leaves: tuple[Tensor, ...]


@contextlib.contextmanager
def pretending(
    model: nn.Module, input: Tensor, device: torch.device | str | None = None
) -> Iterator[Pretence]:
    """Inside the block the model, in the mode it is in, can be run on fakes of its tensors and of `input`.

    Args:
        model: stock or fused, called with one tensor.
        device: where the fakes say that they are; needs no such device. None: where the tensors are.
    """
    mode = FakeTensorMode()
    named = (*model.named_parameters(), *model.named_buffers())
    state = {name: _fake(mode, t, device) for name, t in named}
    x = _fake(mode, input, device)
    with unchanged(model), mode:
        yield Pretence(
            lambda: torch.func.functional_call(model, state, (x,)),
            (*state.values(), x),
        )


def _fake(mode: FakeTensorMode, t: Tensor, device: torch.device | str | None) -> Tensor:
    """A leaf without storage; a batch norm's counter keeps its value, which a cumulative average reads."""
    device = t.device if device is None else torch.device(device)
    if t.dim() == 0 and not t.is_floating_point() and not t.is_meta:
        value = t.item()
        with mode:
            return torch.tensor(value, dtype=t.dtype, device=device)
    with mode:
        made = torch.empty_strided(t.size(), t.stride(), dtype=t.dtype, device=device)
    return made.requires_grad_(t.requires_grad)
