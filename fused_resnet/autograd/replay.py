"""A unit's ops in one call: on small tensors Python between the ops costs more than the ops do.

On the CPU, which ops a unit runs follows from its spec and from the kinds of its tensors (sizes, strides,
dtypes, which of them there are). So what happened once is done again by the C++ extension, without Python.
The functions that are replayed stay the only description of what they do, and what they do by other means
than ops is noticed: then nothing is replayed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import backends
from ..backends import cpu, engines
from ..backends.signatures import WRITTEN
from ..ops import registry
from .spec import ChainSpec

Tensors = tuple[Tensor | None, ...]

_MOST_ELEMENTS = 1 << 20  # of an activation: with more, Python takes nothing beside the ops
_MOST_KEYS = 1024
_MOST_KINDS = 8  # of inputs per key: with more, sizes do not come again soon
_PLAIN = {torch.Tensor, torch.nn.Parameter, type(None)}

# Per (function, spec, facts) what was recorded, by kinds of inputs; None where it cannot be.
_recordings: dict[tuple, list[Any] | None] = {}


def run(function: Callable[..., Tensors], spec: ChainSpec, inputs: Tensors, *facts: Any) -> Tensors:
    """``function(spec, inputs, *facts)``, which may look at nothing else; spec and facts are hashable.

    The first of the inputs has the dtype of all activations.
    """
    first = inputs[0]
    assert first is not None
    if not possible(first):
        return function(spec, inputs, *facts)
    key = function, spec, facts
    recordings = _recordings.get(key)
    for recorded in recordings or ():
        outputs: Tensors | None = recorded.replay(inputs)
        if outputs is not None:
            return outputs
    if key not in _recordings:  # what comes once is not worth it: momentum that changes with every batch, say
        if len(_recordings) >= _MOST_KEYS:
            _recordings.clear()
        if not _synced(spec):
            _recordings[key] = []
    elif recordings is not None and len(recordings) < _MOST_KINDS and _PLAIN.issuperset(map(type, inputs)):
        return _record(key, inputs)
    return function(spec, inputs, *facts)


def possible(first: Tensor) -> bool:
    """Are ops on activations like this one replayed right now?"""
    if not first.is_cpu or first.numel() > _MOST_ELEMENTS or registry.watched():
        return False
    return backends.settled(first.dtype)


def recording(function: Callable[..., Tensors], spec: ChainSpec, inputs: Tensors, *facts: Any) -> Any:
    """What `run` would replay on these inputs; None where it would not."""
    if not possible(inputs[0]):
        return None
    for recorded in _recordings.get((function, spec, facts)) or ():
        if recorded.takes(inputs):
            return recorded
    return None


def _synced(spec: ChainSpec) -> bool:
    """Does a process group take part? Its owner may destroy it: it is nothing to keep."""
    return any([u.group is not None for u in (*spec.units, spec.projection) if u is not None])


def _record(key: tuple, inputs: Tensors) -> Tensors:
    function, spec, facts = key
    recorded, others = cpu.recording(inputs), set()

    def tell(op: str, backend: str, args: tuple, result: Any) -> None:
        if backend == engines.CPU:
            recorded.add(op, args, result, WRITTEN.get(op, ()))
        else:
            others.add(backend)

    with registry.recorded(tell):
        outputs: Tensors = function(spec, inputs, *facts)
    if recorded.finish(outputs) and not others:
        _recordings[key] = [*(_recordings.get(key) or ()), recorded]
    else:
        _recordings[key] = None
    return outputs
