"""Bytes and floating-point operations of what a model runs, per operator: counted, not measured."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ..backends import reference
from ..convert.pretend import pretending
from ..ops.registry import NAMESPACE

__all__ = ["Operation", "Operations", "counting", "operations"]

# Operators of these namespaces move memory, but for those that touch none of their arguments'.
MOVING = ("aten", NAMESPACE)
FREE = frozenset(("aten::detach", "aten::empty_like", "aten::lift_fresh"))


@dataclass(frozen=True)
class Operation:
    """One operator that ran.

    bytes: every tensor that it reads or writes counts once and in full, as if it came from memory and went
    there; flops: a multiplication and an addition are two, of direct convolutions and matrix products; the
    rest has none.
    """

    name: str
    bytes: int
    flops: int


class Operations(list[Operation]):
    """In the order in which they ran."""

    @property
    def bytes(self) -> int:
        return sum(operation.bytes for operation in self)

    @property
    def flops(self) -> int:
        return sum(operation.flops for operation in self)

    def least_seconds(self, bytes_per_second: float, flops_per_second: float) -> float:
        """The sum over the operators of what their bytes or their flops take at least, whichever is more.

        So says the roofline model (Williams, Waterman, Patterson 2009) of operators that run one after
        another. A cache that keeps what one operator gives for the next, or fewer multiplications (Winograd),
        can be faster.
        """
        return sum(max(o.bytes / bytes_per_second, o.flops / flops_per_second) for o in self)


class _Counter(TorchDispatchMode):
    def __init__(self, found: Operations) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out, flops = self._run(func, args, kwargs)
        name = func._schema.name
        if func.namespace in MOVING and not func.is_view and name not in FREE:
            read = {id(t): t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
            written = {id(t): t for t in tree_leaves(out) if isinstance(t, Tensor)}
            size = sum(t.numel() * t.itemsize for t in (*read.values(), *written.values()))
            self.found.append(Operation(name, size, flops))
        return out

    def _run(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[Any, int]:
        """The result and its flops: of one of our ops, those of its reference."""
        with FlopCounterMode(display=False) as counter:
            if func.namespace != NAMESPACE:
                out = func(*args, **kwargs)
            else:
                reference.OPS[func._opname](*args, **kwargs)
        if func.namespace == NAMESPACE:
            out = func(*args, **kwargs)
        return out, counter.get_total_flops()


@contextlib.contextmanager
def counting() -> Iterator[Operations]:
    """What runs on fake tensors inside the block."""
    found = Operations()
    with _Counter(found):
        yield found


def operations(model: nn.Module, input: Tensor, loss: Callable[[Any], Tensor] | None = None) -> Operations:
    """What one pass of `model` runs, on fake tensors: no memory, no time, and the model stays as it is.

    The model is in the mode and under the autocast that it would run in.

    Args:
        model: stock or fused, called with one tensor.
        input: ``[N, C, H, W]``; if it needs a gradient, that is computed, too.
        loss: from the output to a scalar, for a training step: backward to all parameters that need gradients
            counts, too. Without it no gradients are recorded.
    """
    gradients = torch.set_grad_enabled(loss is not None)
    with pretending(model, input) as pretence, counting() as found, gradients:
        out = pretence.call()
        if loss is not None:
            needed = [t for t in pretence.leaves if t.requires_grad]
            torch.autograd.grad(loss(out), needed, allow_unused=True)
    return found
