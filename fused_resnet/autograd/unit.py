"""Forward and backward of one unit (convolution, normalisation, activation), by kind of statistics.

Kinds: stored (batch statistics, raw output y kept), folded (batch statistics from the Gram matrix, y never
exists) and constant (frozen statistics or none). Formulas: docs/design.md, "The arithmetic".
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ..ops.registry import cast
from ..ops.registry import unchecked as ops
from .spec import Operand, Saved, UnitParams, UnitSpec
from .sync import all_reduce_moments, all_reduce_sums


class Upstream(NamedTuple):
    """Gradient that arrives at a unit.

    g ``[N, K, P, Q]``: before its activation; sums: Σg and, if stored, Σg·xhat; p: the bare convolution's
    weight gradient, where it is known already.
    """

    g: Tensor
    sums: Tensor
    p: Tensor | None = None


def masked_upstream(spec: UnitSpec, params: UnitParams, x: Operand, dout: Tensor, out: Tensor) -> Upstream:
    """At a folded unit behind ReLU, which needs its weight's gradient for all others: in one pass."""
    size, stride = params.weight.shape, spec.conv.stride
    return Upstream(*ops.conv_wgrad_masked(dout, out, x.tensor, x.norm, x.act, size, stride))


class Pull(NamedTuple):
    """What an input gradient is made of: BN's backward of g, through the weight or the folded matrices."""

    g: Tensor
    weight: Tensor
    y: Tensor | None = None
    dnorm: Tensor | None = None
    weight_x: Tensor | None = None
    bias: Tensor | None = None


def materialise(operand):
    """The operand written out, for a reader that cannot normalise while it loads."""
    tensor, norm, act = operand
    return operand if norm is None else Operand(ops.bn_act(tensor, norm, act))


def read(spec: UnitSpec, operand: Operand) -> Operand:
    """How a unit reads its input: normalised by its own convolution, or written out for a library's."""
    return operand if spec.prologue else materialise(operand)


def _rows(y):
    n, _, h, w = y.shape
    return n * h * w


def _finalize(spec: UnitSpec, params: UnitParams, mean, var, count, total=None):
    """BN's coefficients; moves the running statistics on the way.

    The convolution's bias is left out of y, where the batch mean would take it away again; only the running
    mean sees it.
    """
    if spec.momentum is not None and params.running_mean is not None:
        if total is not None:
            running_var, correction = var * (total / (total - 1)).to(var.dtype), 1.0
        else:
            running_var, correction = var, count / (count - 1) if count > 1 else 1.0
        running_mean = mean if params.conv_bias is None else mean + cast(params.conv_bias, mean.dtype)
        ops.bn_update_running(
            params.running_mean, params.running_var, running_mean, running_var, spec.momentum, correction
        )
    return ops.bn_finalize(mean, var, params.norm_weight, params.norm_bias, spec.eps)


# ---- forward -----------------------------------------------------------------------------------------------


def stored_forward(spec, params, x: Operand) -> tuple[Operand, Saved]:
    """Convolution with batch statistics; its reader normalises."""
    weight = cast(params.weight, x.tensor.dtype)
    y, mean, var = ops.conv_fprop_stats(x.tensor, weight, x.norm, x.act, *spec.conv)
    count, total, share = _rows(y), None, None
    if spec.group is not None:
        mean, second, total = all_reduce_moments(mean, var * count, count, spec.group)
        var, share = second / total.to(second.dtype), count / total
    norm = _finalize(spec, params, mean, var, count, total)
    return Operand(y, norm, spec.act), Saved(y=y, norm=norm, share=share)


def finish(spec, result: Operand, residual: Operand | None):
    """A stored unit's output written out: activation of its BN plus the residual or the residual's BN."""
    if residual is None:
        return ops.bn_act(result.tensor, result.norm, spec.act)
    return ops.bn_add_act(result.tensor, result.norm, residual.tensor, residual.norm, spec.act)


def known_norm(spec: UnitSpec, params: UnitParams, x: Operand) -> Saved:
    """The BN of a unit that is not stored, from its input or the running statistics, before it convolves."""
    if spec.norm == "batch":
        return _folded_norm(spec, params, x)
    if spec.norm == "none":
        return Saved()
    wide = torch.float64 if x.tensor.dtype == torch.float64 else torch.float32
    mean, var = cast(params.running_mean, wide), cast(params.running_var, wide)
    return Saved(norm=ops.bn_finalize(mean, var, params.norm_weight, params.norm_bias, spec.eps))


def _folded_norm(spec, params, x):
    """Batch statistics of a 1x1 convolution from its input: mean = W s/M, var = diag(W G Wᵀ)/M."""
    stride = spec.conv.stride
    in_mean, gram = ops.gram(x.tensor, x.norm, x.act, stride)
    images, _, height, width = x.tensor.shape
    count = images * -(-height // stride[0]) * -(-width // stride[1])
    if count == 0:  # a process without images: the others do not wait in vain, and its own gradients are 0
        in_mean = torch.zeros_like(in_mean)
    total, share, sync_mean, moments, mean, spread = None, None, None, gram, in_mean, None
    if spec.group is not None:
        sync_mean, moments, total = all_reduce_moments(in_mean, gram, count, spec.group)
        mean, share, spread = sync_mean, count / total, total.to(gram.dtype)
    # the weight as the convolution will see it, so that the statistics are exactly those of its output
    weight = cast(params.weight, x.tensor.dtype)
    out_mean, var = ops.folded_stats(weight, mean, moments, 1.0 if spread is not None else float(count))
    var = var if spread is None else var / spread
    norm = _finalize(spec, params, out_mean, var, count, total)
    return Saved(norm=norm, in_mean=in_mean, gram=gram, sync_mean=sync_mean, share=share)


def _has_bias(spec, params):
    """Whether the convolution's bias counts: batch statistics take it away again."""
    return params.conv_bias is not None and spec.norm != "batch"


def _apply_known(spec, params, x, norm, residual):
    """The convolution with a BN known beforehand (or none), residual and activation, as one op."""
    weight = cast(params.weight, x.tensor.dtype)
    bias = cast(params.conv_bias, x.tensor.dtype) if _has_bias(spec, params) else None
    residual = None if residual is None else materialise(residual).tensor
    return ops.conv_fprop(x.tensor, weight, bias, x.norm, x.act, *spec.conv, norm, residual, spec.act)


def dual(spec: UnitSpec, params: UnitParams, any_stride: bool = False) -> bool:
    """Whether a block's tail or (of any stride) projection can be one half of `dual_forward`."""
    known = spec.norm == "frozen" or (spec.norm == "batch" and spec.fold)
    stride, padding, _, groups = spec.conv
    pointwise = tuple(params.weight.shape[2:]) == (1, 1) and groups == 1 and not any(padding)
    return known and pointwise and (any_stride or tuple(stride) == (1, 1)) and not _has_bias(spec, params)


def dual_forward(spec, params, x: Operand, norm, shortcut_x, shortcut_weight, shortcut_stride, shortcut_norm):
    """The output of a block whose tail and projection shortcut both know their BN beforehand."""
    dtype = x.tensor.dtype
    shortcut = shortcut_x, cast(shortcut_weight, dtype), shortcut_stride, shortcut_norm
    weight = cast(params.weight, dtype)
    return ops.conv_fprop_dual(x.tensor, weight, x.norm, x.act, norm, *shortcut, spec.act)


def forward(spec: UnitSpec, params: UnitParams, x: Operand, residual=None) -> tuple[Operand, Saved]:
    """Run a unit: its result as an operand, and what backward needs of it."""
    if spec.norm == "batch" and not spec.fold:
        return stored_forward(spec, params, x)
    saved = known_norm(spec, params, x)
    out = _apply_known(spec, params, x, saved.norm, residual)
    return Operand(out), saved._replace(out=out)


def raw_forward(spec: UnitSpec, params: UnitParams, x: Operand) -> tuple[Operand, Saved]:
    """The convolution's raw output, with batch or frozen statistics, for a reader that normalises."""
    if spec.norm == "batch":
        return stored_forward(spec, params, x)
    saved = known_norm(spec, params, x)
    y = _raw(spec, params, x)
    return Operand(y, saved.norm, spec.act), saved._replace(y=y)


def _raw(spec, params, x):
    return _apply_known(spec._replace(act="identity"), params, x, None, None)


def raw_rerun(spec: UnitSpec, params: UnitParams, x: Operand, saved: Saved) -> tuple[Operand, Saved]:
    """The raw output again, with the BN it had."""
    y = _raw(spec, params, x)
    return Operand(y, saved.norm, spec.act), saved._replace(y=y)


def rerun(spec: UnitSpec, params: UnitParams, x: Operand, saved: Saved, last: bool) -> tuple[Operand, Saved]:
    """Recreate what a unit that only kept its per-channel vectors has dropped (never the statistics)."""
    if spec.norm == "batch" and not spec.fold:
        return raw_rerun(spec, params, x, saved)
    if spec.norm == "batch":
        saved = saved._replace(gram=ops.gram(x.tensor, x.norm, x.act, spec.conv.stride)[1])
    if last:
        return x, saved
    out = _apply_known(spec, params, x, saved.norm, None)
    return Operand(out), saved._replace(out=out)


# ---- backward ----------------------------------------------------------------------------------------------


def stored_backward(spec, params, saved, x, up: Upstream, need, below):
    """dy = a*g + b*y + c feeds both the weight's and the input's gradient."""
    sums = up.sums if spec.group is None else all_reduce_sums(up.sums, saved.share, spec.group)
    g, y, dnorm = up.g, saved.y, ops.bn_bwd_finalize(sums, saved.norm, float(_rows(up.g)))
    if not spec.prologue and (need[0] or below):
        g, y, dnorm = ops.bn_act_bwd_apply(g, y, dnorm), None, None
    weight_grad = None
    if need[0]:
        weight_grad = ops.conv_wgrad(g, x.tensor, x.norm, x.act, params.weight.shape, *spec.conv, y, dnorm)
    pull = Pull(g, cast(params.weight, g.dtype), y, dnorm) if below else None
    sg, sgx = up.sums.unbind()
    return (weight_grad, _no_bias_gradient(params, need), sgx, sg), pull


def folded_backward(spec, params, saved, x, up: Upstream, need, below):
    """All gradients from P = gᵀz and the Gram matrix: Σg·y = diag(P Wᵀ), dW = a P + b W G, both centred."""
    p = up.p
    if p is None:
        p = ops.conv_wgrad(up.g, x.tensor, x.norm, x.act, params.weight.shape, *spec.conv, None, None)
    count, weight = float(max(_rows(up.g), 1)), cast(params.weight, up.g.dtype)
    mean = saved.in_mean if saved.sync_mean is None else saved.sync_mean
    sums = ops.folded_sums(p, up.sums, weight, saved.norm, mean)
    synced = sums if spec.group is None else all_reduce_sums(sums, saved.share, spec.group)
    dnorm = ops.bn_bwd_finalize(synced, saved.norm, count)
    weight_grad = None
    if need[0]:
        gram = saved.gram
        if spec.group is not None:  # about the mean over all processes, as the statistics were
            gram = torch.addr(gram, saved.in_mean - mean, saved.in_mean, alpha=count)
        weight_grad = ops.folded_wgrad(p, synced, dnorm, weight, saved.in_mean, gram)
    pull = None
    if below:
        weight_g, weight_x, bias = ops.folded_matrices(weight, synced, dnorm, mean, count)
        pull = Pull(up.g, weight_g, weight_x=weight_x, bias=bias)
    sg, sgx = sums.unbind()
    return (weight_grad, _no_bias_gradient(params, need), sgx, sg), pull


def constant_backward(spec, params, saved, x, up: Upstream, need, below):
    """With constant statistics dy = a*g; Σg·y follows from the weight and its gradient P: Σ W P."""
    a = None if saved.norm is None else saved.norm[2]
    p = None
    if need[0] or need[2]:
        g, read = up.g, x.tensor
        if need[2]:  # dgamma is a small difference of large sums: P must not be rounded to the storage dtype
            g, read = cast(g, up.sums.dtype), cast(read, up.sums.dtype)
        p = ops.conv_wgrad(g, read, x.norm, x.act, params.weight.shape, *spec.conv, None, None)
    sg = up.sums[0]
    bias_grad = sg if a is None else a * sg
    if a is None:
        weight_grad, norm_weight_grad = p, None
    else:
        weight_grad, norm_weight_grad = None, None
        if need[0]:
            weight_grad = a[:, None, None, None] * p
        if need[2]:
            # weight and bias as the convolution saw them
            bias = 0 if params.conv_bias is None else cast(cast(params.conv_bias, up.g.dtype), p.dtype)
            weight = cast(cast(params.weight, up.g.dtype), p.dtype)
            norm_weight_grad = saved.norm[1] * ((p * weight).sum((1, 2, 3)) + (bias - saved.norm[0]) * sg)
    pull = None
    if below:
        dnorm = None if a is None else torch.stack((a, torch.zeros_like(a), torch.zeros_like(a)))
        g = up.g
        if not spec.prologue and dnorm is not None:
            g, dnorm = ops.bn_act_bwd_apply(g, None, dnorm), None
        pull = Pull(g, cast(params.weight, g.dtype), None, dnorm)
    return (weight_grad, bias_grad, norm_weight_grad, sg), pull


def _no_bias_gradient(params, need):
    """Batch statistics take a convolution's bias away again: its gradient is exactly 0."""
    return torch.zeros_like(params.conv_bias) if need[1] else None


def backward(spec: UnitSpec, params: UnitParams, saved: Saved, x: Operand, up: Upstream, need, below):
    """Gradients (weight, conv_bias, norm_weight, norm_bias) where needed; a Pull where `below` needs one."""
    kind = constant_backward if spec.norm != "batch" else folded_backward if spec.fold else stored_backward
    grads, pull = kind(spec, params, saved, x, up, need, below)
    grads = [cast(g, p.dtype) if n else None for g, p, n in zip(grads, params, need, strict=False)]
    return grads, pull


def input_gradient(spec: UnitSpec, pull: Pull, x: Operand, residual: Tensor | None):
    """Gradient of the unit's input, plus `residual`."""
    if pull.weight_x is not None:
        return ops.folded_dgrad(
            pull.g, pull.weight, x.tensor, x.norm, x.act, pull.weight_x, pull.bias, spec.conv.stride, residual
        )
    size = x.tensor.shape
    return ops.conv_dgrad(pull.g, pull.weight, size, *spec.conv, pull.y, pull.dnorm, residual)


def input_gradient_reduce(spec: UnitSpec, pull: Pull, x: Operand, raw: Operand) -> Upstream:
    """Gradient before the activation of the stored unit that made x: `raw` its output, x how it was read."""
    if x.norm is None:  # x was written out: its gradient is masked and summed in a pass of its own
        dz = input_gradient(spec, pull, x, None)
        return Upstream(*ops.bn_act_bwd_reduce(dz, raw.tensor, raw.norm, None, None, None, raw.act))
    if pull.weight_x is not None:
        return Upstream(
            *ops.folded_dgrad_reduce(pull.g, pull.weight, x.tensor, x.norm, x.act, pull.weight_x, pull.bias)
        )
    return Upstream(
        *ops.conv_dgrad_reduce(pull.g, pull.weight, *spec.conv, pull.y, pull.dnorm, x.tensor, x.norm, x.act)
    )
