"""Every op against an independent truth in fp64, on every backend that runs here; torch's opcheck."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fused_resnet import backends, ops
from tests import op_samples, op_truth
from tests.op_samples import NCHW, NHWC, SAMPLES, Conv, Make, Pooling
from tests.tolerances import assert_close

FP32, FP64, BF16, FP16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
DTYPES = {"fp32": FP32, "fp64": FP64, "bf16": BF16}
LAYOUTS = {"nhwc": NHWC, "nchw": NCHW}
MAKES = {f"{d}-{m}": Make(dtype, layout) for d, dtype in DTYPES.items() for m, layout in LAYOUTS.items()}

every_op = pytest.mark.parametrize("op", sorted(SAMPLES))
every_make = pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)


@pytest.fixture(params=sorted(set(backends.BACKENDS) - {"library"}))
def backend(request):
    """Each backend in turn; convolutions that it lacks run on the library, which needs no turn of its own."""
    if why := backends.unavailable(request.param):
        pytest.skip(why)
    with backends.use_backend(request.param):
        yield request.param


def flat(result):
    return result if isinstance(result, tuple) else (result,)


def to_truth(value):
    if isinstance(value, list):
        return list(map(to_truth, value))
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def check(op, args, dtype, slack=1.0):
    """One op against the truth on the very same (rounded) arguments, which it must not write to.

    Args: slack: times the tolerance, for shapes of which some make long sums cancel to a small result.
    """
    want = flat(getattr(op_truth, op)(*map(to_truth, args)))
    before = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
    got = flat(getattr(ops, op)(*args))
    if op == "bn_update_running":
        got, before = args[:2], [*args[:2], *before[2:]]
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        if g.dtype == torch.uint8:
            assert dtype == BF16 or torch.equal(g, w), f"{op}: argmax"  # bf16 rounds distinct values to ties
        else:
            # arguments are of order 1: the few values of a tiny result may cancel to less than that
            scale = slack * max(w.norm().item(), w.numel() ** 0.5)
            assert_close(g, w, "op", dtype, f"{op}, result {i}", scale)
    for old, new in zip(before, args, strict=True):
        assert not isinstance(old, torch.Tensor) or torch.equal(old, new), f"{op} wrote to an argument"
    return got


def test_every_op_has_samples_and_truth():
    registered = {n for n in torch._C._dispatch_get_all_op_names() if n.startswith("fused_resnet::")}
    assert {n.removeprefix("fused_resnet::") for n in registered} == set(ops.__all__)
    assert set(ops.__all__) == set(SAMPLES) == set(backends.reference.OPS)
    assert all(hasattr(op_truth, op) for op in SAMPLES)


@every_op
@every_make
def test_truth(op, make, backend):
    for args in SAMPLES[op](make):
        got = check(op, args, make.dtype)
        for result in got:
            if result.dim() == 4 and not op.endswith("wgrad"):
                assert result.is_contiguous(memory_format=make.layout), f"{op}: layout of the result"


@every_op
@every_make
def test_opcheck(op, make):
    """Schema, fake kernel (shapes, dtypes, strides), and what torch.compile makes of it.

    The dynamic-shape tracing of opcheck takes a second per call: it runs on the first sample only.
    """
    overload = getattr(torch.ops.fused_resnet, op).default
    quick = ("test_schema", "test_autograd_registration", "test_faketensor")
    for i, args in enumerate(SAMPLES[op](make)):
        whole = i == 0 and make == Make()
        torch.library.opcheck(
            overload, args, test_utils=(*quick, "test_aot_dispatch_dynamic") if whole else quick
        )


@every_op
def test_repeatable(op, backend):
    """The same arguments give the same bits."""
    for args in SAMPLES[op](Make(FP32)):
        clones = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
        first, second = getattr(ops, op)(*args), getattr(ops, op)(*clones)
        for a, b in zip(flat(first), flat(second), strict=True):
            assert a is b is None or torch.equal(a, b)


@every_op
def test_noncontiguous(op, backend):
    """Arguments may be any view: sliced here in every dimension, so that no layout is dense."""

    def view(t):
        if not isinstance(t, torch.Tensor) or op == "bn_update_running":
            return t
        room = torch.zeros([2 * n for n in t.shape], dtype=t.dtype)
        window = room[tuple(slice(0, 2 * n, 2) for n in t.shape)]
        return window.copy_(t)

    for args in SAMPLES[op](Make(FP64)):
        check(op, tuple(map(view, args)), FP64)


def test_keyword_arguments():
    y, norm = Make().activation(2, 3, 4, 4), Make().norm(3)
    assert torch.equal(ops.bn_act(y, norm=norm, act="relu"), ops.bn_act(y, norm, "relu"))


@pytest.mark.parametrize("op", ["conv_fprop", "conv_dgrad_reduce", "bn_act_bwd_reduce", "folded_dgrad"])
def test_fp16(op, backend):
    for args in list(SAMPLES[op](Make(FP16)))[:6]:
        check(op, args, FP16)


# ---- single ops --------------------------------------------------------------------------------------------


def test_statistics_do_not_cancel(backend):
    """A mean far above the deviation: E[y²] - E[y]² would lose every digit in fp32."""
    y = torch.randn(4, 3, 20, 20, dtype=FP64).mul(0.1).add(300.0).float().contiguous(memory_format=NHWC)
    mean, var = ops.bn_stats(y)
    want_mean, want_var = op_truth.bn_stats(y.double())
    assert_close(mean, want_mean, "op")
    assert_close(var, want_var, "op")
    mean, gram = ops.gram(y, None, "identity", [1, 1])
    assert_close(gram.diagonal(), want_var * 1600, "op")


@pytest.mark.parametrize("momentum", [0.1, 0.5, 0.9, 1.0, 1 / 3])
@pytest.mark.parametrize("dtype", [FP64, FP32, BF16])
def test_running_statistics_as_batch_norm(dtype, momentum, backend):
    """In the buffers' own dtype, with the unbiased variance."""
    y = Make(FP32 if dtype == BF16 else dtype).activation(3, 5, 4, 4)
    mean, var = ops.bn_stats(y)
    running = torch.randn(5).to(dtype), torch.rand(5).to(dtype)
    want = running[0].double(), running[1].double()
    F.batch_norm(y.double(), *want, training=True, momentum=momentum)
    ops.bn_update_running(*running, mean, var, momentum, 48 / 47)
    for got, expected in zip(running, want, strict=True):
        assert got.dtype == dtype
        assert_close(got, expected, "op", dtype)


def test_backward_of_batch_norm(backend):
    """reduce, finalize and apply together are the gradient of ``F.relu(F.batch_norm(y))`` in training."""
    y, dout = (Make(FP64).activation(3, 4, 5, 2) for _ in range(2))
    weight, bias = torch.randn(4, dtype=FP64).requires_grad_(), torch.randn(4, dtype=FP64).requires_grad_()
    leaf = y.clone().requires_grad_()
    F.relu(F.batch_norm(leaf, None, None, weight, bias, True)).backward(dout)
    norm = ops.bn_finalize(*ops.bn_stats(y), weight.detach(), bias.detach(), 1e-5)
    g, sums = ops.bn_act_bwd_reduce(dout, y, norm, None, None, None, "relu")
    dy = ops.bn_act_bwd_apply(g, y, ops.bn_bwd_finalize(sums, norm, 30.0))
    for got, want in ((dy, leaf.grad), (sums[0], bias.grad), (sums[1], weight.grad)):
        assert_close(got, want, "op")


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("pooling", op_samples.POOLINGS)
def test_maxpool_ties_and_nan(dtype, pooling, backend):
    """Of equal values the first counts, of NaNs the last, as in ``F.max_pool2d``; integers are exact."""
    norm = torch.tensor([[0.0], [1.0], [1.0], [0.0]], dtype=Make(dtype).wide).expand(4, 3).contiguous()
    y = torch.randint(-2, 3, (2, 3, 9, 8)).to(dtype).contiguous(memory_format=NHWC)
    y[0, 0, 3, 4] = y[0, 0, 4, 4] = y[1, 2, 0, 0] = float("nan")
    y[1, 1, 5:, :] = -float("inf")
    for act in ("relu", "identity"):
        out, argmax = ops.bn_act_maxpool(y, norm, act, *pooling)
        want_out, want_argmax = op_truth.bn_act_maxpool(y.double(), norm.double(), act, *pooling)
        assert torch.equal(out.double().nan_to_num(7.0), want_out.nan_to_num(7.0))
        assert torch.equal(argmax, want_argmax)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_relu_gradient_at_nan(dtype, backend):
    """A NaN lets the gradient pass, as ReLU's backward does: a loss scaler must see that the step is lost."""
    y, dout = (Make(dtype).activation(1, 8, 4, 4) for _ in range(2))
    y[0, 1, 2, 3], dout[0, 5, 1, 1] = float("nan"), float("nan")
    y[0, 5, 1, 1] = 1.0
    norm = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=Make(dtype).wide)[:, None].repeat(1, 8)
    leaf = y.clone().requires_grad_()
    F.relu(leaf).backward(dout)
    for args in ((None, None, y), (y, norm, None)):
        g, _ = ops.bn_act_bwd_reduce(dout, *args, None, None, "relu")
        assert torch.equal(g.nan_to_num(7.0), leaf.grad.nan_to_num(7.0))


def test_relu_keeps_nan(backend):
    y = Make().activation(1, 8, 4, 4)
    y[0, 1, 2, 3] = float("nan")
    assert ops.bn_act(y, Make().norm(8), "relu").isnan().sum() == 1


# ---- fuzzing -----------------------------------------------------------------------------------------------

FUZZ_SLACK = 5.0
small = st.integers(1, 6)
makes = st.builds(Make, st.sampled_from([FP64, FP32, BF16]), st.sampled_from([NHWC, NCHW]))
forced = st.sampled_from([None, *(b for b in sorted(backends.BACKENDS) if not backends.unavailable(b))])


def pairs(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    conv = Conv(
        draw(st.integers(1, 3)), groups * draw(st.integers(1, 3)), draw(st.integers(1, 9)),
        draw(st.integers(1, 9)), groups * draw(st.integers(1, 3)), draw(pairs(1, 4)), draw(pairs(1, 3)),
        draw(pairs(0, 3)), draw(pairs(1, 2)), groups,
    )  # fmt: skip
    assume(min(conv.y_size) >= 1)
    # with windows wholly inside the padding oneDNN itself crashes now and then (torch 2.14, AVX2, NHWC)
    reach = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel, strict=True)]
    assume(all(p <= r for p, r in zip(conv.padding, reach, strict=True)))
    return conv


def running(name):
    return contextlib.nullcontext() if name is None else backends.use_backend(name)


@given(convolutions(), makes, forced, st.integers(0, 2**31))
@example(Conv(1, 1, 1, 1, 1, (1, 1), (1, 1), (0, 0)), Make(FP32), None, 0)
def test_fuzz_convolutions(conv, make, name, seed):
    torch.manual_seed(seed)
    with running(name):
        for op in ("conv_fprop", "conv_fprop_stats", "conv_dgrad", "conv_dgrad_reduce", "conv_wgrad"):
            for args in SAMPLES[op](make, [conv]):
                check(op, args, make.dtype, FUZZ_SLACK)


@given(
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 6),
    st.integers(1, 6),
    makes,
    forced,
    st.integers(0, 2**31),
)
@example(1, 1, 1, 1, Make(FP64, NHWC), None, 0)
def test_fuzz_norms(n, c, h, w, make, name, seed):
    torch.manual_seed(seed)
    y, dout, residual = (make.activation(n, c, h, w) for _ in range(3))
    norm, dual = make.norm(c), make.norm(c)
    calls = (
        ("bn_stats", (y,)),
        ("bn_act", (y, norm, "relu")),
        ("bn_add_act", (y, norm, residual, dual, "relu")),
        ("bn_act_bwd_reduce", (dout, y, norm, None, None, None, "relu")),
        ("bn_act_bwd_reduce", (dout, y, norm, residual, residual, dual, "relu")),
        ("bn_act_bwd_apply", (dout, y, make.vector(3, c))),
        ("gram", (y, norm, "relu", [2, 1])),
    )
    with running(name):
        for op, args in calls:
            check(op, args, make.dtype, FUZZ_SLACK)


@given(
    small, small, pairs(1, 12), pairs(1, 5), pairs(1, 4), pairs(0, 2), makes, forced, st.integers(0, 2**31)
)
def test_fuzz_maxpool(n, c, size, kernel, stride, padding, make, name, seed):
    pooling = Pooling(kernel, stride, padding)
    assume(all(2 * p <= k for p, k in zip(padding, kernel, strict=True)))
    assume(min(pooling.output_size(size)) >= 1)
    torch.manual_seed(seed)
    y, norm = make.activation(n, c, *size), make.norm(c)
    argmax = op_samples.argmax_of(y, norm, "relu", pooling).contiguous(memory_format=make.layout)
    dout = make.activation(n, c, *pooling.output_size(size))
    with running(name):
        check("bn_act_maxpool", (y, norm, "relu", *pooling), make.dtype, FUZZ_SLACK)
        check("bn_act_maxpool_bwd_reduce", (dout, argmax, y, norm, "relu", *pooling), make.dtype, FUZZ_SLACK)
