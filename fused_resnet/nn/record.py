"""Observers of fused units as they run: how `explain` learns shapes and plans."""

import contextlib

recorders: list = []


@contextlib.contextmanager
def record(callback):
    """Call ``callback(unit, x, modules, shapes, plan, spec)`` for every fused unit that runs inside."""
    recorders.append(callback)
    try:
        yield
    finally:
        recorders.remove(callback)
