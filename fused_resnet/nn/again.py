"""A unit's last call without a backward, done again without reading its modules.

On small inputs reading modules and following them to ops takes as long as many of the ops do, the more so as
weights that stream through the caches drive all that Python touches out of them. So what one call found is
kept with its first convolution: what the modules looked like, and the ops that ran. A call that finds both as
they were runs those ops on the tensors that the modules hold now.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import autograd
from ..backends import cpu
from .record import recorders

_MOST_SIZES = 8  # of inputs per unit: with more, sizes do not come again soon


class _Call(NamedTuple):
    """unit: as it was called; dtype: of x; autocast: what autocast made of x, None where it was off."""

    unit: Any
    dtype: torch.dtype
    autocast: torch.dtype | None
    snapshot: Any
    recording: Any


# By the first convolution, then by the size of x. Calls hold neither modules nor tensors.
_calls: weakref.WeakKeyDictionary[torch.nn.Module, dict[torch.Size, _Call]] = weakref.WeakKeyDictionary()


def run(unit: Any, x: Any, residual: Tensor | None, modules: tuple) -> Tensor | None:
    """What `unit` gives for ``(x, residual, *modules)``; None where it has to look anew."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or type(x) is not Tensor:
        return None
    call = _calls.get(modules[0], {}).get(x.shape)
    if call is None or call.unit is not unit or call.dtype is not x.dtype or recorders:
        return None
    if call.autocast is not autograd.autocast_dtype(x):
        return None
    cast = x if call.autocast is None else x.to(call.autocast)
    tensors = call.snapshot.tensors(modules) if autograd.can_replay(cast) else None
    if tensors is None:
        return None
    given = (cast, *tensors) if unit.is_stem else (cast, residual, *tensors)
    outputs = call.recording.replay(given)
    return None if outputs is None else outputs[0]


def keep(unit: Any, x: Tensor, modules: tuple, names: tuple, recording: Any) -> None:
    """Keep a call without a backward that changed nothing in its modules.

    Args: names: of the tensors that it read off each of them; recording: of its ops, None where there is
    none.
    """
    if recording is None:
        return
    snapshot = cpu.snapshot(modules, names)
    if not snapshot.possible():
        return
    calls = _calls.setdefault(modules[0], {})
    if len(calls) >= _MOST_SIZES:
        calls.clear()
    calls[x.shape] = _Call(unit, x.dtype, autograd.autocast_dtype(x), snapshot, recording)
