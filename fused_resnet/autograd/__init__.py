"""Forward and backward of the fused units as `torch.autograd.Function`s."""

from .functions import (
    BasicBlock,
    Bottleneck,
    ConvBNAct,
    ConvBNActMaxPool,
    ConvBNAddAct,
    autocast_dtype,
    recording,
    run,
)
from .replay import possible as can_replay
from .spec import ChainSpec, Geometry, UnitParams, UnitSpec
from .stem import Pool

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "ChainSpec",
    "ConvBNAct",
    "ConvBNActMaxPool",
    "ConvBNAddAct",
    "Geometry",
    "Pool",
    "UnitParams",
    "UnitSpec",
    "autocast_dtype",
    "can_replay",
    "recording",
    "run",
]
