"""Who convolves bf16 on CPUs where only the library has it in hardware: who was measured to be faster."""

import functools
import json

import pytest
import torch

from fused_resnet import backends, fuse, ops
from fused_resnet.analysis.kernel_arguments import BUILDERS, Conv, Make
from fused_resnet.backends import cpu, engines, tuning
from fused_resnet.models.blocks import Bottleneck
from fused_resnet.nn import record
from fused_resnet.planner import measure
from tests.op_samples import NHWC

BF16, FP32 = torch.bfloat16, torch.float32
pytestmark = [
    pytest.mark.usefixtures("no_choices"),
    pytest.mark.skipif(cpu.unavailable() is not None, reason="no extension"),
]


@pytest.fixture(autouse=True)
def only_the_library_has_bf16(monkeypatch):
    monkeypatch.setattr(engines, "assigned_on_cpu", {})
    monkeypatch.setattr(engines, "_ONLY_THE_LIBRARY_HAS_BF16", True)
    monkeypatch.setattr(tuning, "environment_of_cpu", lambda: "some CPU")


@pytest.fixture
def measured(monkeypatch):
    """The candidates of every measurement; the library wins where kernels are of 3x3."""
    found = []
    original = measure.engine

    def engine(problem, *more):
        winner = "library" if problem.shape.kernel == (3, 3) else "cpu"

        def fastest(candidates, run):
            found.append(candidates)
            for candidate in candidates:
                run(candidate)
            return candidates.index(winner)

        monkeypatch.setattr(tuning, "fastest_on_cpu", fastest)
        return original(problem, *more)

    monkeypatch.setattr(measure, "engine", engine)
    return found


def step(dtype):
    """The plans and the ops, with their backends, of a training step of a block."""
    plans, taken = [], []
    model = fuse(Bottleneck(64, 16)).to(memory_format=NHWC).to(dtype)
    x = torch.randn(2, 64, 8, 8, dtype=dtype).to(memory_format=NHWC)
    with record(lambda *args: plans.append(args[4])), backends.observe(lambda *pair: taken.append(pair)):
        model(x).float().sum().backward()
    return plans, taken


def test_the_winner_is_obeyed(measured):
    plans, _ = step(BF16)
    assert {p.engines for p in plans} == {("cpu", "library", "cpu")}
    assert measured == [("library", "cpu")] * 3
    plans, taken = step(BF16)
    assert len(measured) == 3
    assert {name for op, name in taken if op.startswith("conv_")} == {"cpu", "library"}
    assert {p.engines for p in plans} == {("cpu", "library", "cpu")}


def test_inference_is_measured_by_itself(measured):
    step(BF16)
    model = fuse(Bottleneck(64, 16)).to(memory_format=NHWC).to(BF16).eval()
    x = torch.randn(2, 64, 8, 8, dtype=BF16).to(memory_format=NHWC)
    taken = []
    with torch.no_grad(), backends.observe(lambda *pair: taken.append(pair)):
        model(x)
    assert len(measured) == 6
    assert not any("grad" in op for op, _ in taken)


def test_the_next_process_knows_the_winner(measured, monkeypatch, tmp_path):
    step(BF16)
    (path,) = (tmp_path / "fused_resnet").glob("*.json")
    assert json.loads(path.read_text())["environment"] == "some CPU"
    monkeypatch.setattr(tuning, "_winners", functools.cache(tuning._Winners))
    engines.assigned_on_cpu.clear()
    plans, _ = step(BF16)
    assert {p.engines for p in plans} == {("cpu", "library", "cpu")} and len(measured) == 3


def never(monkeypatch):
    monkeypatch.setattr(tuning, "fastest_on_cpu", lambda candidates, run: pytest.fail("measured"))


def test_nothing_is_measured_without_contest(monkeypatch):
    never(monkeypatch)
    assert {p.engines for p in step(FP32)[0]} == {("cpu",) * 3}
    monkeypatch.setattr(engines, "_ONLY_THE_LIBRARY_HAS_BF16", False)
    plans, taken = step(BF16)
    assert {p.engines for p in plans} == {("cpu",) * 3}
    assert {name for op, name in taken if op.startswith("conv_")} == {"cpu"}


@pytest.mark.parametrize("policy", ("cached", "off"))
def test_unmeasured_it_is_the_library(policy, monkeypatch):
    never(monkeypatch)
    with tuning.policy(policy):
        assert {p.engines for p in step(BF16)[0]} == {("library",) * 3}


def test_forced(monkeypatch):
    never(monkeypatch)
    with backends.use_backend("cpu"):
        plans, taken = step(BF16)
    assert {p.engines for p in plans} == {("cpu",) * 3}
    assert {name for op, name in taken if op.startswith("conv_")} == {"cpu"}


@pytest.mark.parametrize("op", ("conv_fprop", "conv_fprop_dual", "conv_wgrad_masked", "conv_dgrad", "gram"))
def test_every_op_looks_at_the_table(op):
    args = BUILDERS[op](Make(BF16, seed=0), Conv(2, 5, 7, 16, 24))
    convolutions = engines.convolutions(op, args)
    for engine in ("library", "cpu"):
        engines.assigned_on_cpu.update(dict.fromkeys(convolutions, engine))
        taken = []
        with backends.observe(lambda _, backend, taken=taken: taken.append(backend)):
            getattr(ops, op)(*args)
        assert taken[0] == (engine if convolutions else "cpu")


def test_the_faster_one(monkeypatch):
    """By the clock, whatever the first run takes."""
    monkeypatch.undo()
    clock, runs = [0.0], []
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: clock[0])

    def run(candidate):
        runs.append(candidate)
        clock[0] += {"slow": 2e-3, "fast": 1e-3}[candidate] + (1.0 if len(runs) <= 2 else 0.0)

    assert tuning.fastest_on_cpu(("slow", "fast"), run) == 1
    assert runs == ["slow", "fast"] * (len(runs) // 2)


def test_environment(monkeypatch):
    monkeypatch.undo()
    where = tuning.environment_of_cpu()
    assert f"torch {torch.__version__}" in where and f"{torch.get_num_threads()} threads" in where
    assert "matrix engine" in where


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16))
@pytest.mark.parametrize("baseline", (False, True))
def test_where_ours_have_no_vectors_of_this_processor(monkeypatch, dtype, baseline):
    """In fp32 the library may; bf16, which it has not in hardware there, it emulates."""
    monkeypatch.setattr(engines, "_ONLY_THE_LIBRARY_HAS_BF16", False)
    monkeypatch.setattr(engines, "_ON_BASELINE", baseline)
    assert engines.contested(dtype) == (baseline and dtype == torch.float32)
