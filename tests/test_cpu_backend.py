"""The C++ extension against the reference: values, strides, repeatability, refusals, and life without it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from fused_resnet import _extension
from fused_resnet.backends import cpu, reference

if why := cpu.unavailable():
    if os.environ.get("FUSED_RESNET_REQUIRE_EXTENSION") == "1":
        pytest.fail(f"FUSED_RESNET_REQUIRE_EXTENSION=1, but {why}", pytrace=False)
    pytest.skip(why, allow_module_level=True)

CHANNELS_LAST = torch.channels_last

# Greatest error against the reference in fp64 on the same data.
# dtype: (of a result in the storage dtype, relative; of a per-channel value, relative; of a sum, per term)
TOLERANCE = {
    torch.float64: (1e-13, 1e-13, 1e-14),  # rounding of a few operations; sums of terms about 1
    torch.float32: (1e-6, 2e-6, 1e-6),  # a few roundings of 6e-8; sums of up to 64 terms before fp64
    torch.bfloat16: (2**-8, 2e-6, 1e-6),  # one rounding of the result, 2^-9; per-channel values are fp32
}
DTYPES = tuple(TOLERANCE)
SHAPES = (
    (1, 1, 5, 7),
    (3, 3, 7, 5),
    (2, 8, 9, 11),
    (1, 17, 13, 3),
    (3, 64, 7, 7),
    (2, 130, 5, 9),
    (3, 65, 1, 3),
)


def name_of(value):
    return str(value).replace("torch.", "").replace(" ", "")


def nhwc(t):
    return t.contiguous(memory_format=CHANNELS_LAST)


def make_activation(shape, dtype, seed):
    t = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    t[..., ::3] = 0  # with a zero shift in channel 0: z is exactly zero, which ReLU's gradient does not pass
    return nhwc(t.to(dtype))


def make_vectors(count, channels, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(count, channels, generator=generator, dtype=torch.float64)
    v[1:3] = v[1:3].abs() + 0.5
    v[-1, 0] = 0
    return v.to(torch.float64 if dtype == torch.float64 else torch.float32)


def make_cases(shape, dtype):
    """One call of every op in every form: id -> (op, arguments)."""
    y, r, dout, out = (make_activation(shape, dtype, seed) for seed in range(4))
    channels = shape[1]
    norm, r_norm, dnorm = (make_vectors(n, channels, dtype, 10 + i) for i, n in enumerate((4, 4, 3)))
    mean, var, weight, bias = make_vectors(4, channels, dtype, 20)
    sums = make_vectors(2, channels, dtype, 21)
    cases = {
        "bn_stats": ("bn_stats", (y,)),
        "bn_finalize": ("bn_finalize", (mean, var, weight.abs(), bias, 1e-3)),
        "bn_finalize-bf16-weight": ("bn_finalize", (mean, var, weight.bfloat16(), None, 1e-3)),
        "bn_finalize-bare": ("bn_finalize", (mean, var, None, None, 1e-3)),
        "bn_bwd_finalize": ("bn_bwd_finalize", (sums, norm, 123.0)),
        "bn_act_bwd_apply": ("bn_act_bwd_apply", (dout, y, dnorm)),
        "bn_act_bwd_apply-frozen": ("bn_act_bwd_apply", (dout, None, dnorm)),
        "bn_act_bwd_reduce-dual-alone": ("bn_act_bwd_reduce", (dout, None, None, out, r, r_norm, "relu")),
        "bn_act_bwd_reduce-sum-alone": ("bn_act_bwd_reduce", (dout, *5 * (None,), "identity")),
        "bn_act_bwd_reduce-mask-y": ("bn_act_bwd_reduce", (dout, y, norm, None, None, None, "relu")),
    }
    for act in ("relu", "identity"):
        cases |= {
            f"bn_act-{act}": ("bn_act", (y, norm, act)),
            f"bn_add_act-{act}": ("bn_add_act", (y, norm, r, None, act)),
            f"bn_add_act-dual-{act}": ("bn_add_act", (y, norm, r, r_norm, act)),
            f"bn_act_bwd_reduce-{act}": ("bn_act_bwd_reduce", (dout, y, norm, out, None, None, act)),
            f"bn_act_bwd_reduce-dual-{act}": ("bn_act_bwd_reduce", (dout, y, norm, out, r, r_norm, act)),
        }
    return cases


CASES = tuple(make_cases((1, 3, 3, 3), torch.float32))
WINDOWS = (  # kernel size, stride, padding
    ((3, 3), (2, 2), (1, 1)),
    ((2, 3), (1, 2), (1, 0)),
    ((3, 2), (3, 1), (0, 1)),
    ((1, 1), (2, 2), (0, 0)),
)
AMBIGUOUS = ((2, 1, 4, 5), (1, 1, 3, 3), (2, 6, 1, 1), (1, 1, 1, 1), (1, 6, 1, 1))


def call(backend, op, args):
    """The results of an op, as a tuple."""
    if backend is cpu:
        assert cpu.refuses(op, args) is None
    result = backend.OPS[op](*args)
    return result if isinstance(result, tuple) else (result,)


def in_fp64(args):
    return tuple(a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args)


def assert_close(got, expected, dtype, terms):
    of_storage, of_vector, of_term = TOLERANCE[dtype]
    for g, e in zip(got, expected, strict=True):
        assert g.shape == e.shape
        rtol, atol = (of_storage, of_storage) if g.dim() == 4 else (of_vector, of_term * terms)
        torch.testing.assert_close(g.double(), e, rtol=rtol, atol=atol)


def assert_same_form(got, expected):
    for g, e in zip(got, expected, strict=True):
        assert (g.dtype, g.shape, g.stride()) == (e.dtype, e.shape, e.stride())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
def test_against_reference(shape, dtype, case):
    op, args = make_cases(shape, dtype)[case]
    got = call(cpu, op, args)
    terms = shape[0] * shape[2] * shape[3] if op == "bn_act_bwd_reduce" else 1
    assert_close(got, call(reference, op, in_fp64(args)), dtype, terms)
    assert_same_form(got, call(reference, op, args))
    for t in got:
        assert all(not isinstance(a, torch.Tensor) or a.data_ptr() != t.data_ptr() for a in args)


@pytest.mark.parametrize("window", WINDOWS, ids=name_of)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
@pytest.mark.parametrize("shape", [s for s in SHAPES if s[1] > 1 and s[2] > 1], ids=name_of)
def test_pool_against_reference(shape, dtype, window):
    y, norm = make_activation(shape, dtype, 0), make_vectors(4, shape[1], dtype, 1)
    for act in ("relu", "identity"):
        args = (y, norm, act, *window)
        out, argmax = got = call(cpu, "bn_act_maxpool", args)
        assert_close((out,), call(reference, "bn_act_maxpool", in_fp64(args))[:1], dtype, 1)
        assert_same_form(got, call(reference, "bn_act_maxpool", args))
        assert torch.equal(out, F.max_pool2d(cpu.OPS["bn_act"](y, norm, act), *window))

        dout = make_activation(out.shape, dtype, 2)
        args = (dout, argmax, y, norm, act, *window)
        g, sums = got = call(cpu, "bn_act_maxpool_bwd_reduce", args)
        assert_close((g,), call(reference, "bn_act_maxpool_bwd_reduce", in_fp64(args))[:1], dtype, 1)
        assert_same_form(got, call(reference, "bn_act_maxpool_bwd_reduce", args))
        # the sums are of g as it was stored
        stored = in_fp64((g, y, norm, None, None, None, "identity"))
        terms = shape[0] * shape[2] * shape[3]
        assert_close((sums,), call(reference, "bn_act_bwd_reduce", stored)[1:], dtype, terms)


@pytest.mark.parametrize("act", ("relu", "identity"))
@pytest.mark.parametrize("window", WINDOWS, ids=name_of)
@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_pool_ties_and_nan_as_the_reference(dtype, window, act):
    # a grid on which BN is exact in every dtype, so that every tie is one in both backends
    generator = torch.Generator().manual_seed(0)
    y = nhwc((torch.randint(-3, 4, (2, 33, 9, 11), generator=generator) / 2).to(dtype))
    y[0, 3, 2:5, 2:5] = torch.nan
    y[1, :5, 4:, 4:] = -torch.inf
    y[1, 7, ::2] = torch.inf
    norm = torch.tensor([[0.0], [1.0], [2.0], [-0.5]]).repeat(1, 33)
    args = (y, norm.double() if dtype == torch.float64 else norm, act, *window)
    for g, e in zip(call(cpu, "bn_act_maxpool", args), call(reference, "bn_act_maxpool", args), strict=True):
        torch.testing.assert_close(g, e, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_nan_passes_the_relu(dtype):
    y, norm = nhwc(torch.full((1, 17, 2, 2), torch.nan, dtype=dtype)), torch.ones(4, 17)
    dout = torch.ones_like(y)
    assert cpu.OPS["bn_act"](y, norm, "relu").isnan().all()
    assert cpu.OPS["bn_act_bwd_reduce"](dout, y, norm, None, None, None, "relu")[0].all()
    assert cpu.OPS["bn_act_bwd_reduce"](dout, None, None, y, None, None, "relu")[0].all()


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_bits_do_not_depend_on_the_run_or_the_number_of_threads(dtype):
    shape = (4, 67, 57, 31)  # several chunks, none of them full
    cases = make_cases(shape, dtype)
    y, norm = make_activation(shape, dtype, 0), make_vectors(4, shape[1], dtype, 1)
    window = ((3, 3), (2, 2), (1, 1))
    out, argmax = cpu.OPS["bn_act_maxpool"](y, norm, "relu", *window)
    cases["pool"] = ("bn_act_maxpool", (y, norm, "relu", *window))
    cases["pool_bwd"] = ("bn_act_maxpool_bwd_reduce", (out, argmax, y, norm, "relu", *window))
    threads = torch.get_num_threads()
    try:
        runs = []
        for count in (threads, threads, 1, 3):
            torch.set_num_threads(count)
            runs.append([t for op, args in cases.values() for t in call(cpu, op, args)])
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64), ids=name_of)
def test_update_running(dtype):
    old_mean, old_var, mean, var = make_vectors(4, 37, dtype, 0)
    running_mean, running_var = old_mean.clone(), old_var.clone()
    args = (running_mean, running_var, mean, var, 0.3, 1.25)
    assert cpu.refuses("bn_update_running", args) is None
    assert cpu.OPS["bn_update_running"](*args) is None
    expected = [t.double() for t in (old_mean, old_var)]
    reference.OPS["bn_update_running"](*expected, mean.double(), var.double(), 0.3, 1.25)
    assert_close((running_mean, running_var), expected, dtype, 1)
    assert running_mean._version == running_var._version == 1  # autograd notices the write


def test_update_running_reaches_both_ends():
    old, new = make_vectors(2, 37, torch.float32, 0)
    for momentum, expected in ((0.0, old), (1.0, new)):
        running = [old.clone(), old.clone()]
        cpu.OPS["bn_update_running"](*running, new, new, momentum, 1.0)
        assert torch.equal(running[0], expected) and torch.equal(running[1], expected)


def relative_error(got, expected):
    return ((got.double() - expected) / expected).abs().max().item()


@pytest.mark.parametrize("offset", (0.0, 1e2, 1e4), ids=str)
@pytest.mark.parametrize("drift", (0.0, 1e2), ids=str)
def test_variance_does_not_cancel(offset, drift):
    y = torch.randn(8, 40, 31, 33, dtype=torch.float64) + offset
    y[4:] += drift
    y = nhwc(y.float())
    mean, var = cpu.OPS["bn_stats"](y)
    expected_mean, expected_var = reference.OPS["bn_stats"](y.double())
    stock_invstd = torch.native_batch_norm(y, None, None, None, None, True, 0.1, 0.0)[2]
    stock = relative_error(stock_invstd.double() ** -2, expected_var)
    assert relative_error(var, expected_var) <= max(2e-7, stock)
    assert (mean - expected_mean).abs().max() <= 1e-7 * (1 + offset + drift)


def with_default_strides(t):
    return t.contiguous().view(t.shape) if isinstance(t, torch.Tensor) and t.dim() == 4 else t


@pytest.mark.parametrize("shape", AMBIGUOUS, ids=name_of)
def test_ambiguous_layouts(shape):
    """Accepted where the strides are the default ones, and left to the reference where ATen changes them."""
    for op, args in make_cases(shape, torch.float32).values():
        args = tuple(with_default_strides(a) for a in args)
        assert_same_form(call(cpu, op, args), call(reference, op, args))
    _, c, h, w = shape
    y = torch.empty_strided(shape, (c * h * w, 1, w * c, c))
    assert y.is_contiguous() and y.is_contiguous(memory_format=CHANNELS_LAST)
    default = y.stride() == torch.empty(shape).stride()
    assert (cpu.refuses("bn_act", (y, torch.ones(4, c), "relu")) is None) == default
    assert "ambiguous" in cpu.refuses("bn_act_maxpool", (y, torch.ones(4, c), "relu", (1, 1), (1, 1), (0, 0)))


def test_refuses():
    y, norm = nhwc(torch.ones(2, 8, 3, 5)), torch.ones(4, 8)
    one = torch.ones(8)
    narrow, meta = one.bfloat16(), one.to("meta")
    cases = {
        "dtype": [("bn_stats", (y.half(),)), ("bn_finalize", (narrow, narrow, None, None, 0.0))],
        "argument 0": [("bn_stats", (y.contiguous(),)), ("bn_act", (y[:, ::2], norm, "relu"))],
        "argument 2": [("bn_add_act", (y, norm, y.contiguous(), None, "relu"))],
        "argument 3": [("bn_act_bwd_reduce", (y, y, norm, y.contiguous(), None, None, "relu"))],
        "device": [("bn_stats", (y.to("meta"),)), ("bn_finalize", (meta, meta, None, None, 0.0))],
        "no elements": [("bn_stats", (y[:0],)), ("bn_act", (nhwc(torch.ones(2, 8, 0, 5)), norm, "relu"))],
        "running": [
            ("bn_update_running", (one, narrow, one, one, 0.1, 1.0)),
            ("bn_update_running", (one, torch.ones(16)[::2], one, one, 0.1, 1.0)),
        ],
    }
    for reason, calls in cases.items():
        for op, args in calls:
            assert reason in cpu.refuses(op, args), (op, reason)


def test_refuses_on_fake_tensors_as_on_real_ones():
    y, norm = nhwc(torch.ones(2, 8, 3, 5)), torch.ones(4, 8)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake, fake_norm = mode.from_tensor(y), mode.from_tensor(norm)
        assert cpu.refuses("bn_act", (fake, fake_norm, "relu")) is None
        assert cpu.refuses("bn_act", (fake.contiguous(), fake_norm, "relu")) is not None
        on_gpu = torch.empty(2, 8, 3, 5, device="cuda", memory_format=CHANNELS_LAST)
        assert "device cuda" in cpu.refuses("bn_act", (on_gpu, fake_norm, "relu"))


def test_direct_calls_with_wrong_arguments_raise():
    y, norm = nhwc(torch.ones(2, 8, 3, 5)), torch.ones(4, 8)
    wrong = (
        ("bn_stats", (y.contiguous(),)),
        ("bn_act", (y, norm[:, :4], "relu")),
        ("bn_act", (y, norm, "tanh")),
        ("bn_add_act", (y, norm, y.double(), None, "relu")),
        ("bn_act_bwd_reduce", (y, None, None, None, None, None, "relu")),
        ("bn_act_bwd_apply", (y, y[:1], norm[:3])),
        ("bn_act_maxpool", (y, norm, "relu", (5, 5), (1, 1), (0, 0))),
    )
    for op, args in wrong:
        with pytest.raises(RuntimeError, match=r"expected|got"):
            cpu.OPS[op](*args)


def test_build_info():
    info = _extension.build_info()
    assert torch.__version__.startswith(info["torch"])
    assert info["cpu_instruction_set"] in ("baseline", "avx2", "avx512")
    assert (info["cuda"] is None) == (info["cuda_architectures"] is None)


PROBE = """
import warnings
import torch
from fused_resnet import _extension
from fused_resnet.backends import cpu, select
assert _extension.load() is None
y, norm = torch.ones(1, 4, 2, 2).contiguous(memory_format=torch.channels_last), torch.ones(4, 4)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    results = [select("bn_act", (y, norm, "relu")) for _ in range(3)]
assert [name for name, _ in results] == ["reference"] * 3
assert [w.category for w in caught] == [RuntimeWarning]
assert _extension.BUILD_COMMAND in str(caught[0].message)
print(cpu.unavailable())
"""


@pytest.mark.parametrize(
    ("file", "reason"),
    (
        (None, "was not built"),
        ("_C_torch_1_2_3.so", f"was not built for torch {torch.__version__}, only _C_torch_1_2_3.so"),
        (f"{_extension.NAME}.so", "failed to import: ImportError"),
    ),
    ids=("missing", "for another torch", "broken"),
)
def test_package_without_a_usable_extension(tmp_path, file, reason):
    source = Path(_extension.__file__).parent
    shutil.copytree(source, tmp_path / "fused_resnet", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    if file:
        (tmp_path / "fused_resnet" / file).write_bytes(b"not a library")
    command, environment = [sys.executable, "-c", PROBE], os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert reason in run.stdout
