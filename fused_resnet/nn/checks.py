"""Checks of a fused unit's input against its modules, before any kernel runs."""

from typing import NamedTuple

import torch

from ..ops.checks import DTYPES
from ..planner import ConvShape
from .layer import VECTORS, Layer


def _out(size, kernel, conv):
    return tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, conv.stride, conv.padding, conv.dilation, strict=True)
    )


def input_tensor(x, name="x"):
    """A floating 4-dimensional tensor."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
    if x.dim() != 4:
        raise ValueError(f"{name}: expected a 4-dimensional [N, C, H, W] tensor, got shape {tuple(x.shape)}")
    if x.dtype not in DTYPES:
        raise TypeError(f"{name}: expected one of fp32, fp64, bf16, fp16, got {x.dtype}")


class Input(NamedTuple):
    """What the checks look at of a fused unit's input."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


def unit(name: str, layer: Layer, x: Input, shape, autocast: bool):
    """One convolution and its batch norm against the ``[N, C, H, W]`` shape that reaches it.

    Args: name: of the unit, for messages; x: the whole fused unit's input; autocast: will x be cast?
    Returns: its output's shape and its `ConvShape`. Raises ValueError or TypeError naming the argument.
    """
    if layer.device != x.device:
        raise ValueError(f"x: expected device {layer.device} of {name}'s weight, got {x.device}")
    if not autocast and layer.dtype != x.dtype:
        raise TypeError(f"x: expected dtype {layer.dtype} of {name}'s weight, got {x.dtype}")
    if shape[1] != layer.in_channels:
        given = "x" if shape == tuple(x.shape) else f"{name}'s input"
        raise ValueError(f"{given}: expected {layer.in_channels} channels, got shape {tuple(shape)}")
    conv, kernel = layer.conv, (layer.weight_size[2], layer.weight_size[3])
    p, q = _out(shape[2:], kernel, conv)
    if p < 1 or q < 1:
        window = f"{name}'s {kernel} kernel with padding {conv.padding}"
        raise ValueError(f"x: expected height and width to fit {window}, got {tuple(shape[2:])} there")
    out = (shape[0], layer.out_channels, p, q)
    _batch_norm(name, layer, x, out)
    sizes = shape[0], (shape[2], shape[3]), (p, q), layer.in_channels, layer.out_channels, kernel
    return out, ConvShape(*sizes, conv.stride, conv.padding, conv.dilation, conv.groups)


def _batch_norm(name, layer, x, out):
    for field, vector in zip(VECTORS, layer.vectors, strict=False):
        if vector is None:
            continue
        length, device = vector
        if length != layer.out_channels:
            expected = f"{layer.out_channels} channels"
            raise ValueError(f"{name}'s batch norm {field}: expected {expected}, got {length}")
        if device != x.device:
            raise ValueError(f"{name}'s batch norm {field}: expected device {x.device} of x, got {device}")
    stats = layer.stats
    if stats.norm == "batch" and stats.group is None and out[0] * out[2] * out[3] == 1:
        raise ValueError(
            f"x: expected more than 1 value per channel when training, got {tuple(out)} after {name}"
        )


def same_shape(name, got, expected) -> bool:
    """Whether the shapes are the same; ValueError where they do not even broadcast."""
    if got == expected:
        return True
    try:
        torch.broadcast_shapes(got, expected)
    except RuntimeError as error:
        raise ValueError(f"{name}: expected shape {expected} of the main path, got {got}") from error
    return False


def residual_tensor(residual, x, out) -> bool:
    """Whether an explicit residual is a floating tensor of the output's shape; as `same_shape` otherwise."""
    if not isinstance(residual, torch.Tensor) or residual.dtype not in DTYPES:
        return False  # a number, say: stock code adds it
    if not same_shape("residual", tuple(residual.shape), tuple(out)):
        return False
    if residual.device != x.device:
        raise ValueError(f"residual: expected device {x.device} of x, got {residual.device}")
    return True
