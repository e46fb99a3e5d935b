"""The stem's max-pool, which normalises while it reads."""

from collections.abc import Sequence

from torch import Tensor

from . import checks
from .registry import op


def _window(kernel_size, stride, padding):
    checks.pair("kernel_size", kernel_size, 1)
    checks.pair("stride", stride, 1)
    checks.pair("padding", padding, 0)
    if kernel_size[0] * kernel_size[1] > 256:
        checks.fail("kernel_size", "at most 256 positions (the argmax is one byte)", tuple(kernel_size))
    if any(2 * p > k for p, k in zip(padding, kernel_size, strict=True)):
        checks.fail("padding", f"at most half of kernel_size {tuple(kernel_size)}", tuple(padding))


@op()
def bn_act_maxpool(
    y: Tensor,
    norm: Tensor,
    act: str,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Max-pool of ``act(scale*y + shift)``, which is never written.

    Args: y ``[N, C, H, W]``; norm ``[4, C]``; kernel_size, stride, padding: (height, width).
    Returns: out ``[N, C, P, Q]`` like y; argmax uint8 like out: ``row * kernel_w + column`` inside the
    window.
    Equivalent to ``F.max_pool2d(bn_act(y, norm, act), kernel_size, stride, padding, return_indices=True)``.
    """
    checks.activation("y", y)
    checks.vector("norm", norm, "y", y, (4, y.shape[1]))
    checks.act("act", act)
    _window(kernel_size, stride, padding)
    checks.output_size("y", y.shape[2:], kernel_size, stride, padding)


@op()
def bn_act_maxpool_bwd_reduce(
    dout: Tensor,
    argmax: Tensor,
    y: Tensor,
    norm: Tensor,
    act: str,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Gradient g of BN's output behind a max-pool, and its sums.

    Args: dout, argmax ``[N, C, P, Q]``; the others as in `bn_act_maxpool`.
    Returns: g like y; sums ``[2, C]``: Σg, Σg·xhat.
    """
    checks.activation("y", y)
    _window(kernel_size, stride, padding)
    shape = (*y.shape[:2], *checks.output_size("y", y.shape[2:], kernel_size, stride, padding))
    checks.like("dout", dout, "y", y, shape)
    checks.indices("argmax", argmax, "y", y, shape)
    checks.vector("norm", norm, "y", y, (4, y.shape[1]))
    checks.act("act", act)
