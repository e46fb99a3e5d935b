"""The same bits in every run with as many threads, right results with any number of them."""

import threading

import pytest
import torch

import fused_resnet
from fused_resnet import use_backend
from fused_resnet.analysis.kernel_arguments import BUILDERS, Conv, Make
from fused_resnet.backends import cpu
from tests.cpu.problems import DTYPES, PROBLEMS, VARIANTS, assert_right, assert_same_bits, fits, run, threads
from tests.support import perturb

every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
PASSES = {
    name: problem
    for name, problem in PROBLEMS.items()
    if problem.op in cpu.OPS and problem.op not in VARIANTS
}
# Several strips for each of four threads; few rows and many filters, so that threads share the rows.
LARGE = (
    Conv(3, 29, 31, 72, 80),
    Conv(2, 30, 31, 40, 72, (3, 3), padding=(1, 1)),
    Conv(2, 31, 29, 34, 70, (3, 3), (2, 2), (1, 1)),
    Conv(1, 3, 5, 130, 700),
    Conv(2, 21, 23, 64, 64, (3, 3), padding=(1, 1), groups=4),
)


def calls(dtype):
    """Every op on several sizes."""
    make = Make(dtype, seed=2)
    for name, (op, arguments) in PASSES.items():
        for i, args in enumerate(arguments(make)):
            if cpu.refuses(op, args) is None:
                yield f"{name} {i}", op, args
    for op, variants in VARIANTS.items():
        for i, size in enumerate(LARGE):
            if op in cpu.OPS and fits(op, size):
                args = BUILDERS[op](make, size, **variants[i % len(variants)])
                if cpu.refuses(op, args) is None:
                    yield f"{op} {size}", op, args


@every_dtype
@pytest.mark.parametrize("count", (2, 4))
def test_bits_do_not_depend_on_the_run(count, dtype):
    with threads(count):
        for name, op, args in calls(dtype):
            first = run(op, args, cpu.OPS[op])
            for _ in range(3):
                assert_same_bits(run(op, args, cpu.OPS[op]), first, f"{name}: other bits")


@every_dtype
@pytest.mark.parametrize("count", (1, 2, 4))
def test_right_with_any_number_of_threads(count, dtype):
    for _, op, args in calls(dtype):
        with threads(count):
            results = run(op, args, cpu.OPS[op])
        assert_right(op, args, results)


@every_dtype
def test_calls_from_several_python_threads(dtype):
    """Ops run without Python's lock: what one keeps for itself must not be another's."""
    found, prepared = {}, list(calls(dtype))

    def work(index):
        for i in range(len(prepared)):
            name, op, args = prepared[(i + index * 7) % len(prepared)]
            found[index, name] = run(op, args, cpu.OPS[op])

    with threads(2):
        expected = {name: run(op, args, cpu.OPS[op]) for name, op, args in prepared}
        workers = [threading.Thread(target=work, args=(i,)) for i in range(3)]
        [w.start() for w in workers]
        [w.join() for w in workers]
    assert len(found) == 3 * len(expected)
    for (_, name), results in found.items():
        assert_same_bits(results, expected[name], f"{name}: other bits beside other calls")


def network():
    torch.manual_seed(0)
    model = fused_resnet.models.create("cifar_resnet20", fused=False, shortcut="B", num_classes=10)
    return perturb(model).to(memory_format=torch.channels_last)


def images():
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return x.contiguous(memory_format=torch.channels_last)


def training_step(memory, autocast):
    """Loss and gradients of a small network."""
    model, x = fused_resnet.fuse(network(), memory=memory), images().requires_grad_()
    with use_backend("cpu"), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model(x).float().square().mean()
        return loss, *torch.autograd.grad(loss, (x, *model.parameters()))


@pytest.mark.parametrize("autocast", (False, True), ids=("fp32", "bf16"))
@pytest.mark.parametrize("memory", ("speed", "balanced", "min"))
@pytest.mark.parametrize("count", (2, 4))
def test_training_step_repeats(count, memory, autocast):
    with threads(count):
        first = training_step(memory, autocast)
        assert_same_bits(training_step(memory, autocast), first, "other bits")
