"""One module's own forward as a graph: its children stay opaque, so only its own code is traced."""

from __future__ import annotations

import contextlib
import inspect
import operator
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch.fx as fx
import torch.nn as nn
from torch.utils._python_dispatch import TorchDispatchMode

from ..nn.plain import BATCH_NORMS, attached, is_frozen_batch_norm
from .premises import Premises, children_names, plain_attributes

PRIMITIVES = (nn.Conv2d, *BATCH_NORMS, nn.ReLU, nn.Identity, nn.MaxPool2d, nn.AvgPool2d)
# Names in a forward whose answer or effect a graph would lose: what they tell of a tensor is not true of the
# proxy that stands for it, or they depend on (or change) more than the tensors.
UNTRACEABLE = {
    *("isinstance", "issubclass", "is_tensor", "type", "hasattr", "random"),
    *("is_grad_enabled", "is_inference_mode_enabled", "is_autocast_enabled"),
    *("no_grad", "enable_grad", "set_grad_enabled", "inference_mode", "autocast"),
}


class NotTraceable(Exception):
    """The reason why a module's forward cannot be turned into a graph."""


class Traced(NamedTuple):
    graph: fx.Graph
    premises: Premises


def is_primitive_sequential(module: nn.Module) -> bool:
    """An nn.Sequential of layers only, like a projection shortcut: safe to look into."""
    return (
        type(module) is nn.Sequential
        and not attached(module)
        and all(type(m) in PRIMITIVES or is_frozen_batch_norm(m) for m in module)
    )


class _InplaceProxy(fx.Proxy):
    """Records ``a += b`` as it is; fx's own proxy makes it ``a = a + b``, with another dtype and aliases."""


def _record_inplace(operation):
    def method(self, other):
        return self.tracer.create_proxy("call_function", operation, (self, other), {})

    return method


for _name in ("iadd", "isub", "imul", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor"):
    setattr(_InplaceProxy, f"__{_name}__", _record_inplace(getattr(operator, _name)))


class _OwnForward(fx.Tracer):
    """Keeps every child a leaf but, with `inline`, sequentials of layers. Optional arguments get defaults."""

    def __init__(self, inline: bool, optional: dict[str, Any]):
        super().__init__()
        self.inline, self.optional = inline, optional
        self.inlined: list[str] = []

    def proxy(self, node):
        return _InplaceProxy(node, self)

    def is_leaf_module(self, m, module_qualified_name):
        if not (self.inline and is_primitive_sequential(m)):
            return True
        self.inlined.append(module_qualified_name)
        return False

    def call_module(self, m, forward, args, kwargs):
        """A ReLU made inside the forward has no name to be called by, and needs none."""
        if type(m) is nn.ReLU and all(m is not known for known in self.root.modules()):
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def create_args_for_root(self, root_fn, is_module, concrete_args=None):
        """The proxies of the arguments, and the values of those that stay at their defaults."""
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        chosen = [self.optional.get(str(a.node.target), a) if isinstance(a, fx.Proxy) else a for a in args]
        return function, chosen


class _NoTensors(TorchDispatchMode):
    """Fails where a forward computes with tensors that are no proxies: a graph would keep the result."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        raise NotTraceable(f"its forward computes {func} on tensors that do not come from its input")


def _code_names(code: types.CodeType) -> set[str]:
    nested = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return set(code.co_names).union(*(_code_names(c) for c in nested))


def _definitions(cls: type, name: str) -> Iterator[types.FunctionType]:
    """The method, or property, of this name that an instance runs; its bases' too where it calls super()."""
    for base in cls.__mro__:
        if base is nn.Module:
            return
        found = vars(base).get(name)
        function = getattr(found, "__func__", None) or getattr(found, "fget", None) or found
        if isinstance(function, types.FunctionType):
            yield function
            if "super" not in _code_names(function.__code__):
                return


def _mentioned_names(module: nn.Module) -> set[str]:
    """All names in the code of its forward and of the methods of its class that this uses.

    Raises NotTraceable where that code does something that a graph would lose.
    """
    seen: set[str] = set()
    queue = ["forward"]
    while queue:
        name = queue.pop()
        if name in seen or (hasattr(nn.Module, name) and name != "forward"):
            continue
        seen.add(name)
        for function in _definitions(type(module), name):
            if hasattr(function, "__wrapped__"):
                raise NotTraceable(f"{name} is decorated")
            names = _code_names(function.__code__)
            if found := UNTRACEABLE.intersection(names):
                raise NotTraceable(f"{name} uses {min(found)}")
            queue.extend(names)
    return seen


def _signature(module: nn.Module) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Required arguments of the forward, and defaults of the optional ones."""
    parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise NotTraceable("its forward takes any number of arguments")
    required = tuple(p.name for p in parameters if p.default is p.empty)
    return required, {p.name: p.default for p in parameters if p.default is not p.empty}


def _contents(value) -> list:
    """Identities of what a list, dict or set holds."""
    return [(k, id(v)) for k, v in value.items()] if isinstance(value, dict) else [id(v) for v in value]


def _restore(value, before) -> None:
    value.clear()
    value.extend(before) if isinstance(value, list) else value.update(before)


@contextlib.contextmanager
def unchanged(root: nn.Module) -> Iterator[list[str]]:
    """Takes back what the block does to attributes of the modules of `root`; the list then names those."""
    modules = [(path, m, dict(vars(m))) for path, m in root.named_modules()]
    mutable = [
        (f"{path}.{name}", value, dict(value) if isinstance(value, dict) else type(value)(value))
        for path, _, attributes in modules
        for name, value in attributes.items()
        if isinstance(value, dict) or type(value) in (list, set)
    ]
    changed: list[str] = []
    try:
        yield changed
    finally:
        for path, module, before in modules:
            present = vars(module)
            keys = [k for k in {**before, **present} if present.get(k, ...) is not before.get(k, ...)]
            changed.extend(f"{path}.{k}" for k in keys)
            if keys:
                present.clear()
                present.update(before)
        for name, value, before in mutable:
            if _contents(value) != _contents(before):
                changed.append(name)
                _restore(value, before)


def trace(module: nn.Module, training: bool, inline: bool) -> Traced:
    """The graph of ``type(module).forward`` in one mode, and what it was read under. Changes nothing.

    Raises:
        NotTraceable: with the reason.
    """
    mentioned = _mentioned_names(module)
    required, optional = _signature(module)
    tracer, was_training = _OwnForward(inline, optional), module.training
    try:
        module.training = training
        with unchanged(module) as changed, _NoTensors():
            graph = tracer.trace(module)
    except NotTraceable:
        raise
    except Exception as error:  # whatever user code raises when it is handed a proxy
        raise NotTraceable(f"its forward cannot be traced: {_first_line(error)}") from error
    finally:
        module.training = was_training
    if changed:
        names = sorted({c.lstrip(".") for c in changed})
        raise NotTraceable(f"its forward sets attributes: {', '.join(names)}")
    transparent: dict[str, type[nn.Module]] = dict.fromkeys(tracer.inlined, nn.Sequential)
    transparent |= dict.fromkeys(_bypass_identities(graph, module), nn.Identity)
    attributes = plain_attributes(module, mentioned)
    return Traced(graph, Premises(required, attributes, children_names(module), transparent))


def _bypass_identities(graph: fx.Graph, module: nn.Module) -> list[str]:
    """Take nn.Identity out: it stands where an option is off (timm's anti-aliasing, drop block)."""
    bypassed = []
    for node in list(graph.nodes):
        if node.op != "call_module":
            continue
        called = module.get_submodule(node.target)
        if type(called) is nn.Identity and not attached(called) and len(node.args) == 1:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
            bypassed.append(node.target)
    return bypassed


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
