"""Who runs an op: one place that maps (op, device, dtype, layout) to a backend.

A backend is a module with ``OPS`` (name -> function) and ``refuses(op, args)``, which gives the reason why it cannot
take these arguments, or None. Per device the backends are asked in order of preference; the reference takes what
nobody else wants, and `explain` shows who took what.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType

from . import cpu, reference

BACKENDS: dict[str, ModuleType] = {"cpu": cpu, "reference": reference}
PREFERENCE: dict[str, tuple[str, ...]] = {"cpu": ("cpu", "reference")}
FALLBACK = ("reference",)

# Process-wide, not per thread: autograd runs backward in threads of its own.
_forced: list[str] = []
_observers: list[Callable[[str, str], None]] = []


def select(op: str, args: tuple) -> tuple[str, Callable]:
    """The name of the backend that takes `op` on `args`, and its function."""
    names = (_forced[-1], *FALLBACK) if _forced else PREFERENCE.get(args[0].device.type, FALLBACK)
    for name in names:
        backend = BACKENDS[name]
        if op in backend.OPS and backend.refuses(op, args) is None:
            for observer in _observers:
                observer(op, name)
            return name, backend.OPS[op]
    raise RuntimeError(f"no backend takes {op}; asked {names}")  # the reference takes everything


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every op inside the block on one backend; what it lacks goes to the reference.

    The choice holds for the whole process (autograd's backward threads included) until the block ends.

    Args:
        name: ``"reference"`` (pure ATen, any device) or ``"cpu"`` (the C++ extension).

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
    """The first backend of this device with convolution kernels of its own, else "library" (cuDNN, oneDNN)."""
    names = (_forced[-1],) if _forced else PREFERENCE.get(device_type, ())
    own = (n for n in names if n != "reference" and "conv_fprop" in BACKENDS[n].OPS)
    return next(own, "library")
