"""Batch normalisation, activation and residual add."""

from torch import Tensor

from . import checks
from .registry import op


def _norm(name, norm, y):
    checks.vector(name, norm, "y", y, (4, y.shape[1]))


def _moments(mean, var):
    checks.statistics("mean", mean, mean.shape[-1:])
    checks.vector("var", var, "mean", mean, mean.shape)


@op()
def bn_stats(y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance per channel, in the accumulation dtype, deterministic.

    Args: y ``[N, C, H, W]``. Returns: mean ``[C]``, var ``[C]``.
    Equivalent to ``torch.var_mean(y.float(), dim=(0, 2, 3), correction=0)`` in the other order.
    """
    checks.activation("y", y)


@op()
def bn_finalize(mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """BN's coefficients ``norm [4, C]``: rows mean, invstd, scale, shift.

    Args: mean, var ``[C]`` (batch or running statistics); weight, bias ``[C]`` or None; eps > 0 or 0.
    Equivalent to ``invstd = (var + eps).rsqrt(); scale = weight * invstd; shift = bias - mean * scale``
    (Ioffe & Szegedy 2015, algorithm 1).
    """
    _moments(mean, var)
    for name, t in (("weight", weight), ("bias", bias)):
        if t is not None:
            checks.parameter(name, t, "mean", mean)


@op(mutates=("running_mean", "running_var"))
def bn_update_running(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, var: Tensor, momentum: float, correction: float
) -> None:
    """Move the running statistics towards the batch's, in place.

    Args: running_mean, running_var, mean, var ``[C]``; correction = M/(M-1) makes the biased var unbiased.
    Equivalent to ``running.lerp_(batch, momentum)``.
    """
    _moments(mean, var)
    for name, t in (("running_mean", running_mean), ("running_var", running_var)):
        checks.parameter(name, t, "mean", mean)


@op()
def bn_act(y: Tensor, norm: Tensor, act: str) -> Tensor:
    """``act(scale*y + shift)``.

    Args: y ``[N, C, H, W]``; norm ``[4, C]``; act "relu" or "identity". Returns: like y.
    """
    checks.activation("y", y)
    _norm("norm", norm, y)
    checks.act("act", act)


@op()
def bn_add_act(y: Tensor, norm: Tensor, residual: Tensor, residual_norm: Tensor | None, act: str) -> Tensor:
    """``act(scale*y + shift + r)``; r is the residual, or with residual_norm its BN (projection shortcut).

    Args: y, residual ``[N, C, H, W]``; norm, residual_norm ``[4, C]``. Returns: like y, rounded once.
    """
    checks.activation("y", y)
    checks.like("residual", residual, "y", y)
    _norm("norm", norm, y)
    if residual_norm is not None:
        _norm("residual_norm", residual_norm, y)
    checks.act("act", act)


@op()
def bn_act_bwd_reduce(
    dout: Tensor,
    y: Tensor | None,
    norm: Tensor | None,
    out: Tensor | None,
    dual_y: Tensor | None,
    dual_norm: Tensor | None,
    act: str,
) -> tuple[Tensor, Tensor]:
    """Gradient g of BN's output and its sums, in one pass.

    g is dout, and 0 where ``out <= 0``, without `out` where ``scale*y + shift <= 0`` (NaN lets it pass, as in
    ReLU's backward); ``xhat = (y - mean)*invstd``.

    Args: dout ``[N, C, H, W]``; y with norm, out, and dual_y with dual_norm (the projection shortcut's BN)
    like it.
    Returns: g like dout; sums ``[1..3, C]``: Σg, with y Σg·xhat, with dual_y its Σg·xhat.
    """
    checks.activation("dout", dout)
    checks.act("act", act)
    for name, t in (("y", y), ("out", out), ("dual_y", dual_y)):
        if t is not None:
            checks.like(name, t, "dout", dout)
    for name, t, n in (("norm", y, norm), ("dual_norm", dual_y, dual_norm)):
        if (t is None) != (n is None):
            checks.fail(name, "exactly when its activation is given", type(n).__name__)
        if n is not None:
            _norm(name, n, dout)
    if act == "relu" and y is None and out is None:
        checks.fail("out", "a tensor to take the ReLU mask from, as y is None", None)


@op()
def bn_bwd_finalize(sums: Tensor, norm: Tensor, count: float) -> Tensor:
    """Coefficients ``dnorm [3, C]`` (a, b, c) of BN's backward ``dy = a*g + b*y + c``.

    ``a = scale``, ``b = -a*invstd*Σg·xhat/M``, ``c = -a*Σg/M - b*mean`` (Ioffe & Szegedy 2015, section 3).
    Args: sums ``[2, C]``: Σg, Σg·xhat; norm ``[4, C]``; count = M.
    """
    checks.statistics("norm", norm, (4, *norm.shape[-1:]))
    checks.vector("sums", sums, "norm", norm, (2, *norm.shape[-1:]))


@op()
def bn_act_bwd_apply(g: Tensor, y: Tensor | None, dnorm: Tensor) -> Tensor:
    """``a*g + b*y + c``; without y (BN in eval or frozen mode) ``a*g``.

    Args: g, y ``[N, C, H, W]``; dnorm ``[3, C]``. Returns: like g.
    """
    checks.activation("g", g)
    if y is not None:
        checks.like("y", y, "g", g)
    checks.vector("dnorm", dnorm, "g", g, (3, g.shape[1]))
