"""What a convolution and its batch norm say right now: read at every call, so that changes are seen."""

from typing import Any, NamedTuple

import torch

from ..autograd import Geometry, UnitParams
from .plain import is_frozen_batch_norm, tensor
from .statistics import Statistics, statistics


class Layer(NamedTuple):
    """What decides how a convolution and its batch norm run: plain values, which can be compared and hashed.

    vectors: length and device of the batch norm's tensors, in the order of `VECTORS`, None for what it lacks;
    frozen_dtype: of a FrozenBatchNorm2d, None for others.
    """

    weight_size: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    in_channels: int
    out_channels: int
    conv: Geometry
    stats: Statistics
    vectors: tuple[tuple[int, torch.device] | None, ...] = ()
    frozen_dtype: torch.dtype | None = None


VECTORS = ("weight", "bias", "running_mean", "running_var")
TENSORS = (("weight", "bias"), VECTORS)  # that `read` reads off a convolution and its batch norm


def read(conv: Any, bn: Any) -> tuple[Layer, UnitParams]:
    """The layer of a convolution and its batch norm (or None), and their tensors."""
    weight, bias = tensor(conv, "weight"), tensor(conv, "bias")
    geometry = Geometry(tuple(conv.stride), tuple(conv.padding), tuple(conv.dilation), conv.groups)
    own = weight.shape, weight.dtype, weight.device, conv.in_channels, conv.out_channels, geometry
    if bn is None:
        return Layer(*own, statistics(None)), UnitParams(weight, bias, None, None, None, None)
    held = [tensor(bn, name) for name in VECTORS]
    vectors = tuple([None if t is None else (t.numel(), t.device) for t in held])
    frozen_dtype = held[0].dtype if is_frozen_batch_norm(bn) else None
    stats = statistics(bn, has_running=held[2] is not None)
    return Layer(*own, stats, vectors, frozen_dtype), UnitParams(weight, bias, *held)
