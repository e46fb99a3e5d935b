"""A user's module with a fused forward: its own class, subclassed, so that everything else about it stays."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch.nn as nn

from .rewrite import Pending, Program

Programs = Mapping[bool, Program]  # in training and in eval mode


class FusedModule(nn.Module):
    """Mixed in front of a module's class by `fuse`; taken away again by `unfuse`.

    The instance keeps its parameters, buffers, children, attributes and hooks. Wherever the fused forward
    does not apply, the class's own forward runs.
    """

    _stock_type: type[nn.Module]
    # where code of the class makes another instance (slicing an nn.Sequential does), that one is not fused
    _fused_programs: Programs = {}

    def __reduce_ex__(self, protocol):
        reduced = super().__reduce_ex__(protocol)
        return _new, (self._stock_type,), *reduced[2:]

    def __setstate__(self, state):
        super().__setstate__(state)
        if any(isinstance(p, Pending) for p in self._fused_programs.values()):
            from .fuse import programs  # pickles are opened rarely, and fuse imports this module

            memory = next(iter(self._fused_programs.values())).memory
            self.__dict__["_fused_programs"] = programs(self, memory)


_types: dict[type[nn.Module], type[FusedModule]] = {}


def fused_type(stock: type[nn.Module]) -> type[FusedModule]:
    """The fused subclass of a module class, made once."""
    if stock not in _types:
        _types[stock] = _make_type(stock)
    return _types[stock]


def _make_type(stock: type[nn.Module]) -> type[FusedModule]:
    @functools.wraps(stock.forward)  # whoever asks for the signature (torch.fx does) gets the stock one
    def forward(self, *args, **kwargs):
        program = self._fused_programs.get(self.training)
        if program is None or not program.applies(self, args, kwargs):
            return stock.forward(self, *args, **kwargs)
        return program.function(self, *args, **kwargs)

    attributes = {"_stock_type": stock, "__doc__": stock.__doc__, "forward": forward}
    return type(f"Fused{stock.__name__}", (FusedModule, stock), attributes)


def _new(stock: type[nn.Module]) -> FusedModule:
    cls = fused_type(stock)
    return cls.__new__(cls)


@contextlib.contextmanager
def as_stock(model: nn.Module) -> Iterator[None]:
    """Every fused module of a model under its original class for a while: its own forward can be read."""
    fused: list[tuple[Any, Any]] = [(m, type(m)) for m in model.modules() if isinstance(m, FusedModule)]
    try:
        for module, cls in fused:
            module.__class__ = cls._stock_type
        yield
    finally:
        for module, cls in fused:
            module.__class__ = cls


def is_fused(module: nn.Module) -> bool:
    """Has `fuse` changed this module's forward?"""
    return isinstance(module, FusedModule) and bool(module._fused_programs)


def is_wrapped(module: nn.Module) -> bool:
    """Has somebody subclassed a fused module's class since (FSDP2 does)?"""
    return isinstance(module, FusedModule) and "_stock_type" not in vars(type(module))


def install(module: Any, programs: Programs) -> None:
    """Give a module fused forwards; without any, its own class back."""
    fused = isinstance(module, FusedModule)
    if fused and not programs:
        vars(module).pop("_fused_programs", None)
        if not is_wrapped(module):
            module.__class__ = module._stock_type
    elif programs:
        if not fused:
            module.__class__ = fused_type(type(module))
        vars(module)["_fused_programs"] = programs
