"""Random problems through the interpreter, which finds races and accesses out of bounds."""

import math

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given, settings

from .support import ARCHS  # isort: skip  # noqa: F401

from gpu_on_cpu.triton import interpreting

from fused_resnet.analysis.kernel_problems import BUILDERS, Configuration, Conv, Make, Problem, Window
from tests.kernels_support import FORMATS, assert_right, run

BUDGET = 3e5  # multiply-adds of a problem, to stay below a second or two

channels = st.one_of(st.integers(1, 100), st.sampled_from([128, 256, 300, 512, 1000, 1024, 2047, 2048]))
spans = st.integers(1, 13)
acts = st.sampled_from(["relu", "identity"])
prologues = st.sampled_from([None, "relu", "identity"])
gradients = st.sampled_from(["g", "a*g", "a*g+b*y+c"])
flags = st.booleans()


@st.composite
def convolutions(draw, pointwise=False, square=False, strides=(1, 2)):
    """Sizes of at most BUDGET: many channels come with few pixels. square: an operand is [C, C]."""
    kernel = 1 if pointwise else draw(st.sampled_from([1, 3, 7]))
    c, k = (draw(channels) for _ in range(2))
    groups = 1 if pointwise or kernel == 7 else draw(st.sampled_from([1, 1, 32]))
    if groups > 1:
        c, k = (groups * (1 + size % 3) for size in (c, k))
    elif kernel == 7:
        c, k = 1 + c % 20, 1 + k % 100
    elif square or kernel == 3:
        c = 1 + c % 300
    padding, stride = kernel // 2, draw(st.sampled_from(strides))
    dilation = draw(st.sampled_from([1, 2])) if kernel == 3 else 1
    conv = Conv(
        *(draw(st.integers(1, 3)), draw(spans), draw(spans), c, k),
        *((v, v) for v in (kernel, stride, padding, dilation)),
        groups,
    )
    n, k, p, q = conv.y_size
    assume(p > 0 and q > 0)
    per_filter = math.prod(conv.weight_size[1:])
    if k * per_filter * n * p * q <= BUDGET:
        return conv
    fewer = groups * max(1, min(k, int(BUDGET / 4 / per_filter)) // groups)
    side = max(2, dilation * (kernel - 1) + 1 - 2 * padding)
    return conv._replace(n=1, h=side, w=side, k=fewer)


@st.composite
def activations(draw):
    size = draw(st.integers(1, 3)), draw(channels), draw(spans), draw(spans)
    return size if math.prod(size) <= BUDGET / 20 else (1, size[1], 3, 2)


@st.composite
def windows(draw):
    kernel = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return Window(kernel, stride, tuple(draw(st.integers(0, size // 2)) for size in kernel))


@st.composite
def pooled(draw):
    size, window = draw(activations()), draw(windows())
    spans = zip(size[2:], window.kernel_size, window.padding, strict=True)
    assume(all(x + 2 * p >= k for x, k, p in spans))
    return dict(size=size, window=window, act=draw(acts))


pointwise = convolutions(pointwise=True)
square = convolutions(pointwise=True, square=True)
epilogues = st.sets(st.sampled_from(["bias", "norm", "residual"])).map(" ".join)
sources = st.sampled_from(["y", "out", "y out", "out dual", "y out dual"])

# Of every op, what its builder takes besides the Make.
VARIANTS = {
    "conv_fprop": dict(s=convolutions(), prologue=prologues, epilogue=epilogues, act=acts),
    "conv_fprop_stats": dict(s=convolutions(), prologue=prologues),
    "conv_fprop_dual": dict(s=pointwise, prologue=prologues, act=acts),
    "conv_dgrad": dict(s=convolutions(), gradient=gradients, residual=flags),
    "conv_dgrad_reduce": dict(s=convolutions(), gradient=gradients, act=acts),
    "conv_wgrad": dict(s=convolutions(), prologue=prologues, gradient=gradients),
    "conv_wgrad_masked": dict(s=pointwise, prologue=prologues),
    "gram": dict(s=square, prologue=prologues),
    "folded_dgrad": dict(s=square, prologue=prologues, residual=flags),
    "folded_dgrad_reduce": dict(s=convolutions(pointwise=True, square=True, strides=(1,)), act=acts),
    "bn_stats": dict(size=activations(), offset=st.sampled_from([0.0, 30.0])),
    "bn_finalize": dict(channels=channels, affine=flags),
    "bn_update_running": dict(channels=channels, momentum=st.sampled_from([0.0, 0.1, 0.5, 1.0])),
    "bn_act": dict(size=activations(), act=acts),
    "bn_add_act": dict(size=activations(), dual=flags, act=acts),
    "bn_act_bwd_reduce": dict(size=activations(), given=sources, act=acts),
    "bn_bwd_finalize": dict(channels=channels),
    "bn_act_bwd_apply": dict(size=activations(), with_y=flags),
    "bn_act_maxpool": pooled(),
    "bn_act_maxpool_bwd_reduce": pooled(),
}


def test_every_op_has_variants():
    assert VARIANTS.keys() == BUILDERS.keys()


# Of every op half as many as of other tests: an example takes a second.
@pytest.mark.parametrize("op", VARIANTS)
@settings(max_examples=settings.default.max_examples // 2)
@given(data=st.data())
def test_random_problems(op, data):
    variant = VARIANTS[op]
    variant = data.draw(st.fixed_dictionaries(variant) if isinstance(variant, dict) else variant)
    make = Make(FORMATS[data.draw(st.sampled_from(list(FORMATS)))].use(), data.draw(st.integers(0, 99)))
    args = BUILDERS[op](make, **variant)
    problem = Problem(op, op, lambda make: [args])
    configuration = Configuration(problem, args, data.draw(st.integers(0, 2)))
    with interpreting():
        results = run(configuration)
    assert_right(configuration, results)
