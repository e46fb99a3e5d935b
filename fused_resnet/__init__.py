"""Fused residual blocks for PyTorch: the same function, with fewer passes over memory.

model = fused_resnet.fuse(torchvision.models.resnet50())
"""

from . import models
from ._version import __version__
from .backends import tuning, use_backend
from .backends.cpu import empty_cache
from .convert import Explanation, explain, fuse, unfuse

__all__ = [
    "Explanation",
    "__version__",
    "empty_cache",
    "explain",
    "fuse",
    "models",
    "tuning",
    "unfuse",
    "use_backend",
]
