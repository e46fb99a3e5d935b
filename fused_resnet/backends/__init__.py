"""Who runs an op: one place that maps (op, device, dtype, layout) to a backend.

A backend has ``OPS`` (name -> function) and ``refuses(op, args)``, which gives the reason why it cannot take
these arguments, or None. Per device the backends are asked in order of preference: kernels of our own, the
library's convolutions, and the reference, which takes what nobody else wants. On CUDA devices the ops of a
convolution pass over our own kernels where the planner found the library faster (`engines`). `explain` shows
who took what.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from . import cpu, engines, reference, triton
from .library import Library


class Backend(Protocol):
    """What a backend gives.

    One that may be absent also has ``unavailable() -> str | None``; one with convolutions of its own also has
    ``unsuited(device, dtype) -> str | None``, which says why it takes no such activations.
    """

    OPS: dict[str, Callable]

    def refuses(self, op: str, args: tuple) -> str | None: ...


PREFERENCE: dict[str, tuple[str, ...]] = {"cpu": ("cpu",), "cuda": ("triton",)}
FALLBACK = ("library", "reference")

# Process-wide, not per thread: autograd runs backward in threads of its own.
_forced: list[str] = []
_observers: list[Callable[[str, str], None]] = []


def select(op: str, args: tuple) -> tuple[str, Callable]:
    """The name of the backend that takes `op` on `args`, and its function."""
    device_type = args[0].device.type
    names = _candidates(device_type)
    if device_type == "cuda" and not _forced and engines.engine_of_call(op, args) == engines.LIBRARY:
        names = FALLBACK
    for name in names:
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


BACKENDS: dict[str, Backend] = {
    "cpu": cpu,
    "triton": triton,
    "library": Library(select),
    "reference": reference,
}


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every op inside the block on one backend; what it lacks goes to the library and the reference.

    The choice holds for the whole process (autograd's backward threads included) until the block ends.

    Args:
        name: ``"reference"`` (pure ATen, any device, nothing else), ``"cpu"`` (the C++ extension),
            ``"triton"`` (GPU kernels, convolutions included) or ``"library"`` (no kernels of our own).

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


def laid_out(name: str, op: str, result: Any) -> Any:
    """The reference's result with the strides that backend `name` gives, where these are not the same."""
    own = getattr(BACKENDS[name], "laid_out", None)
    return result if own is None else own(op, result)


@contextlib.contextmanager
def observe(callback: Callable[[str, str], None]) -> Iterator[None]:
    """Call ``callback(op, backend)`` for every op that runs inside the block."""
    _observers.append(callback)
    try:
        yield
    finally:
        _observers.remove(callback)


def forced() -> bool:
    """Whether `use_backend` leaves no choice right now."""
    return bool(_forced)


def convolution_engine(device: torch.device, dtype: torch.dtype, nhwc: bool) -> str:
    """The backend whose own convolutions take activations like these, else "library" (cuDNN, oneDNN).

    Args: nhwc: are they dense in channels_last, and in that layout only?
    """
    for name in _candidates(device.type) if nhwc else ():
        unsuited = getattr(BACKENDS[name], "unsuited", None)
        if unsuited is not None and unsuited(device, dtype) is None:
            return name
    return engines.LIBRARY
