"""The truth that the kernels are compared with agrees with the specification, and notices what is wrong."""

import pytest
import torch

from .support import FORMATS  # isort: skip

from fused_resnet.analysis import kernel_truth
from fused_resnet.analysis.kernel_problems import PROBLEMS, Make
from fused_resnet.backends import reference

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
