"""Whole residual blocks in one op."""

from collections.abc import Sequence

from torch import Tensor

from . import checks
from .registry import op


@op()
def conv_chain_fprop(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    norms: Sequence[Tensor | None],
    strides: Sequence[int],
    paddings: Sequence[int],
    dilations: Sequence[int],
    groups: Sequence[int],
    projection_weight: Tensor | None,
    projection_norm: Tensor | None,
    projection_stride: Sequence[int],
    residual: Tensor | None,
    act: str,
) -> Tensor:
    """A block whose BNs are known beforehand: `conv_fprop` in a row, relu between, a shortcut at the end.

    A backend may compute it some rows at a time, so that the tensors between the convolutions never exist and
    are never rounded to x's dtype.

    Args: x ``[N, C, H, W]``; one to three weights ``[K, C/groups, R, S]``, each of the channels before it;
    per weight a bias ``[K]`` or None, a norm ``[4, K]`` or None, height and width of stride, padding and
    dilation one after another, and its groups; the shortcut, a 1x1 convolution of x: projection_weight
    ``[K, C, 1, 1]``, projection_norm ``[4, K]``, projection_stride, or residual like the result, or neither;
    act of the sum. Returns: ``[N, K, P, Q]`` like x.
    """
    shape = _main_path(x, weights, biases, norms, strides, paddings, dilations, groups)
    _shortcut(x, shape, projection_weight, projection_norm, projection_stride, residual)
    checks.act("act", act)


def _main_path(x, weights, biases, norms, strides, paddings, dilations, groups):
    """Shape of the last convolution's output."""
    checks.activation("x", x)
    count = len(weights)
    if not 1 <= count <= 3:
        checks.fail("weights", "1 to 3 convolutions", count)
    lists = {"biases": (biases, 1), "norms": (norms, 1), "groups": (groups, 1)}
    lists |= {"strides": (strides, 2), "paddings": (paddings, 2), "dilations": (dilations, 2)}
    for name, (values, each) in lists.items():
        if len(values) != each * count:
            checks.fail(name, f"{each * count} values for {count} weights", len(values))
    shape = tuple(x.shape)
    for i, (weight, bias, norm) in enumerate(zip(weights, biases, norms, strict=True)):
        stride, padding, dilation = (v[2 * i : 2 * i + 2] for v in (strides, paddings, dilations))
        names = ("x" if i == 0 else f"the output of weights[{i - 1}]", f"weights[{i}]")
        shape = checks.convolution(shape, weight.shape, stride, padding, dilation, groups[i], names)
        checks.like(f"weights[{i}]", weight, "x", x, weight.shape)
        if bias is not None:
            checks.like(f"biases[{i}]", bias, "x", x, shape[1:2])
        if norm is not None:
            checks.vector(f"norms[{i}]", norm, "x", x, (4, shape[1]))
    return shape


def _shortcut(x, shape, weight, norm, stride, residual):
    if weight is None:
        if norm is not None:
            checks.fail("projection_norm", "None without a projection_weight", f"shape {tuple(norm.shape)}")
        if residual is not None:
            checks.like("residual", residual, "x", x, shape)
        return
    if residual is not None:
        checks.fail("residual", "None beside a projection_weight", f"shape {tuple(residual.shape)}")
    names = ("x", "projection_weight")
    reduced = checks.convolution(x.shape, weight.shape, stride, (0, 0), (1, 1), 1, names)
    checks.like("projection_weight", weight, "x", x, (shape[1], x.shape[1], 1, 1))
    if tuple(reduced) != tuple(shape):
        checks.fail("projection_weight", f"a projection onto {tuple(shape)}", tuple(reduced))
    if norm is not None:
        checks.vector("projection_norm", norm, "x", x, (4, shape[1]))
