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


def _gradient(g, y, dnorm, shape, name="g"):
    checks.activation(name, g)
    checks.like(name, g, name, g, shape)
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
def conv_fprop_dual(
    x: Tensor,
    weight: Tensor,
    x_norm: Tensor | None,
    x_act: str,
    norm: Tensor,
    shortcut_x: Tensor,
    shortcut_weight: Tensor,
    shortcut_stride: Sequence[int],
    shortcut_norm: Tensor,
    act: str,
) -> Tensor:
    """``act(scale*(z Wᵀ) + shift + scale_d*(x_s W_dᵀ) + shift_d)``: the tail of a block and its projection.

    Two 1x1 convolutions whose BNs are known beforehand; the projection's output is never written.

    Args: x ``[N, C, P, Q]``; weight ``[K, C, 1, 1]``, stride 1; x_norm ``[4, C]``; norm ``[4, K]``;
    shortcut_x ``[N, D, H, W]``; shortcut_weight ``[K, D, 1, 1]``; shortcut_stride of the projection;
    shortcut_norm ``[4, K]``; act of the sum. Returns: ``[N, K, P, Q]`` like x. Equivalent to
    ``act(BN(F.conv2d(z, weight)) + BN_d(F.conv2d(shortcut_x, shortcut_weight, None, shortcut_stride)))``.
    """
    shape = _pointwise("weight", x, weight, (1, 1))
    _prologue(x, x_norm, x_act)
    checks.vector("norm", norm, "x", x, (4, shape[1]))
    checks.like("shortcut_x", shortcut_x, "x", x, shortcut_x.shape)
    reduced = _pointwise("shortcut_weight", shortcut_x, shortcut_weight, shortcut_stride)
    if tuple(reduced) != tuple(shape):
        checks.fail("shortcut_x", f"a projection of shape {tuple(shape)} of the main path", tuple(reduced))
    checks.vector("shortcut_norm", shortcut_norm, "x", x, (4, shape[1]))
    checks.act("act", act)


def _pointwise(name, x, weight, stride):
    """Output shape of an ungrouped, unpadded 1x1 convolution."""
    shape = _forward(x, weight, stride, (0, 0), (1, 1), 1)
    if tuple(weight.shape[2:]) != (1, 1):
        checks.fail(name, "a 1x1 kernel", f"shape {tuple(weight.shape)}")
    return shape


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
def conv_wgrad_masked(
    dout: Tensor,
    out: Tensor,
    x: Tensor,
    x_norm: Tensor | None,
    x_act: str,
    weight_size: Sequence[int],
    stride: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """ReLU's mask, Σg and the bare weight gradient of an unpadded, ungrouped convolution, reading dout once.

    Args: dout, out ``[N, K, P, Q]``, out ReLU's; x ``[N, C, H, W]``; weight_size ``[K, C, R, S]``.
    Returns: g like dout, 0 where ``out <= 0``; Σg ``[1, K]``; weight_size in the accumulation dtype.
    Equivalent to ``g, sums = bn_act_bwd_reduce(dout, None, None, out, None, None, "relu")`` and `conv_wgrad`
    of g.
    """
    sizes, names = (x.shape, weight_size), ("x", "weight_size")
    _gradient(dout, None, None, checks.convolution(*sizes, stride, (0, 0), (1, 1), 1, names), "dout")
    checks.like("out", out, "dout", dout)
    checks.like("x", x, "dout", dout, x.shape)
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


def _rows(name, t, of_name, of, channels):
    """At least one vector of an activation's channels."""
    checks.vector(name, t, of_name, of, (*t.shape[:1], channels))


def _matrix(weight):
    """Sizes of a 1x1 convolution's weight."""
    checks.activation("weight", weight)
    filters, channels, *kernel = weight.shape
    if kernel != [1, 1]:
        checks.fail("weight", "a 1x1 kernel", f"shape {tuple(weight.shape)}")
    return filters, channels


@op()
def folded_stats(weight: Tensor, mean: Tensor, gram: Tensor, count: float) -> tuple[Tensor, Tensor]:
    """Batch statistics of a 1x1 convolution's output from those of its input.

    Args: weight ``[K, C, 1, 1]`` of the activations' dtype; mean ``[C]``, gram ``[C, C]``: as the op `gram`
    gives them; count of the rows. Returns: mean ``[K]``, biased var ``[K]``.
    Equivalent to ``mean = W @ mean; var = (W @ gram @ W.T).diagonal() / count``.
    """
    _, channels = _matrix(weight)
    checks.vector("mean", mean, "weight", weight, (channels,))
    checks.vector("gram", gram, "weight", weight, (channels, channels))


@op()
def folded_sums(p: Tensor, sums: Tensor, weight: Tensor, norm: Tensor, mean: Tensor) -> Tensor:
    """The BN sums of a Gram-folded unit from the bare weight gradient ``P = gᵀz``.

    Args: p ``[K, C, 1, 1]`` in the accumulation dtype; sums ``[1.., K]``, the first Σg; weight
    ``[K, C, 1, 1]``; norm ``[4, K]``; mean ``[C]`` of z. Returns: sums ``[2, K]``: Σg, Σg·xhat.
    Equivalent to ``invstd * (W * (P - Σg meanᵀ)).sum(1)`` for the second.
    """
    filters, channels = _matrix(weight)
    checks.vector("p", p, "weight", weight, weight.shape)
    _rows("sums", sums, "weight", weight, filters)
    checks.vector("norm", norm, "weight", weight, (4, filters))
    checks.vector("mean", mean, "weight", weight, (channels,))


@op()
def folded_wgrad(
    p: Tensor, sums: Tensor, dnorm: Tensor, weight: Tensor, mean: Tensor, gram: Tensor
) -> Tensor:
    """Weight gradient of a Gram-folded unit: ``a*(P - Σg meanᵀ) + b*(W G)``.

    Args: p, weight ``[K, C, 1, 1]``, p in the accumulation dtype; sums ``[2, K]``; dnorm ``[3, K]``; mean
    ``[C]``, gram ``[C, C]`` of z. Returns: like p.
    """
    filters, channels = _matrix(weight)
    checks.vector("p", p, "weight", weight, weight.shape)
    checks.vector("sums", sums, "weight", weight, (2, filters))
    checks.vector("dnorm", dnorm, "weight", weight, (3, filters))
    checks.vector("mean", mean, "weight", weight, (channels,))
    checks.vector("gram", gram, "weight", weight, (channels, channels))


@op()
def folded_matrices(
    weight: Tensor, sums: Tensor, dnorm: Tensor, mean: Tensor, count: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What `folded_dgrad` multiplies and adds: ``weight_g = a*W``, ``weight_x = Wᵀ (b*W)`` and the bias.

    The bias is taken from the rounded matrices, so that rounding them leaves none behind:
    ``-(Σg / count) @ weight_g - mean @ weight_x``.

    Args: weight ``[K, C, 1, 1]``; sums ``[2, K]``; dnorm ``[3, K]``; mean ``[C]`` of z; count = M.
    Returns: weight_g ``[K, C]``, weight_x ``[C, C]`` like weight; bias ``[C]`` in the accumulation dtype.
    """
    filters, channels = _matrix(weight)
    checks.vector("sums", sums, "weight", weight, (2, filters))
    checks.vector("dnorm", dnorm, "weight", weight, (3, filters))
    checks.vector("mean", mean, "weight", weight, (channels,))


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
