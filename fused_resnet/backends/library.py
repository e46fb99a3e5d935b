"""The library's convolutions (cuDNN, oneDNN) with the fastest BN ops of the device around them."""

from collections.abc import Callable

from .reference.block import Blocks


class _Selected:
    """The BN ops by whichever backend takes them."""

    def __init__(self, select: Callable):
        self._select = select

    def __getattr__(self, op):
        return lambda *args: self._select(op, args)[1](*args)


class Library:
    """A backend with convolution ops only, which never refuses."""

    def __init__(self, select: Callable):
        self.OPS = Blocks(_Selected(select)).ops()

    def refuses(self, op: str, args: tuple) -> None:
        return None
