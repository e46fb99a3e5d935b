"""From a user's model to fused units and back."""

from .explain import Explanation, explain
from .fuse import fuse, unfuse

__all__ = ["Explanation", "explain", "fuse", "unfuse"]
