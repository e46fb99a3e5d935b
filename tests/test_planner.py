"""Which engine convolves: rules, measurements, and that every op runs where the plan says."""

import functools
import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import fused_resnet
from fused_resnet import backends, ops
from fused_resnet.backends import cuda, engines, gpu, signatures, triton, tuning
from fused_resnet.models.blocks import Bottleneck
from fused_resnet.nn import record
from fused_resnet.planner import ConvShape, measure
from tests import op_samples
from tests.dispatch import Step, calls, needs_cuda_build, needs_triton, no_gpu, resnet50
from tests.op_samples import NCHW, NHWC, SAMPLES, Make
from tests.support import perturb
from tests.tolerances import assert_close

OWN = engines.OWN
BF16, FP32, FP64 = torch.bfloat16, torch.float32, torch.float64


pytestmark = pytest.mark.usefixtures("no_choices")


# ---- engines without values --------------------------------------------------------------------------------


@needs_triton
@needs_cuda_build
@pytest.mark.parametrize("memory", ["speed", "balanced", "min"])
def test_every_op_of_resnet50_has_its_engine(memory):
    # in fp32: without a GPU the library's 16-bit convolutions give fake tensors in NCHW
    step = Step(resnet50, (8, 3, 224, 224), FP32, memory=memory)
    found = step.backends()
    names = {op for op, _, _ in step.calls}
    assert {"conv_fprop_stats", "conv_dgrad_reduce", "conv_wgrad", "bn_act_maxpool_bwd_reduce"} < names
    assert {"gram", "folded_dgrad_reduce", "conv_fprop_dual"} < names or memory == "speed"
    for key, backend in found.items():
        convs = key[1:] if isinstance(key, tuple) else ()
        compute_bound = any(kernel > 1 and channels >= 256 for channels, kernel in convs)
        assert backend == {"library" if compute_bound else "triton"}, key
    assert ("conv_wgrad", (512, 3)) in found and ("conv_wgrad", (128, 3)) in found
    for _, shapes, plan in step.plans:
        for shape, engine in zip(shapes, plan.engines, strict=True):
            assert engine == engines.rule(shape.convolution(FP32))


@needs_triton
@needs_cuda_build
def test_fake_results_are_laid_out_as_the_kernels_lay_them_out():
    """Whatever the library would do."""
    with FakeTensorMode(), torch.device("cuda"), calls() as found:
        x = torch.empty(2, 16, 8, 8, dtype=BF16).to(memory_format=NHWC)
        weight, geometry = torch.empty(8, 16, 3, 3, dtype=BF16), ([1, 1], [1, 1], [1, 1], 1)
        y, _, _ = ops.conv_fprop_stats(x, weight, None, "identity", *geometry)
        dw = ops.conv_wgrad(y, x, None, "identity", [8, 16, 3, 3], *geometry, None, None)
        out = torch.empty(2, 8, 6, 6, dtype=BF16).to(memory_format=NHWC)
        g, _, p = ops.conv_wgrad_masked(out, out, x, None, "identity", [8, 16, 3, 3], [1, 1])
    assert [name for _, _, name in found] == ["triton"] * 3
    for t in (y, g):
        assert t.is_contiguous(memory_format=NHWC) and not t.is_contiguous()
    assert dw.is_contiguous() and p.is_contiguous()


@needs_triton
@needs_cuda_build
@pytest.mark.parametrize(("dtype", "layout"), [(FP64, NHWC), (BF16, NCHW)])
def test_what_our_kernels_refuse_goes_to_the_library(dtype, layout):
    step = Step(lambda: Bottleneck(64, 16), (2, 64, 8, 8), dtype, layout)
    assert {p.engines for _, _, p in step.plans} == {("library",) * 3}
    assert {name for op, _, name in step.calls if op.startswith("conv_")} == {"library"}
    assert all(
        args[3] is None for op, args, _ in step.calls if op == "conv_fprop"
    )  # operands are written out


@needs_cuda_build
def test_without_kernels_of_our_own_everything_goes_to_the_library(monkeypatch):
    monkeypatch.setattr(triton, "_not_installed", lambda: "Triton is not installed")
    monkeypatch.setattr(cuda, "extension", lambda: None)
    step = Step(lambda: Bottleneck(64, 16), (2, 64, 8, 8))
    assert {name for _, _, name in step.calls} == {"library", "reference"}
    assert {p.engines for _, _, p in step.plans} == {("library",) * 3}


@needs_triton
@needs_cuda_build
def test_a_measured_winner_is_obeyed(monkeypatch):
    """The library for the 3x3 convolution, which has 16 channels: the rule would say otherwise."""
    monkeypatch.setattr(tuning, "environment", lambda: "some GPU")
    problems = []
    original = measure.engine
    monkeypatch.setattr(measure, "engine", lambda p, *more: problems.append(p) or original(p, *more))

    def make():
        return Bottleneck(64, 16)

    assert {p.engines for _, _, p in Step(make, (2, 64, 8, 8), FP32).plans} == {("triton",) * 3}
    (wanted,) = (p for p in problems if p.shape.kernel == (3, 3))
    assert wanted.reads_raw and wanted.norm == "batch" and not wanted.fold
    monkeypatch.setattr(tuning, "fastest", lambda candidates, run: candidates.index("library"))
    assert original(wanted, torch.empty(0), ("triton",)) == "library"
    monkeypatch.setattr(tuning, "fastest", lambda candidates, run: pytest.fail("measured"))
    monkeypatch.setattr(tuning, "_winners", functools.cache(tuning._Winners))  # from disk

    step = Step(make, (2, 64, 8, 8), FP32)
    assert {p.engines for _, _, p in step.plans} == {("triton", "library", "triton")}
    for key, names in step.backends().items():
        assert names == {"library" if isinstance(key, tuple) and key[1][1] == 3 else "triton"}, key
    written = [op for op, _, name in step.calls if name == "triton"]
    assert written.count("bn_act") == 2  # the operand of the 3x3, in forward and in backward
    assert written.count("bn_act_bwd_apply") == 1


def test_explain_shows_the_engines():
    explanation = fused_resnet.explain(fused_resnet.fuse(Bottleneck(16, 4)), torch.ones(2, 16, 4, 4))
    assert explanation.runs[0].engines == ("library",) * 3
    assert "triton" not in str(explanation)
    explanation.runs[0] = replace(explanation.runs[0], engines=("triton", "library", "triton"))
    assert str(explanation).count("triton") == 2


# ---- the table ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", sorted(SAMPLES))
def test_every_convolution_op_knows_its_convolution(op):
    for args in SAMPLES[op](Make()):
        convs = engines.convolutions(op, args)
        expected = 2 if op == "conv_fprop_dual" else int(op.startswith("conv_"))
        if op == "conv_chain_fprop":
            expected = len(args[1]) + (args[8] is not None)
        assert len(convs) == expected, op
        for conv in convs:
            assert engines.engine_of_call(op, args) == "triton"
            engines.assigned[conv] = "library"
            assert engines.engine_of_call(op, args) == "library"
            engines.assigned.clear()


def test_ops_of_one_convolution_agree():
    conv = op_samples.Conv(groups=2, stride=(2, 1), dilation=(1, 2), padding=(0, 3))
    found = {
        c
        for op in ("conv_fprop", "conv_fprop_stats", "conv_dgrad", "conv_dgrad_reduce", "conv_wgrad")
        for args in SAMPLES[op](Make(), [conv])
        for c in engines.convolutions(op, args)
    }
    shape = ConvShape(
        conv.n, conv.x_size[2:], conv.y_size[2:], conv.c, conv.k, conv.kernel, conv.stride, conv.padding,
        conv.dilation, conv.groups,
    )  # fmt: skip
    assert found == {shape.convolution(FP32)}


# ---- measuring ---------------------------------------------------------------------------------------------


def shape_of(kernel, stride):
    p = kernel // 2
    out = tuple((n + 2 * p - kernel) // stride + 1 for n in (5, 6))
    return ConvShape(2, (5, 6), out, 4, 8, (kernel, kernel), (stride, stride), (p, p), (1, 1), 1)


@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("reads_raw", [False, True])
@pytest.mark.parametrize(
    ("norm", "fold"), [("batch", False), ("batch", True), ("frozen", False), ("none", False)]
)
def test_what_is_measured(norm, fold, reads_raw, stride, backward, monkeypatch):
    """Every op of the unit runs with each engine; the random numbers of others stay."""
    monkeypatch.setattr(tuning, "environment", lambda: "some GPU")
    problem = measure.Problem(shape_of(1 if fold else 3, stride), FP32, norm, fold, reads_raw, backward)
    ran = {}

    def fastest(candidates, run):
        for candidate in candidates:
            with calls() as ran[candidate]:
                run(candidate)
        return candidates.index("library")

    monkeypatch.setattr(tuning, "fastest", fastest)
    state = torch.get_rng_state()
    if fold and reads_raw and stride == 2:
        pytest.skip("no strided convolution folds behind a stored one")
    assert measure.engine(problem, torch.empty(0), OWN) == "library"
    assert torch.equal(torch.get_rng_state(), state)
    assert tuple(ran) == (*OWN, "library")
    for candidate, found in ran.items():
        names = [op for op, _, _ in found]
        assert any("fprop" in n for n in names)
        assert ("conv_wgrad" in names and any("dgrad" in n for n in names)) == backward
        assert names.count("bn_act") == (1 + backward if reads_raw and candidate == "library" else 0)


def test_measured_without_autocast(monkeypatch):
    """As units run, whose own products of statistics keep fp32."""
    monkeypatch.setattr(tuning, "environment", lambda: "some GPU")
    monkeypatch.setattr(tuning, "fastest", lambda candidates, run: [run(c) for c in candidates].index(None))
    problem = measure.Problem(shape_of(1, 1), BF16, "batch", True, False, True)
    with torch.autocast("cpu", BF16):
        measure.engine(problem, torch.empty(0), OWN)


def test_no_room_to_measure(monkeypatch):
    def fastest(candidates, run):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(tuning, "environment", lambda: "some GPU")
    monkeypatch.setattr(tuning, "fastest", fastest)
    problem = measure.Problem(shape_of(3, 1), FP32, "batch", False, True, True)
    assert measure.engine(problem, torch.empty(0), OWN) == "triton"


# ---- the Triton backend ------------------------------------------------------------------------------------


def test_it_has_every_op():
    assert set(triton.OPS) == set(ops.__all__) - set(signatures.CPU_ONLY)
    assert set(gpu.ACTIVATIONS) | set(gpu.VECTORS) == set(triton.OPS)


@no_gpu
def test_unavailable_says_why():
    why = r"backend 'triton' is unavailable: Triton (is not installed|finds no GPU)"
    with pytest.raises(RuntimeError, match=why), backends.use_backend("triton"):
        pass


@needs_triton
@needs_cuda_build
def test_refuses():
    def bn_act(y, norm=None):
        return triton.refuses(
            "bn_act", (y, torch.empty(4, 8, device="cuda") if norm is None else norm, "relu")
        )

    with FakeTensorMode(), torch.device("cuda"):
        y = torch.empty(2, 8, 3, 5).to(memory_format=NHWC)
        for dtype in (FP32, BF16, torch.float16):
            assert bn_act(y.to(dtype)) is None
        wide = torch.empty(8, 4).t()
        assert "dtype" in bn_act(y.double()) and "no contiguous" in bn_act(y, wide)
        assert "no elements" in bn_act(y[:0])
        assert "not dense" in bn_act(y.contiguous()) and "not dense" in bn_act(y[:, ::2])
        for ambiguous in (y[:, :, :1, :1].contiguous(memory_format=NHWC), y[:, :1].contiguous()):
            assert "ambiguous" in bn_act(ambiguous)
        if not torch.cuda.is_available():
            assert "device" in bn_act(y.to("cpu"))
        vector = torch.empty(8)
        assert triton.refuses("bn_finalize", (vector, vector, vector.bfloat16(), None, 1e-5)) is None
        assert "dtype" in triton.refuses("bn_finalize", (vector.double(),) * 4)
        running = vector.bfloat16(), vector.bfloat16(), vector, vector, 0.1, 1.0
        assert triton.refuses("bn_update_running", running) is None


@needs_cuda_build
def test_refuses_old_gpus(monkeypatch):
    monkeypatch.setattr(gpu, "too_old", gpu.too_old.__wrapped__)
    monkeypatch.setattr(triton, "_not_installed", lambda: None)
    monkeypatch.setattr(triton, "launches_on", lambda device_type: device_type == "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for capability, refused in (((7, 5), True), ((8, 0), False), ((12, 0), False)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index, c=capability: c)
        why = triton.unsuited(torch.device("cuda:0"), BF16)
        assert why == ("a GPU of compute capability 7.5, below 8.0" if refused else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(triton, "launches_on", lambda device_type: device_type == "cpu")
    assert "does not launch there" in triton.unsuited(torch.device("cuda:0"), BF16)


def training_step(model, x):
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    model.zero_grad()
    out = model(x)
    out.square().sum().backward()
    return {"out": out.detach(), "x": x.grad} | {n: p.grad for n, p in model.named_parameters()}


@pytest.mark.slow
@needs_triton
def test_a_driver_that_executes_on_the_cpu(monkeypatch):
    """A fused block, forward and backward, on every kernel that it takes; also traced by torch.compile."""
    gpu_on_cpu = pytest.importorskip("gpu_on_cpu")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # so that rounding moves nothing across 0
    downsample = nn.Sequential(nn.Conv2d(16, 32, 1, 1, bias=False), nn.BatchNorm2d(32))
    model = fused_resnet.fuse(perturb(Bottleneck(16, 8, 1, downsample)).to(memory_format=NHWC))
    x = torch.randn(2, 16, 8, 5).to(memory_format=NHWC)
    want, names, plans = training_step(model, x), [], []
    observe = backends.observe(lambda op, name: names.append((op, name)))
    with gpu_on_cpu.emulate(90, seed=1), backends.use_backend("triton"), observe:
        with record(lambda *args: plans.append(args[4])):
            got = training_step(model, x)
        compiled = training_step(torch.compile(model, backend="aot_eager", fullgraph=True), x)
    assert {name for op, name in names if op not in signatures.FOLDED} == {"triton"}
    assert {p.engines for p in plans} == {("triton",) * 4}
    assert all(b._version > 0 for n, b in model.named_buffers() if "running" in n)  # autograd saw the writes
    assert {"conv_fprop_dual", "gram", "conv_dgrad_reduce", "folded_dgrad_reduce"} < {op for op, _ in names}
    for name, value in want.items():
        assert_close(got[name], value, what=name)
    for (name, value), other in itertools.zip_longest(got.items(), compiled.values()):
        assert_close(other, value, what=name)
