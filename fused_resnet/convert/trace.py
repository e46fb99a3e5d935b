"""One module's own forward as a graph: its children stay opaque, so only its own code is traced."""

from __future__ import annotations

import inspect
import types

import torch.fx as fx
import torch.nn as nn

from ..nn.plain import BATCH_NORMS, attached, is_frozen_batch_norm

PRIMITIVES = (nn.Conv2d, *BATCH_NORMS, nn.ReLU, nn.Identity, nn.MaxPool2d, nn.AvgPool2d)
# names that make what a forward does depend on more than the values of its tensors
TYPE_TESTS = {"isinstance", "issubclass", "is_tensor", "type", "hasattr"}


class NotTraceable(Exception):
    """The reason why a module's forward cannot be turned into a graph."""


def is_primitive_sequential(module: nn.Module) -> bool:
    """An nn.Sequential of layers only, like a projection shortcut: safe to look into."""
    return (
        type(module) is nn.Sequential
        and not attached(module)
        and all(type(m) in PRIMITIVES or is_frozen_batch_norm(m) for m in module)
    )


class _OwnForward(fx.Tracer):
    """Keeps every child a leaf but, with `inline`, sequentials of primitive layers."""

    def __init__(self, inline: bool):
        super().__init__()
        self.inline = inline

    def is_leaf_module(self, m, module_qualified_name):
        return not (self.inline and is_primitive_sequential(m))


def _type_test(module: nn.Module) -> str | None:
    """A type test in the forward or in the methods it uses: tracing would freeze its answer for a proxy."""
    seen: set[str] = set()
    queue = ["forward"]
    while queue:
        name = queue.pop()
        function = inspect.getattr_static(type(module), name, None)
        function = getattr(function, "__func__", function)
        if name in seen or not isinstance(function, types.FunctionType):
            continue
        seen.add(name)
        names = function.__code__.co_names
        if found := TYPE_TESTS.intersection(names):
            return f"{name} uses {min(found)}()"
        queue.extend(names)
    return None


def plain_attributes(module: nn.Module) -> dict:
    """Attributes that the forward's control flow may have looked at while it was traced."""
    return {
        k: v
        for k, v in vars(module).items()
        if not k.startswith("_") and k != "training" and isinstance(v, (bool, int, float, str, type(None)))
    }


def trace(module: nn.Module, training: bool, inline: bool) -> fx.Graph:
    """The graph of ``type(module).forward`` in one mode. Leaves the module as it was.

    Raises:
        NotTraceable: with the reason.
    """
    if (why := _type_test(module)) is not None:
        raise NotTraceable(why)
    before, was_training = dict(vars(module)), module.training
    try:
        module.training = training
        graph = _OwnForward(inline).trace(module)
    except Exception as error:  # whatever user code raises when it is handed a proxy
        raise NotTraceable(f"its forward cannot be traced: {str(error).splitlines()[0] or type(error).__name__}") from error
    finally:
        module.training = was_training
        changed = [k for k, v in vars(module).items() if k not in before or before[k] is not v]
        vars(module).update(before)
        for name in set(vars(module)) - set(before):
            del vars(module)[name]
    if changed:
        raise NotTraceable(f"its forward sets attributes: {', '.join(sorted(changed))}")
    return graph
