"""Registers an op with torch from one annotated Python function.

The function's signature is the schema, its docstring the documentation and its body the argument checks.
Shapes on fake tensors come from the reference implementation, so they cannot drift from it.

There are two ways to call an op. The public one goes through torch's dispatcher and checks its arguments.
`unchecked` is for the autograd layer, whose arguments follow from what the fused unit has checked: where
nobody looks at single ops it asks for the backend's function and calls that. On small inputs the dispatcher
and the checks cost several times what the kernels do. Of `unchecked` calls one can be told (`recorded`).
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from types import NoneType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.library import Library, infer_schema, register_fake

from .. import backends
from ..backends import reference

NAMESPACE = "fused_resnet"
LIBRARY = Library(NAMESPACE, "DEF")

# The ops by name, for callers that have checked the arguments.
unchecked: Any = SimpleNamespace()

# Neither subclasses of Tensor, which see every op, nor sizes that a graph leaves open.
_PLAIN = frozenset((torch.Tensor, torch.nn.Parameter, NoneType, str, int, float, tuple, list, torch.Size))


_dispatch_modes = torch._C._len_torch_dispatch_stack
_function_modes = torch._C._is_torch_function_mode_enabled
_transforms = torch._C._are_functorch_transforms_active
_profiled = torch.autograd._profiler_enabled


class _Thread(threading.local):
    told: Callable[[str, str, tuple, Any], None] | None = None


_thread = _Thread()


@contextlib.contextmanager
def recorded(tell: Callable[[str, str, tuple, Any], None]) -> Iterator[None]:
    """Call ``tell(op, backend, args, result)`` after every `unchecked` op of this thread inside the block."""
    before, _thread.told = _thread.told, tell
    try:
        yield
    finally:
        _thread.told = before


def told(name: str, function: Callable[..., Tensor], *args: Any) -> Tensor:
    """``function(*args)``, which `recorded` is told of like an op of the CPU backend that has this name.

    It is not where nothing happened: the first argument came back.
    """
    result = function(*args)
    if not torch.compiler.is_compiling() and _thread.told is not None and result is not args[0]:
        _thread.told(name, backends.engines.CPU, args, result)
    return result


def copied(t: Tensor) -> Tensor:
    """A copy, dense in the order of dimensions."""
    return told("copy", functools.partial(torch.clone, memory_format=torch.contiguous_format), t)


def laid_out(t: Tensor, like: Tensor) -> Tensor:
    """`t` as `like` lies in memory: NHWC, or dense in the order of dimensions."""
    return told("laid_out", _lay_out, t, like)


def _lay_out(t: Tensor, like: Tensor) -> Tensor:
    nhwc = like.is_contiguous(memory_format=torch.channels_last)
    return t.contiguous(memory_format=torch.channels_last if nhwc else torch.contiguous_format)


def cast(t: Tensor, dtype: torch.dtype) -> Tensor:
    """``t.to(dtype)``, which takes its time even where there is nothing to do."""
    return t if t.dtype == dtype else told("cast", torch.Tensor.to, t, dtype)


def watched() -> bool:
    """Does somebody look at single ops: a compiler, a profiler, a mode, a transform?"""
    if torch.compiler.is_compiling():
        return True
    return _dispatch_modes() > 0 or _function_modes() or _transforms() or _profiled()


def op(mutates=()):
    """Decorator: define ``torch.ops.fused_resnet.<name>``; the decorated body checks the arguments."""

    def register(check):
        name = check.__name__
        LIBRARY.define(name + infer_schema(check, mutates_args=mutates), tags=(torch.Tag.pt2_compliant_tag,))

        def run(*args):
            check(*args)
            return backends.select(name, args)[1](*args)

        def fake(*args):
            check(*args)
            backend, _ = backends.select(name, args)
            return backends.laid_out(backend, name, reference.OPS[name](*args))

        LIBRARY.impl(name, run, "CompositeExplicitAutograd")
        register_fake(f"{NAMESPACE}::{name}", fake, lib=LIBRARY)
        overload = getattr(getattr(torch.ops, NAMESPACE), name).default

        @functools.wraps(check)
        def call(*args, **kwargs):
            return overload(*args, **kwargs)

        def direct(*args):
            if watched() or not _PLAIN.issuperset(map(type, args)):  # subclasses of Tensor see ops, too
                return overload(*args)
            backend, function = backends.select(name, args)
            result = function(*args)
            if _thread.told is not None:
                _thread.told(name, backend, args, result)
            return result

        setattr(unchecked, name, direct)
        return call

    return register
