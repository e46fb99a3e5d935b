"""Fused residual blocks for PyTorch: the same function, with fewer passes over memory.

    model = fused_resnet.fuse(torchvision.models.resnet50())
"""

from . import models
from .backends import use_backend
from .convert import Explanation, explain, fuse, unfuse

__version__ = "0.1.0"
__all__ = ["Explanation", "explain", "fuse", "models", "unfuse", "use_backend"]
