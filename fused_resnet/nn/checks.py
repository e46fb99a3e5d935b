"""Checks of a fused unit's input against its modules, before any kernel runs."""

import torch

from ..ops.checks import DTYPES
from ..planner import ConvShape
from .statistics import Statistics


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


def unit(name, conv, bn, x, shape, autocast: bool, stats: Statistics):
    """One convolution and its batch norm against the ``[N, C, H, W]`` shape that reaches it.

    Args: name: of the unit, for messages; x: the whole fused unit's input; autocast: will x be cast?
    Returns: its output's shape and its `ConvShape`. Raises ValueError or TypeError naming the argument.
    """
    weight = conv.weight
    if weight.device != x.device:
        raise ValueError(f"x: expected device {weight.device} of {name}'s weight, got {x.device}")
    if not autocast and weight.dtype != x.dtype:
        raise TypeError(f"x: expected dtype {weight.dtype} of {name}'s weight, got {x.dtype}")
    if shape[1] != conv.in_channels:
        given = "x" if shape == tuple(x.shape) else f"{name}'s input"
        raise ValueError(f"{given}: expected {conv.in_channels} channels, got shape {tuple(shape)}")
    kernel = tuple(weight.shape[2:])
    p, q = _out(shape[2:], kernel, conv)
    if p < 1 or q < 1:
        raise ValueError(
            f"x: expected height and width to fit {name}'s {kernel} kernel with padding {conv.padding}, "
            f"got {tuple(shape[2:])} there"
        )
    out = (shape[0], conv.out_channels, p, q)
    if bn is not None:
        _batch_norm(name, bn, conv, x, out, stats)
    channels = conv.in_channels, conv.out_channels
    geometry = conv.stride, conv.padding, conv.dilation, conv.groups
    return out, ConvShape(shape[0], tuple(shape[2:]), (p, q), *channels, kernel, *geometry)


def _batch_norm(name, bn, conv, x, out, stats):
    for field in ("weight", "bias", "running_mean", "running_var"):
        t = getattr(bn, field)
        if t is None:
            continue
        if t.shape[0] != conv.out_channels:
            expected = f"{conv.out_channels} channels"
            raise ValueError(f"{name}'s batch norm {field}: expected {expected}, got {t.shape[0]}")
        if t.device != x.device:
            raise ValueError(f"{name}'s batch norm {field}: expected device {x.device} of x, got {t.device}")
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
