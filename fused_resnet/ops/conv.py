"""Convolutions with a prologue on what they load and an epilogue on what they store.

Prologues: forward reads ``z = act(scale*x + shift)`` when x_norm is given (else x); zero padding comes after
it. Backward reads ``dy = a*g + b*y + c`` when dnorm is given (else g).
"""

from collections.abc import Sequence

from torch import Tensor

from . import checks
from .registry import op


def _prologue(x, x_norm, x_act):
    checks.act("x_act", x_act)
    if x_norm is not None:
        checks.vector("x_norm", x_norm, "x", x, (4, x.shape[1]))


def _forward(x, weight, stride, padding, dilation, groups):
    checks.activation("x", x)
    shape = checks.convolution(x.shape, weight.shape, stride, padding, dilation, groups)
    checks.like("weight", weight, "x", x, weight.shape)
    return shape


def _gradient(g, y, dnorm, shape):
    checks.activation("g", g)
    checks.like("g", g, "g", g, shape)
    if y is not None:
        checks.like("y", y, "g", g)
    if dnorm is not None:
        checks.vector("dnorm", dnorm, "g", g, (3, g.shape[1]))


@op()
def conv_fprop(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    x_norm: Tensor | None,
    x_act: str,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    norm: Tensor | None,
    residual: Tensor | None,
    act: str,
) -> Tensor:
    """``act(scale*(conv(z) + bias) + shift + residual)``: a convolution whose BN is known beforehand.

    Args: x ``[N, C, H, W]``; weight ``[K, C/groups, R, S]``; bias ``[K]``; x_norm ``[4, C]``; norm
    ``[4, K]``; residual ``[N, K, P, Q]``; x_act, act "relu" or "identity". Returns: ``[N, K, P, Q]`` like x.
    Equivalent to ``act(scale * F.conv2d(z, weight, bias, ...) + shift + residual)``.
    """
    shape = _forward(x, weight, stride, padding, dilation, groups)
    _prologue(x, x_norm, x_act)
    if bias is not None:
        checks.like("bias", bias, "x", x, shape[1:2])
    if norm is not None:
        checks.vector("norm", norm, "x", x, (4, shape[1]))
    if residual is not None:
        checks.like("residual", residual, "x", x, shape)
    checks.act("act", act)


@op()
def conv_fprop_stats(
    x: Tensor,
    weight: Tensor,
    x_norm: Tensor | None,
    x_act: str,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The raw convolution and the batch statistics of its output.

    Args as in `conv_fprop`. Returns: y ``[N, K, P, Q]``, mean ``[K]``, biased var ``[K]``.
    Equivalent to ``y = F.conv2d(z, weight, ...); mean, var = bn_stats(y)``.
    """
    _forward(x, weight, stride, padding, dilation, groups)
    _prologue(x, x_norm, x_act)


@op()
def conv_dgrad(
    g: Tensor,
    weight: Tensor,
    input_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    y: Tensor | None,
    dnorm: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    """Gradient of a convolution's input, plus the gradient that reaches the same tensor on the shortcut.

    Args: g, y ``[N, K, P, Q]``; dnorm ``[3, K]``; weight ``[K, C/groups, R, S]``; residual of input_size.
    Returns: ``input_size`` like g. Equivalent to
    ``torch.nn.grad.conv2d_input(input_size, weight, dy) + residual``.
    """
    sizes, names = (input_size, weight.shape), ("input_size", "weight")
    _gradient(g, y, dnorm, checks.convolution(*sizes, stride, padding, dilation, groups, names))
    checks.like("weight", weight, "g", g, weight.shape)
    if residual is not None:
        checks.like("residual", residual, "g", g, input_size)


@op()
def conv_dgrad_reduce(
    g: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    y: Tensor | None,
    dnorm: Tensor | None,
    x: Tensor,
    x_norm: Tensor,
    x_act: str,
) -> tuple[Tensor, Tensor]:
    """`conv_dgrad`, then the activation's mask and the BN sums of the unit that made x.

    Args: x ``[N, C, H, W]`` the raw output of the unit before, x_norm ``[4, C]`` its BN; the others as
    `conv_dgrad`.
    Returns: g of that unit, like x; sums ``[2, C]``: Σg, Σg·xhat.
    """
    _gradient(g, y, dnorm, _forward(x, weight, stride, padding, dilation, groups))
    checks.like("x", x, "g", g, x.shape)
    _prologue(x, x_norm, x_act)


@op()
def conv_wgrad(
    g: Tensor,
    x: Tensor,
    x_norm: Tensor | None,
    x_act: str,
    weight_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    y: Tensor | None,
    dnorm: Tensor | None,
) -> Tensor:
    """Gradient of a convolution's weight, in the accumulation dtype.

    Args: g, y ``[N, K, P, Q]``; x ``[N, C, H, W]``. Returns: ``weight_size = [K, C/groups, R, S]``.
    Equivalent to ``torch.nn.grad.conv2d_weight(z, weight_size, dy)``.
    """
    sizes, names = (x.shape, weight_size), ("x", "weight_size")
    _gradient(g, y, dnorm, checks.convolution(*sizes, stride, padding, dilation, groups, names))
    checks.like("x", x, "g", g, x.shape)
    _prologue(x, x_norm, x_act)


@op()
def gram(x: Tensor, x_norm: Tensor | None, x_act: str, stride: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and centred second-moment matrix of the rows z ``[M, C]`` that a 1x1 convolution reads.

    Args: x ``[N, C, H, W]``; x_norm ``[4, C]``; stride of the convolution.
    Returns: mean ``[C]``, gram ``[C, C]`` in the accumulation dtype.
    Equivalent to ``mean = z.mean(0); gram = (z - mean).T @ (z - mean)``: centred, so that nothing cancels.
    """
    checks.activation("x", x)
    checks.pair("stride", stride, 1)
    _prologue(x, x_norm, x_act)


@op()
def folded_dgrad(
    g: Tensor,
    weight_g: Tensor,
    x: Tensor,
    x_norm: Tensor | None,
    x_act: str,
    weight_x: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    residual: Tensor | None,
) -> Tensor:
    """Input gradient of a Gram-folded convolution: ``g @ weight_g + z @ weight_x + bias + residual``.

    Args: g ``[N, K, P, Q]``; weight_g ``[K, C]``; x, residual ``[N, C, H, W]``; weight_x ``[C, C]``; bias
    ``[C]``.
    Returns: like x; pixels that the stride skips get the residual alone.
    """
    _folded(g, weight_g, x, x_norm, x_act, weight_x, bias, stride)
    if residual is not None:
        checks.like("residual", residual, "x", x)


@op()
def folded_dgrad_reduce(
    g: Tensor, weight_g: Tensor, x: Tensor, x_norm: Tensor, x_act: str, weight_x: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """`folded_dgrad` at stride 1, then the activation's mask and the BN sums of the unit that made x.

    Returns: g of that unit, like x; sums ``[2, C]``: Σg, Σg·xhat.
    """
    _folded(g, weight_g, x, x_norm, x_act, weight_x, bias, (1, 1))


def _folded(g, weight_g, x, x_norm, x_act, weight_x, bias, stride):
    checks.activation("g", g)
    checks.activation("x", x)
    channels = x.shape[1]
    shape = checks.convolution(x.shape, (g.shape[1], channels, 1, 1), stride, (0, 0), (1, 1), 1)
    checks.like("g", g, "x", x, shape)
    checks.like("weight_g", weight_g, "g", g, (g.shape[1], channels))
    checks.like("weight_x", weight_x, "g", g, (channels, channels))
    checks.vector("bias", bias, "x", x, (channels,))
    _prologue(x, x_norm, x_act)
