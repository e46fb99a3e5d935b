"""Registers an op with torch from one annotated Python function.

The function's signature is the schema, its docstring the documentation and its body the argument checks.
Shapes on fake tensors come from the reference implementation, so they cannot drift from it.

There are two ways to call an op. The public one goes through torch's dispatcher and checks its arguments.
`unchecked` is for the autograd layer, whose arguments follow from what the fused unit has checked: where
nobody looks at single ops it asks for the backend's function and calls that. On small inputs the dispatcher
and the checks cost several times what the kernels do.
"""

import functools
from collections.abc import Sequence
from types import NoneType, SimpleNamespace
from typing import Any

import torch
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


def _watched(args: Sequence[Any]) -> bool:
    """Does somebody look at single ops: a compiler, a profiler, a mode, a transform, a tensor subclass?"""
    if torch.compiler.is_compiling() or not _PLAIN.issuperset(map(type, args)):
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
            return overload(*args) if _watched(args) else backends.select(name, args)[1](*args)

        setattr(unchecked, name, direct)
        return call

    return register
