"""The CUDA C++ backend where no kernel runs: what it takes, its tiles, the choice between backends."""

import functools
import itertools
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from fused_resnet import _extension, backends, ops
from fused_resnet.backends import cuda, engines, faster, gpu, signatures, triton, tuning
from fused_resnet.backends.cuda import tiles
from fused_resnet.models.blocks import Bottleneck
from fused_resnet.planner import measure
from tests.dispatch import Step, needs_cuda_build, needs_triton, no_gpu, resnet50
from tests.op_samples import NHWC, SAMPLES, Conv, Make

pytestmark = pytest.mark.usefixtures("no_choices")
BF16, FP16, FP32, FP64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
OWN = engines.OWN


@pytest.fixture
def calls(monkeypatch):
    """A stand-in for the C++ functions: (op, arguments) of every call."""
    found = []

    def function(op):
        return lambda *args: found.append((op, args))

    module = SimpleNamespace(**{op: function(op) for op in cuda.OPS})
    monkeypatch.setattr(cuda, "extension", lambda: module)
    return found


@pytest.fixture
def no_triton(monkeypatch):
    monkeypatch.setattr(triton, "_not_installed", lambda: "Triton is not installed")


# ---- what it takes -----------------------------------------------------------------------------------------


def test_it_has_every_op():
    assert set(cuda.OPS) == set(ops.__all__) - set(signatures.CPU_ONLY)
    assert set(cuda.PRODUCTS) < set(cuda.OPS)


@no_gpu
def test_unavailable_says_why_and_what_to_do(monkeypatch):
    monkeypatch.setattr(cuda, "extension", lambda: None)
    monkeypatch.setattr(_extension, "why_missing", lambda: "the C++ extension was not built")
    assert cuda.unavailable() == (
        "the C++ extension was not built; with nvcc on the PATH: "
        "FUSED_RESNET_CUDA=1 pip install --no-build-isolation ."
    )
    monkeypatch.setattr(_extension, "why_missing", lambda: None)
    assert cuda.unavailable().startswith("the C++ extension was built without CUDA; with nvcc")
    with (
        pytest.raises(RuntimeError, match=r"'cuda' is unavailable: .* without CUDA"),
        backends.use_backend("cuda"),
    ):
        pass
    assert cuda.unsuited(torch.device("cuda"), BF16) == cuda.unavailable()
    monkeypatch.setattr(cuda, "extension", lambda: SimpleNamespace())
    assert cuda.unavailable().startswith("there is no GPU to launch on")
    monkeypatch.setattr(cuda, "launches_on", lambda device_type: device_type == "cpu")
    assert cuda.unavailable() is None


def test_the_extension_has_every_function():
    if _extension.load() is None or _extension.build_info()["cuda"] is None:
        pytest.skip("there is no C++ extension with CUDA")
    functions = cuda.extension()
    assert {name for name in dir(functions) if not name.startswith("_")} == set(cuda.OPS)
    if not torch.cuda.is_available():
        assert not _extension.load().has_cuda_code()
    with pytest.raises(RuntimeError, match="y: expected a dense channels_last CUDA tensor"):
        functions.bn_stats(torch.ones(2, 8, 3, 5).to(memory_format=NHWC))
    with pytest.raises(RuntimeError, match="x: expected a dense channels_last CUDA tensor"):
        functions.gram(torch.ones(2, 8, 3, 5).to(memory_format=NHWC), None, "identity", [1, 1], 2)


@pytest.fixture
def one_gpu(monkeypatch, calls):
    """A GPU of compute capability 7.5 until the test says otherwise; the extension has code for it."""
    built = SimpleNamespace(has_cuda_code=lambda: True, build_info=lambda: {"cuda_architectures": [80, 90]})
    monkeypatch.setattr(_extension, "load", lambda: built)
    monkeypatch.setattr(gpu, "too_old", gpu.too_old.__wrapped__)
    monkeypatch.setattr(cuda, "_no_code", cuda._no_code.__wrapped__)
    monkeypatch.setattr(cuda, "launches_on", lambda device_type: device_type == "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    monkeypatch.setattr(torch.cuda, "device", lambda index: pytest.MonkeyPatch.context())
    return built


@needs_cuda_build
def test_unavailable_on_gpus_it_has_no_code_for(one_gpu, monkeypatch):
    assert cuda.unavailable() == "a GPU of compute capability 7.5, below 8.0"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (12, 0))
    assert cuda.unavailable() is None
    one_gpu.has_cuda_code = lambda: False
    why = "a GPU of compute capability 12.0; the extension was built for 8.0, 9.0 (TORCH_CUDA_ARCH_LIST)"
    assert cuda.unavailable() == cuda.unsuited(torch.device("cuda:0"), BF16) == why
    assert cuda.unsuited(torch.device("cuda:1"), BF16) is None  # a fake tensor's device


def activation(*size, dtype=BF16):
    return torch.empty(size, dtype=dtype, device="cuda").to(memory_format=NHWC)


def conv_fprop(x, kernel=3, padding=1, dilation=1):
    weight = torch.empty(8, x.shape[1], kernel, kernel, dtype=x.dtype, device="cuda")
    geometry = [1, 1], [padding] * 2, [dilation] * 2, 1
    return x, weight, None, None, "identity", *geometry, None, None, "identity"


@needs_cuda_build
def test_refuses(calls):
    with FakeTensorMode(), torch.device("cuda"):
        x, norm = activation(2, 8, 40, 5), torch.empty(4, 8)
        for dtype in (FP32, BF16, FP16):
            assert cuda.refuses("bn_act", (x.to(dtype), norm, "relu")) is None
            assert cuda.refuses("conv_fprop", conv_fprop(x.to(dtype))) is None
        assert "dtype" in cuda.refuses("conv_fprop", conv_fprop(x.double()))
        assert "not dense" in cuda.refuses("conv_fprop", conv_fprop(x.contiguous()))
        assert "no elements" in cuda.refuses("bn_act", (x[:0], norm, "relu"))
        assert "no contiguous" in cuda.refuses("bn_act", (x, torch.empty(8, 4).t(), "relu"))
        running = norm[0].bfloat16(), norm[0].bfloat16(), norm[0], norm[0], 0.1, 1.0
        assert cuda.refuses("bn_update_running", running) is None
        if not torch.cuda.is_available():
            assert "device" in cuda.refuses("bn_act", (x.to("cpu"), norm, "relu"))


@needs_cuda_build
def test_refuses_what_its_products_cannot_count(calls):
    with FakeTensorMode(), torch.device("cuda"):
        x = activation(2, 8, 40, 40)
        assert cuda.refuses("conv_fprop", conv_fprop(x, kernel=16)) is None
        assert cuda.refuses("conv_fprop", conv_fprop(x, kernel=17)) == "a kernel larger than 16: (17, 17)"
        assert "a window" in cuda.refuses("conv_fprop", conv_fprop(x, padding=6000, dilation=6000))
        assert "sides" in cuda.refuses("conv_fprop", conv_fprop(x, padding=9000))
        wide, many = activation(1, 8, 2, 16384), activation(2**23, 2, 16, 17)
        assert "sides" in cuda.refuses("conv_fprop", conv_fprop(wide))
        assert cuda.refuses("bn_act", (wide, torch.empty(4, 8), "relu")) is None
        assert "2147483647 pixels" in cuda.refuses("gram", (many, None, "identity", [1, 1]))
        x, weight = activation(1, 2**16, 2, 2), torch.empty(2**16, 1, 1, 1, dtype=BF16)
        grouped = x, weight, None, "identity", [1, 1], [0, 0], [1, 1], 2**16
        assert "groups" in cuda.refuses("conv_fprop_stats", grouped)
    device = torch.device("cuda")
    assert cuda.unsuited(device, BF16, (16, 16)) is None
    assert cuda.unsuited(device, BF16, (1, 17)) == "a kernel larger than 16: (1, 17)"


@needs_cuda_build
def test_fp32_products_want_tf32(calls, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    device = torch.device("cuda")
    assert "allow_tf32 is False" in cuda.unsuited(device, FP32)
    assert cuda.unsuited(device, BF16) is None
    with FakeTensorMode():
        x = activation(2, 8, 4, 5, dtype=FP32)
        assert "allow_tf32 is False" in cuda.refuses("conv_fprop", conv_fprop(x))
        assert cuda.refuses("bn_stats", (x,)) is None
        assert cuda.refuses("conv_fprop", conv_fprop(x.bfloat16())) is None
    assert backends.convolution_engines(device, FP32, True, (1, 1)) in (("triton",), ())


# ---- tiles -------------------------------------------------------------------------------------------------

SIZE = st.integers(1, 5000)
DTYPE = st.sampled_from((BF16, FP16, FP32))


def check(found, exist, dtype, aligned):
    """Args: exist: the tiles that C++ has for 16-bit storage; of fp32 it lacks the large ones."""
    assert found and len(set(found)) == len(found) and set(found) <= set(exist)
    assert aligned or found == (tiles.SMALL,)
    assert dtype != FP32 or tiles.LARGE not in found


@given(SIZE, SIZE, st.booleans(), DTYPE)
def test_candidates_exist(rows, columns, aligned, dtype):
    products = tiles.LARGE, tiles.NARROW, tiles.SMALL, tiles.SLIM
    check(tiles.gemm(rows, columns, aligned, dtype), products, dtype, aligned)
    check(tiles.dual(rows, columns, aligned), (tiles.NARROW, tiles.SMALL), dtype, aligned)
    weights = tiles.LARGE, tiles.SMALL, tiles.FEW_FILTERS
    check(tiles.wgrad(rows, columns, aligned, dtype), weights, dtype, aligned)
    check(tiles.gram(columns, aligned, dtype), (tiles.LARGE, tiles.SMALL), dtype, aligned)


def test_rules_of_thumb():
    rows = 32 * 56 * 56
    assert tiles.gemm(rows, 256, True, BF16)[0] == tiles.LARGE
    assert tiles.gemm(rows, 256, True, FP32)[0] == tiles.gemm(rows, 64, True, BF16)[0] == tiles.NARROW
    assert tiles.gemm(8 * 7 * 7, 512, True, BF16)[0] == tiles.SMALL
    assert tiles.gemm(rows, 4, True, BF16)[0] == tiles.SLIM
    assert tiles.wgrad(512, 4608, True, FP16) == (tiles.LARGE, tiles.SMALL)
    assert tiles.wgrad(4, 72, True, BF16)[0] == tiles.FEW_FILTERS
    assert tiles.gram(256, True, BF16)[0] == tiles.LARGE


def test_alignment():
    for dtype, least in ((BF16, 8), (FP16, 8), (FP32, 4)):
        assert tiles.aligned(dtype, least, 3 * least) and not tiles.aligned(dtype, least, least // 2)


# ---- calls -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", sorted(set(SAMPLES) & set(cuda.OPS)))
def test_arguments_reach_the_function(op, calls):
    """As they are, with the number of a tile behind those of a product."""
    for args in SAMPLES[op](Make(FP32, NHWC)):
        cuda.OPS[op](*args)
        ((name, got),) = calls
        calls.clear()
        assert name == op and len(got) == len(args) + (op in cuda.PRODUCTS)
        assert all(a is b for a, b in zip(got, args, strict=False))
        assert op not in cuda.PRODUCTS or got[-1] in range(4)


@pytest.mark.parametrize("op", sorted(cuda.PRODUCTS))
def test_tiles_are_chosen_by_what_is_known_of_the_call(op, calls, monkeypatch):
    keys = []

    def tuned(key, candidates, run):
        keys.append(key)
        return run(candidates[-1])

    from fused_resnet.backends.cuda import products

    monkeypatch.setattr(products, "tuned", tuned)
    for dtype in (FP32, BF16):
        for args in SAMPLES[op](Make(dtype, NHWC)):
            cuda.OPS[op](*args)
            assert keys[-1][0] == f"cuda {op}" and dtype in keys[-1]
    given = [
        tuple(a is not None for a in args if a is None or isinstance(a, torch.Tensor)) for _, args in calls
    ]
    shapes = [tuple(tuple(a.shape) for a in args if isinstance(a, torch.Tensor)) for _, args in calls]
    for (i, a), (j, b) in itertools.combinations(enumerate(keys), 2):
        if (given[i], shapes[i]) != (given[j], shapes[j]):
            assert a != b, op


def test_autograd_notices_the_running_statistics(calls):
    running = torch.zeros(3), torch.ones(3)
    cuda.OPS["bn_update_running"](*running, torch.ones(3), torch.ones(3), 0.1, 1.0)
    assert [t._version for t in running] == [1, 1]


# ---- who runs what -----------------------------------------------------------------------------------------


@needs_cuda_build
@pytest.mark.parametrize("memory", ["speed", "balanced", "min"])
def test_every_op_of_resnet50_when_it_is_forced(calls, memory, monkeypatch):
    monkeypatch.setattr(cuda, "unavailable", lambda: None)
    with backends.use_backend("cuda"):
        step = Step(resnet50, (8, 3, 224, 224), memory=memory)
    assert {name for _, _, name in step.calls} == {"cuda"}
    assert {engine for _, _, plan in step.plans for engine in plan.engines} == {"cuda"}
    names = {op for op, _, _ in step.calls}
    assert {"conv_fprop_stats", "conv_dgrad_reduce", "conv_wgrad", "bn_act_maxpool_bwd_reduce"} < names
    assert {"gram", "folded_dgrad_reduce", "conv_fprop_dual"} < names or memory == "speed"


@needs_cuda_build
def test_without_triton_it_takes_everything_but_what_the_library_does_better(calls, no_triton):
    step = Step(resnet50, (8, 3, 224, 224), FP32)
    for key, names in step.backends().items():
        convs = key[1:] if isinstance(key, tuple) else ()
        compute_bound = any(kernel > 1 and channels >= 256 for channels, kernel in convs)
        assert names == {"library" if compute_bound else "cuda"}, key
    assert {e for _, _, plan in step.plans for e in plan.engines} == {"cuda", "library"}


@needs_cuda_build
def test_kernels_it_has_not_are_the_librarys(calls, no_triton):
    def large():
        conv = torch.nn.Conv2d(8, 8, 17, padding=8, bias=False)
        return torch.nn.Sequential(conv, torch.nn.BatchNorm2d(8), torch.nn.ReLU())

    step = Step(large, (2, 8, 20, 20), FP32)
    assert {plan.engines for _, _, plan in step.plans} == {("library",)}
    assert {name for op, _, name in step.calls if op.startswith("conv_")} == {"library"}
    assert {name for op, _, name in step.calls if not op.startswith("conv_")} == {"cuda"}


@needs_triton
@needs_cuda_build
def test_triton_comes_first_where_nothing_was_measured(calls):
    step = Step(lambda: Bottleneck(64, 16), (2, 64, 8, 8))
    assert {name for _, _, name in step.calls} == {"triton"}
    assert {plan.engines for _, _, plan in step.plans} == {("triton",) * 3}


@needs_triton
@needs_cuda_build
def test_a_measured_winner_is_obeyed(calls, monkeypatch):
    """Of a unit's convolution among three, of other ops among two."""
    monkeypatch.setattr(tuning, "environment", lambda: "some GPU")
    problems, own = [], []
    original = measure.engine

    def engine(problem, x, takers):
        problems.append(problem)
        own.append(takers)
        return original(problem, x, takers)

    monkeypatch.setattr(measure, "engine", engine)
    Step(lambda: Bottleneck(64, 16), (2, 64, 8, 8))
    assert set(own) == {OWN}
    (wanted,) = (p for p in problems if p.shape.kernel == (3, 3))
    monkeypatch.setattr(tuning, "fastest", lambda candidates, run: candidates.index("cuda"))
    assert original(wanted, torch.empty(0), OWN) == "cuda"
    norm = torch.empty(4, 64)
    x = torch.empty(2, 64, 8, 8, dtype=BF16).to(memory_format=NHWC)
    assert faster.backend("bn_add_act", (x, norm, x, None, "relu"), lambda *_: OWN, None) == "cuda"
    faster.measured.clear()
    monkeypatch.setattr(tuning, "fastest", lambda candidates, run: pytest.fail("measured"))
    monkeypatch.setattr(tuning, "_winners", functools.cache(tuning._Winners))  # from disk

    step = Step(lambda: Bottleneck(64, 16), (2, 64, 8, 8), memory="speed")
    assert {p.engines for _, _, p in step.plans} == {("triton", "cuda", "triton")}
    found = step.backends()
    assert found.pop("bn_add_act") == {"cuda"}
    for key, names in found.items():
        assert names == {"cuda" if isinstance(key, tuple) and key[1][1] == 3 else "triton"}, key


# ---- the faster of our own ---------------------------------------------------------------------------------


class Rivals:
    """Two backends that take everything; `fastest` says which one is measured to be faster."""

    def __init__(self, monkeypatch, fastest="cuda"):
        self.ran, self.measured = [], 0
        monkeypatch.setattr(tuning, "environment", lambda: "some GPU")
        monkeypatch.setattr(tuning, "fastest", self._measure)
        self.fastest, self.takers = fastest, OWN

    def _measure(self, candidates, run):
        self.measured += 1
        for candidate in candidates * 2:
            run(candidate)
        return candidates.index(self.fastest)

    def __call__(self, op, *args):
        return faster.backend(op, args, lambda *_: self.takers, lambda *call: self.ran.append(call))


X = torch.ones(2, 8, 4, 5).to(memory_format=NHWC)
NORM = torch.ones(4, 8)


def test_measured_once_for_each_problem(monkeypatch):
    rivals = Rivals(monkeypatch)
    problems = [
        ("bn_act", X, NORM, "relu"),
        ("bn_act", X.bfloat16(), NORM, "relu"),
        ("bn_act", X[:1], NORM, "relu"),
    ]
    problems += [("bn_act_bwd_apply", X, y, NORM[:3]) for y in (X, None)]
    problems += [("gram", X, None, "relu", stride) for stride in ([1, 1], [2, 2])]
    for i, problem in enumerate(problems * 2):
        assert rivals(*problem) == "cuda"
        assert rivals.measured == min(i + 1, len(problems))
    assert {name for name, _, _ in rivals.ran} == set(OWN)
    assert rivals("bn_finalize", NORM[0], NORM[0], None, None, 1e-5) == "cuda"
    count = rivals.measured
    assert rivals("bn_finalize", NORM[0], NORM[0], None, None, 1e-3) == "cuda" and rivals.measured == count


def test_the_next_process_knows(monkeypatch):
    Rivals(monkeypatch)("bn_stats", X)
    faster.measured.clear()
    monkeypatch.setattr(tuning, "_winners", functools.cache(tuning._Winners))
    rivals = Rivals(monkeypatch, fastest="triton")
    assert rivals("bn_stats", X) == "cuda" and not rivals.measured


def test_measuring_writes_to_copies(monkeypatch):
    rivals, running = Rivals(monkeypatch), (torch.zeros(8), torch.ones(8))
    rivals("bn_update_running", *running, NORM[0], NORM[1], 0.1, 1.0)
    assert len(rivals.ran) == 4
    for _, _, args in rivals.ran:
        assert args[0] is not running[0] and args[1] is not running[1]
        assert args[2].data_ptr() == NORM[0].data_ptr()
        assert torch.equal(args[0], running[0]) and args[4:] == [0.1, 1.0]


def test_known_winners_serve_where_nothing_is_measured(monkeypatch):
    rivals = Rivals(monkeypatch)
    with monkeypatch.context() as capturing:
        capturing.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        assert rivals("bn_stats", X) == "triton" and not rivals.measured and not faster.measured
    assert rivals("bn_stats", X) == "cuda"
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert rivals("bn_stats", X) == "cuda" and rivals.measured == 1
    faster.measured.clear()
    assert rivals("bn_stats", X) == "cuda" and rivals.measured == 1


def test_the_policy_decides(monkeypatch):
    rivals = Rivals(monkeypatch)
    assert rivals("bn_stats", X) == "cuda"
    with tuning.policy("off"):
        assert rivals("bn_stats", X) == "triton"
    with tuning.policy("cached"):
        assert rivals("bn_stats", X) == "cuda"
        assert rivals("bn_stats", X[:1]) == "triton"
    assert rivals("bn_stats", X[:1]) == "cuda" and rivals.measured == 2


def test_nothing_to_choose(monkeypatch):
    rivals = Rivals(monkeypatch)
    for rivals.takers in (("cuda",), ("triton",), ()):
        assert rivals("bn_stats", X) == next(iter(rivals.takers), None)
    assert not rivals.measured and not faster.measured


def test_sizes_that_a_graph_leaves_open(monkeypatch):
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    rivals = Rivals(monkeypatch)
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        x = mode.from_tensor(X)
        assert isinstance(x.shape[0], torch.SymInt)
        assert rivals("bn_stats", x) == "triton" and not rivals.measured


def test_no_room_to_measure(monkeypatch):
    rivals = Rivals(monkeypatch)

    def fastest(candidates, run):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(tuning, "fastest", fastest)
    assert rivals("bn_stats", X) == "triton" and not faster.measured


# ---- measurements without Triton ---------------------------------------------------------------------------


def test_versions_tell_what_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(_extension, "build_info", lambda: {"cuda": "13.0"})

    def environment(*launching):
        tuning._environment.cache_clear()
        for backend in (triton, cuda):
            monkeypatch.setattr(backend, "launches_on", lambda _, found=backend in launching: found)
        monkeypatch.setattr(triton, "version", lambda: "triton 3.2")
        return tuning.environment()

    base = f"some GPU, sm_90, torch {torch.__version__}, "
    version = tuning.__version__
    try:
        assert environment() is None
        assert environment(cuda) == f"{base}nvcc 13.0, fused_resnet {version}"
        assert environment(triton) == f"{base}triton 3.2, fused_resnet {version}"
        assert environment(triton, cuda) == f"{base}triton 3.2, nvcc 13.0, fused_resnet {version}"
    finally:
        tuning._environment.cache_clear()


# ---- layouts -----------------------------------------------------------------------------------------------


@needs_cuda_build
def test_fake_results_are_laid_out_as_the_kernels_lay_them_out(calls, monkeypatch):
    monkeypatch.setattr(cuda, "unavailable", lambda: None)
    conv = Conv(2, 16, 8, 8, 8)
    with FakeTensorMode(), torch.device("cuda"), backends.use_backend("cuda"):
        x, weight = activation(*conv.x_size), torch.empty(conv.weight_size, dtype=BF16)
        y, _, _ = ops.conv_fprop_stats(x, weight, None, "identity", *conv.geometry)
        dw = ops.conv_wgrad(y, x, None, "identity", list(conv.weight_size), *conv.geometry, None, None)
        out = activation(2, 8, 6, 6)
        g, _, p = ops.conv_wgrad_masked(out, out, x, None, "identity", list(conv.weight_size), [1, 1])
    for t in (y, g):
        assert t.is_contiguous(memory_format=NHWC) and not t.is_contiguous()
    assert dw.is_contiguous() and p.is_contiguous()
