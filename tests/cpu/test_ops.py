"""Every op on the CPU backend, element by element against fp64, in every variant, on sizes of all kinds."""

import pytest
import torch

from fused_resnet import _extension, ops
from fused_resnet.analysis import kernel_truth
from fused_resnet.analysis.kernel_arguments import BUILDERS, Conv, Make
from fused_resnet.backends import cpu
from fused_resnet.backends.signatures import ACTIVATIONS
from tests.cpu.problems import (
    DTYPES,
    FEW,
    OVER_ROWS,
    PROBLEMS,
    SIZES,
    VARIANTS,
    VARIED,
    assert_right,
    check,
    multiplied_in_bf16,
    run,
    widened,
    with_a_nan,
)
from tests.tolerances import assert_close

every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
UNGROUPED = {name: p for name, p in FEW.items() if p.op in VARIANTS and "ResNeXt" not in name}


def of_this_backend(problems):
    return [name for name, problem in problems.items() if problem.op in cpu.OPS]


def test_the_backend_has_every_op():
    assert set(cpu.OPS) == set(ops.__all__)


@every_dtype
@pytest.mark.parametrize("name", of_this_backend(PROBLEMS))
def test_truth(name, dtype):
    op, arguments = PROBLEMS[name]
    for args in arguments(Make(dtype, seed=0)):
        check(op, args)


@every_dtype
@pytest.mark.parametrize("name", of_this_backend(VARIED))
def test_every_variant(name, dtype):
    op, arguments = VARIED[name]
    for args in arguments(Make(dtype, seed=0)):
        check(op, args)


@every_dtype
@pytest.mark.parametrize("name", of_this_backend(FEW))
def test_nan(name, dtype):
    """A NaN is where torch has it, and nowhere else."""
    op, arguments = FEW[name]
    for args in arguments(Make(dtype, seed=1)):
        for planted in with_a_nan(args):
            if cpu.refuses(op, planted) is None:
                assert_right(op, planted, run(op, planted, cpu.OPS[op]))


@every_dtype
@pytest.mark.parametrize("name", of_this_backend(UNGROUPED))
def test_empty_batch_is_refused(name, dtype):
    """By the backend, so that the library takes it; and by the kernel, where nobody asks the backend."""
    op, arguments = UNGROUPED[name]
    args = list(arguments(Make(dtype, seed=0))[0])
    for i in ACTIVATIONS[op]:
        if args[i] is not None:
            args[i] = args[i][:0]
    assert cpu.refuses(op, tuple(args)) == "no elements"
    with pytest.raises(RuntimeError, match="expected"):
        cpu.OPS[op](*args)


def in_place(weight):
    weight.mul_(-2.0)


def through_data(weight):
    """As many optimizers and averages of weights write, without a trace in the tensor's version."""
    weight.data.mul_(-2.0)


def other_storage(weight):
    weight.data = weight.data * -2.0


@every_dtype
@pytest.mark.parametrize("change", (in_place, through_data, other_storage))
@pytest.mark.parametrize("op", [op for op in VARIANTS if op.startswith("conv") and "wgrad" not in op])
def test_weights_that_change(op, change, dtype):
    """What is kept of a weight from call to call is kept of these values, for this use."""
    args = BUILDERS[op](Make(dtype, seed=0), SIZES["17 channels"])
    args[1].requires_grad_()  # as a module's
    for _ in range(2):
        for _ in range(5):
            with torch.no_grad():
                assert_right(op, args, run(op, args, cpu.OPS[op]))
        with torch.no_grad():
            change(args[1])


@pytest.mark.parametrize("mode", (torch.no_grad, torch.inference_mode))
def test_casts_of_weights_are_packed_once(mode):
    """What is kept of a weight under autocast is its cast, and the panels of that."""
    make, module = Make(torch.float32, seed=0), _extension.load()
    weight, before = torch.nn.Parameter(make.weight(40, 24, 1, 1)), module.packed_bytes()
    args = list(BUILDERS["conv_fprop"](Make(torch.bfloat16, seed=0), Conv(2, 6, 7, 24, 40)))
    with mode():
        for _ in range(6):
            args[1] = cpu.kept_cast(weight, torch.bfloat16)
            ops.conv_fprop(*args)
    assert module.packed_bytes() - before >= weight.numel() * (2 + 2)


@every_dtype
def test_one_weight_in_several_ops(dtype):
    make, size = Make(dtype, seed=0), Conv(2, 6, 7, 24, 24)
    weight = make.weight(24, 24, 1, 1)
    for _ in range(5):
        for op in ("conv_fprop", "conv_dgrad", "conv_fprop_dual", "conv_fprop_stats", "conv_dgrad_reduce"):
            args = list(BUILDERS[op](make, size))
            if op == "conv_fprop_dual":
                args[6] = weight
            else:
                args[1] = weight
            assert_right(op, args, run(op, args, cpu.OPS[op]))


@every_dtype
@pytest.mark.parametrize("op", ("gram", "conv_wgrad", "conv_dgrad_reduce", "conv_fprop_stats"))
def test_long_sums(op, dtype):
    """Over a hundred thousand rows: fp32 alone would lose the last three digits, of terms of one sign."""
    args = BUILDERS[op](Make(dtype, seed=0), Conv(8, 112, 112, 24, 20), **VARIANTS[op][-2])
    results = run(op, args, cpu.OPS[op])
    if not multiplied_in_bf16(op, args):
        args, results = [widened(a) for a in args], [widened(r) for r in results]
    stored = kernel_truth.expected(op, args, results)
    for got, (name, want) in zip(results, stored.items(), strict=True):
        if name in OVER_ROWS:
            assert_close(got, want.value, "op over many rows", what=f"{op}: {name}")
