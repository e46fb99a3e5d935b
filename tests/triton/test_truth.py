"""The truth that the kernels are compared with agrees with the specification, and notices what is wrong."""

import pytest
import torch
import torch.nn.functional as F

from .support import ARCHS  # isort: skip  # noqa: F401

from fused_resnet.analysis import kernel_truth
from fused_resnet.analysis.kernel_problems import PROBLEMS, Make
from fused_resnet.backends import reference
from tests.kernels_support import FORMATS

# The specification in fp64 does not round what a prologue makes to fp32, as the truth does.
TOLERANCE = 1e-6


def specified(op, args):
    """What the reference gives in fp64, in the dtypes of an op on fp32."""
    wide = [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args]
    results = reference.OPS[op](*wide)
    if op == "bn_update_running":
        results = wide[:2]
    results = results if isinstance(results, (tuple, list)) else (results,)
    return tuple(r.float() if r.is_floating_point() else r for r in results)


@pytest.mark.parametrize("name", PROBLEMS)
def test_agrees_with_the_specification(name):
    dtype = FORMATS["fp32"].use()
    problem = PROBLEMS[name]
    for args in problem.arguments(Make(dtype, seed=3)):
        results = specified(problem.op, args)
        for got, want in zip(results, kernel_truth.expected(problem.op, args, results).values(), strict=True):
            assert (got - want.value).norm() <= TOLERANCE * want.value.norm()


@pytest.mark.parametrize(
    "name", ["conv_fprop-3x3", "conv_wgrad-3x3", "bn_act_bwd_reduce-y", "bn_act_maxpool-stem"]
)
def test_notices_a_single_wrong_element(name):
    problem = PROBLEMS[name]
    args = problem.arguments(Make(FORMATS["fp32"].use(), seed=4))[0]
    results = specified(problem.op, args)
    for i, r in enumerate(results):
        where = r.abs().float().argmax() if r.is_floating_point() else 0
        for wrong in (1.0001, torch.nan):
            changed = r.clone().contiguous()
            changed.view(-1)[where] = changed.view(-1)[where] * wrong if r.is_floating_point() else 77
            errors = kernel_truth.check(problem.op, args, (*results[:i], changed, *results[i + 1 :]))
            assert list(errors.values())[i] > 1


def cut(t, bits, exponent):
    """t without what is below `bits` bits of numbers of this exponent."""
    unit = torch.ldexp(torch.ones_like(t), exponent - bits)
    return (t / unit).trunc() * unit


def tensor_core_sum(a, b, products, bits):
    """``a.T @ b`` as tensor cores do it: `products` at a time, aligned with the sum so far, cut to `bits`."""
    total = torch.zeros(a.shape[1], b.shape[1], dtype=torch.float64)
    for rows_a, rows_b in zip(a.split(products), b.split(products), strict=True):
        terms = torch.cat((total[None], rows_a[:, :, None] * rows_b[:, None, :]))
        total = cut(terms, bits, torch.frexp(terms.abs().amax(0)).exponent).sum(0)
        total = cut(total, 24, torch.frexp(total).exponent)
    return total


@pytest.mark.parametrize(
    ("form", "products", "bits", "on_an_h100"),
    [("fp16", 16, 26, 1.5963769520268183), ("tf32", 8, 26, 2.1780084277029284), ("tf32", 4, 25, None)],
)
def test_allows_what_tensor_cores_cut(form, products, bits, on_an_h100):
    """on_an_h100: what this problem's kernel measured there, in 16 units of Σ|terms|."""
    g, x, norm, act, size, stride, padding, dilation, groups, y, dnorm = PROBLEMS[
        "conv_wgrad-groups"
    ].arguments(Make(FORMATS[form].use()))[0]
    args = g, x, norm, act, size, stride, padding, dilation, groups, y, dnorm
    z = kernel_truth._operand(kernel_truth._normed(x, norm, act))
    dy = kernel_truth._operand(kernel_truth._gradient(g, y, dnorm)).movedim(1, -1).flatten(0, 2)
    patches = F.unfold(z, size[2:], dilation, padding, stride).transpose(1, 2).flatten(0, 1)
    made = zip(dy.chunk(groups, 1), patches.chunk(groups, 1), strict=True)
    dw = torch.cat([tensor_core_sum(a, b, products, bits) for a, b in made]).view(size).float()
    error = kernel_truth.check("conv_wgrad", args, (dw,))["dw"]
    assert error <= 0.6
    if on_an_h100 is not None:
        assert error * kernel_truth.TENSOR_CORES == pytest.approx(on_an_h100, rel=0.05)
