"""What a module's forward was read under: where that holds no longer, its code might do something else."""

from __future__ import annotations

import copy
import types
from dataclasses import dataclass
from typing import Any

import torch.nn as nn

from ..nn.plain import attached

# containers that have no forward of their own code: convolutions in them belong to whoever holds them
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_MODULE_ATTRIBUTES = frozenset(vars(nn.Module()))
_CONSTANTS = (bool, int, float, str, type(None), types.FunctionType, types.BuiltinFunctionType, type)


@dataclass(frozen=True)
class Premises:
    """Of one module and of the calls of its forward.

    required: names of the arguments without defaults; the others were read at their defaults. attributes: the
    plain ones. children: names of the children, and of those in containers, by path. transparent: types of
    the modules that were looked through, by path: sequentials of layers, and identities.
    """

    required: tuple[str, ...]
    attributes: dict[str, Any]
    children: dict[str, tuple[str, ...]]
    transparent: dict[str, type[nn.Module]]

    def hold(self, module: nn.Module, args: tuple, kwargs: dict) -> bool:
        given = (*self.required[: len(args)], *kwargs)
        if len(args) + len(kwargs) != len(self.required) or set(given) != set(self.required):
            return False  # optional arguments given, or a call that raises
        present = module.__dict__
        for name, value in self.attributes.items():
            if name not in present or type(present[name]) is not type(value) or present[name] != value:
                return False
        for path, names in self.children.items():
            holder = _find(module, path)
            if holder is None or _names(holder) != names:
                return False
        for path, kind in self.transparent.items():
            looked_through = _find(module, path)
            if type(looked_through) is not kind or attached(looked_through):
                return False
        return True


def _find(module: nn.Module, path: str) -> Any:
    """As get_submodule, which takes its time; None where there is none."""
    for name in path.split(".") if path else ():
        child = module._modules.get(name)
        if child is None:
            return None
        module = child
    return module


def plain_attributes(module: nn.Module, mentioned: set[str]) -> dict[str, Any]:
    """Copies of the attributes that the forward's control flow may look at: those that its code mentions."""
    own = {k: v for k, v in vars(module).items() if k not in _MODULE_ATTRIBUTES}
    if "getattr" not in mentioned:  # which makes up names as it runs
        own = {k: v for k, v in own.items() if k in mentioned}
    return {k: copy.deepcopy(v) for k, v in own.items() if _is_constant(v)}


def _is_constant(value) -> bool:
    if isinstance(value, (tuple, list, set, frozenset)):
        return all(_is_constant(v) for v in value)
    if isinstance(value, dict):
        return all(_is_constant(v) for v in (*value, *value.values()))
    return isinstance(value, _CONSTANTS)


def children_names(module: nn.Module, path: str = "") -> dict[str, tuple[str, ...]]:
    """Names of a module's children under its path, and so on through containers."""
    found = {path: _names(module)}
    for name, child in module.named_children():
        if isinstance(child, CONTAINERS):
            found |= children_names(child, f"{path}.{name}" if path else name)
    return found


def _names(module: nn.Module) -> tuple[str, ...]:
    return tuple([name for name, child in module._modules.items() if child is not None])
