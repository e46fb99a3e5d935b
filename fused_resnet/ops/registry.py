"""Registers an op with torch from one annotated Python function.

The function's signature is the schema, its docstring the documentation and its body the argument checks.
Shapes on fake tensors come from the reference implementation, so they cannot drift from it.
"""

import functools

import torch
from torch.library import Library, infer_schema, register_fake

from .. import backends
from ..backends import reference

NAMESPACE = "fused_resnet"
LIBRARY = Library(NAMESPACE, "DEF")


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

        return call

    return register
