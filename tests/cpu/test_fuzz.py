"""Random sizes of every convolution op; `make fuzz` searches for long."""

from hypothesis import assume, example, given
from hypothesis import strategies as st

from fused_resnet.analysis.kernel_arguments import BUILDERS, Conv, Make
from fused_resnet.backends import cpu
from tests.cpu.problems import DTYPES, VARIANTS, check, fits, threads

channels = st.one_of(st.integers(1, 40), st.integers(41, 150))
pixels = st.one_of(st.integers(1, 12), st.integers(13, 45))
dtypes = st.sampled_from(sorted(DTYPES))


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def convolutions(draw):
    """Any geometry that has an output."""
    kernel, groups = draw(pairs(1, 5)), draw(st.sampled_from((1, 1, 1, 2, 3, 8)))
    c, k = (draw(channels) if groups == 1 else groups * draw(st.integers(1, 20)) for _ in range(2))
    conv = Conv(
        draw(st.integers(1, 3)), draw(pixels), draw(pixels), c, k, kernel,
        draw(pairs(1, 3)), draw(pairs(0, 4)), draw(pairs(1, 3)), groups,
    )  # fmt: skip
    assume(min(conv.y_size) >= 1 and work(conv) < 2e7)
    # groups are the library's, which crashes now and then where windows lie in the padding (torch 2.14)
    reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel, strict=True)]
    assume(groups == 1 or all(p <= r for p, r in zip(conv.padding, reach, strict=True)))
    return conv


@st.composite
def pointwise(draw):
    size = st.integers(1, 3), pixels, pixels, channels, channels
    conv = Conv(*(draw(s) for s in size), stride=draw(pairs(1, 3)))
    assume(work(conv) < 2e7)
    return conv


def work(conv):
    n, k, p, q = conv.y_size
    return n * p * q * k * conv.kernel[0] * conv.kernel[1] * conv.c // conv.groups


def fuzz(op, conv, variant, dtype, count, seed):
    if op not in cpu.OPS or not fits(op, conv):
        return
    options = VARIANTS[op][variant % len(VARIANTS[op])]
    with threads(count):
        check(op, BUILDERS[op](Make(DTYPES[dtype], seed=seed), conv, **options))


OPS = [op for op in VARIANTS if op in cpu.OPS]
numbers = st.integers(0, 2**16)


@given(st.sampled_from(OPS or ["none"]), convolutions(), numbers, dtypes, st.integers(1, 4), numbers)
@example("conv_fprop", Conv(1, 1, 1, 1, 1), 0, "fp32", 1, 0)
def test_convolutions(op, conv, variant, dtype, count, seed):
    fuzz(op, conv, variant, dtype, count, seed)


@given(st.sampled_from(OPS or ["none"]), pointwise(), numbers, dtypes, st.integers(1, 4), numbers)
def test_pointwise(op, conv, variant, dtype, count, seed):
    fuzz(op, conv, variant, dtype, count, seed)
