"""Fused units over the user's own modules."""

from .record import record
from .shortcut import ZeroPadShortcut
from .unit import FUNCTIONS, FusedUnit

__all__ = ["FUNCTIONS", "FusedUnit", "ZeroPadShortcut", "record"]
