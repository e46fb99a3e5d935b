"""A user's module with a fused forward: its own class, subclassed, so that everything else about it stays."""

from __future__ import annotations

import contextlib
import functools

import torch.nn as nn

from .rewrite import Pending


class FusedModule(nn.Module):
    """Mixed in front of a module's class by `fuse`; taken away again by `unfuse`.

    The instance keeps its parameters, buffers, children, attributes and hooks. Wherever the fused forward does not apply,
    the class's own forward runs.
    """

    _stock_type: type[nn.Module]

    def forward(self, *args, **kwargs):
        program = self._fused_programs.get(self.training)
        if program is None or not program.applies(self, args, kwargs):
            return super().forward(*args, **kwargs)
        return program.function(self, *args, **kwargs)

    def __reduce_ex__(self, protocol):
        reduced = super().__reduce_ex__(protocol)
        return _new, (self._stock_type,), *reduced[2:]

    def __setstate__(self, state):
        super().__setstate__(state)
        if any(isinstance(p, Pending) for p in self._fused_programs.values()):
            from .fuse import programs  # pickles are opened rarely, and fuse imports this module

            memory = next(iter(self._fused_programs.values())).memory
            with as_stock(self):
                made = programs(self, memory)
            self.__dict__["_fused_programs"] = made


@functools.cache
def fused_type(stock: type[nn.Module]) -> type[FusedModule]:
    """The fused subclass of a module class, made once."""
    return type(f"Fused{stock.__name__}", (FusedModule, stock), {"_stock_type": stock, "__doc__": stock.__doc__})


def _new(stock: type[nn.Module]) -> FusedModule:
    cls = fused_type(stock)
    return cls.__new__(cls)


@contextlib.contextmanager
def as_stock(module: nn.Module):
    """A fused module under its original class for a while, so that its own forward can be read."""
    fused = type(module)
    try:
        if isinstance(module, FusedModule):
            module.__class__ = module._stock_type
        yield module
    finally:
        module.__class__ = fused


def is_fused(module: nn.Module) -> bool:
    return isinstance(module, FusedModule)
