"""Who runs an op: one place that maps (op, device, dtype, layout) to a backend.

A backend has ``OPS`` (name -> function) and ``refuses(op, args)``, which gives the reason why it cannot take
these arguments, or None. Per device the backends are asked in order of preference: kernels of our own, the
library's convolutions, and the reference, which takes what nobody else wants. `explain` shows who took what.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

from . import cpu, reference
from .library import Library


class Backend(Protocol):
    """What a backend gives; one that may be absent also has ``unavailable() -> str | None``."""

    OPS: dict[str, Callable]

    def refuses(self, op: str, args: tuple) -> str | None: ...


PREFERENCE: dict[str, tuple[str, ...]] = {"cpu": ("cpu",)}
FALLBACK = ("library", "reference")

# Process-wide, not per thread: autograd runs backward in threads of its own.
_forced: list[str] = []
_observers: list[Callable[[str, str], None]] = []


def select(op: str, args: tuple) -> tuple[str, Callable]:
    """The name of the backend that takes `op` on `args`, and its function."""
    for name in _candidates(args[0].device.type):
        backend = BACKENDS[name]
        if op in backend.OPS and backend.refuses(op, args) is None:
            for observer in _observers:
                observer(op, name)
            return name, backend.OPS[op]
    raise RuntimeError(f"no backend takes {op}")  # unreachable: the reference takes everything


def _candidates(device_type: str) -> tuple[str, ...]:
    if not _forced:
        return (*PREFERENCE.get(device_type, ()), *FALLBACK)
    return (_forced[-1],) if _forced[-1] == "reference" else (_forced[-1], *FALLBACK)


BACKENDS: dict[str, Backend] = {"cpu": cpu, "library": Library(select), "reference": reference}


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every op inside the block on one backend; what it lacks goes to the library and the reference.

    The choice holds for the whole process (autograd's backward threads included) until the block ends.

    Args:
        name: ``"reference"`` (pure ATen, any device, nothing else), ``"cpu"`` (the C++ extension) or
            ``"library"`` (no kernels of our own).

    Raises:
        ValueError: unknown name.
        RuntimeError: the backend cannot run here; the message says why.
    """
    if name not in BACKENDS:
        raise ValueError(f"name: expected one of {sorted(BACKENDS)}, got {name!r}")
    if why := unavailable(name):
        raise RuntimeError(f"backend {name!r} is unavailable: {why}")
    _forced.append(name)
    try:
        yield
    finally:
        _forced.pop()


def unavailable(name: str) -> str | None:
    """Why backend `name` cannot run in this process, or None."""
    return getattr(BACKENDS[name], "unavailable", lambda: None)()


@contextlib.contextmanager
def observe(callback: Callable[[str, str], None]) -> Iterator[None]:
    """Call ``callback(op, backend)`` for every op that runs inside the block."""
    _observers.append(callback)
    try:
        yield
    finally:
        _observers.remove(callback)


def convolution_engine(device_type: str) -> str:
    """The first backend of this device with convolutions of its own, else "library" (cuDNN, oneDNN)."""
    return next(
        (n for n in _candidates(device_type) if n not in FALLBACK and "conv_fprop" in BACKENDS[n].OPS),
        "library",
    )
