"""The benchmark suite: rows, files, plots and comparisons; peers that are not here in stand-ins. No times."""

from __future__ import annotations

import contextlib
import csv
import importlib.machinery
import io
import json
import math
import re
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn
from typer.testing import CliRunner

from fused_resnet import ops
from fused_resnet.analysis import ColdCache, interleaved, stopwatch
from fused_resnet.analysis.ceilings import GPUS, Ceilings, datasheet, measured
from fused_resnet.bench import beside, peers, report, results, rewriting, suite
from fused_resnet.bench.app import app
from fused_resnet.bench.cases import BLOCKS, INFERENCE, OP, TRAINING, Setting, Task, Variant, Work
from fused_resnet.bench.measure import Effort, Job, measure
from fused_resnet.bench.op_cases import OP_CASES, OP_CONTESTANTS, OpCase, OpWork, expected
from fused_resnet.bench.results import Row
from fused_resnet.models import BasicBlock, Bottleneck
from tests.tolerances import assert_close

SMALL = Setting(batch=2, size=64)
CEILINGS = Ceilings("round numbers", 1e9, {"fp32": 1e10})
BASIC, _, _, PROJECTION = BLOCKS


def row(**changes) -> Row:
    known = Row(
        level="block",
        work="basic block, identity",
        mode=TRAINING,
        contestant="eager",
        how="",
        layout="channels_last",
        dtype="fp32",
        device="cpu",
        batch=8,
        image_size=224,
        cold_cache=True,
        missing="",
        error=1e-7,
        gradient_error=None,
        median_s=2.0,
        first_quartile_s=1.9,
        third_quartile_s=2.1,
        rounds=5,
        speedup=1.0,
        peak_bytes=10 << 20,
        kept_bytes=5 << 20,
        moved_bytes=4_000_000_000,
        flops=2_000_000_000,
        bound_s=1.0,
        ceiling_bytes_per_s=4e9,
        ceiling_flops_per_s=8e9,
        others_share=0.0,
    )
    return replace(known, **changes)


# ---- what is run ---------------------------------------------------------------------------------


def test_every_op_is_in_the_suite() -> None:
    assert {case.op for case in OP_CASES} == set(ops.__all__)
    assert len({case.name for case in OP_CASES}) == len(OP_CASES)


@pytest.mark.parametrize("op", sorted(ops.__all__))
def test_everyone_computes_the_op(op: str) -> None:
    task = Task(OpCase(op, (8, 8)), OP, SMALL)
    want, names = expected(task), []
    for name, contestant in OP_CONTESTANTS.items():
        if name == "torch.compile" or not contestant.takes(task):
            continue
        names.append(name)
        work, _ = contestant.prepare(task)
        for got, truth in zip(work(), want, strict=True):
            assert_close(got, truth, "op", torch.float32)
    assert {"eager", "ours, cpu"} <= set(names)


def test_compiled_reference_is_a_contestant() -> None:
    task = Task(OpCase("bn_add_act", (8, 8)), OP, SMALL)
    found = measure(Job("an op", task, (OP_CONTESTANTS["torch.compile"],)), Effort(1, 1), Console(quiet=True))
    assert not found["torch.compile"].missing and found["torch.compile"].seconds


def test_bytes_and_flops_of_an_op() -> None:
    task = Task(OpCase("conv_fprop", (8, 8)), OP, SMALL)
    counted = OpWork(task, ops.conv_fprop).operations()
    activation, weight, norm = 2 * 8 * 8 * 8 * 4, 8 * 8 * 9 * 4, 4 * 8 * 4
    # reads input, weight, two norms and the residual, writes the output
    assert [(o.name, o.bytes) for o in counted] == [
        ("fused_resnet::conv_fprop", 3 * activation + weight + 2 * norm)
    ]
    assert counted.flops == 2 * (2 * 8 * 8) * 8 * 8 * 9
    assert counted.least_seconds(1e9, math.inf) == pytest.approx(counted.bytes / 1e9)
    assert counted.least_seconds(math.inf, 1e9) == pytest.approx(counted.flops / 1e9)


def test_flops_of_a_training_step_are_three_times_the_forward_passes() -> None:
    forward = Work(Task(BASIC, INFERENCE, SMALL), Variant()).operations()
    step = Work(Task(BASIC, TRAINING, SMALL), Variant()).operations()
    assert forward.flops == 2 * 2 * (2 * 16 * 16) * 64 * 64 * 9
    assert step.flops == 3 * forward.flops
    fused = Work(Task(BASIC, TRAINING, SMALL), Variant(memory="speed")).operations()
    assert fused.flops == step.flops and fused.bytes < 0.85 * step.bytes


def test_counting_changes_nothing() -> None:
    work = Work(Task(PROJECTION, TRAINING, SMALL), Variant(memory="balanced"))
    before = {name: t.clone() for name, t in work.model.state_dict().items()}
    work.operations()
    assert all(torch.equal(t, before[name]) for name, t in work.model.state_dict().items())
    assert all(p.grad is None for p in work.model.parameters())


def test_rows_of_a_work() -> None:
    task = Task(PROJECTION, TRAINING, SMALL)
    skipped = frozenset((peers.COMPILE, peers.COMPILE_MAX))
    rows = list(suite.run(task, Effort(1, 0.1, skipped), CEILINGS, True, Console(quiet=True)))
    by_name = {r.contestant: r for r in rows}
    assert set(by_name) == {c.name for c in suite.contestants(task)}
    assert by_name[peers.COMPILE].missing == "skipped" and by_name[peers.COMPILE].speedup is None
    eager, ours = by_name[peers.EAGER], by_name[peers.MIN]
    assert eager.speedup == 1 and by_name[peers.EAGER_NCHW].layout == "NCHW"
    for r in (eager, ours):
        assert r.median_s and r.bound_s and r.roofline_share == r.bound_s / r.median_s
        assert r.bytes_per_s == r.moved_bytes / r.median_s and r.flops_per_s == r.flops / r.median_s
    assert ours.kept_bytes < eager.kept_bytes and ours.peak_bytes < eager.peak_bytes
    assert by_name[peers.BALANCED].moved_bytes < eager.moved_bytes
    assert len({r.flops for r in rows}) == len({r.bound_s for r in rows}) == 1


def test_who_takes_what() -> None:
    gpu = replace(SMALL, device="cuda", dtype="fp16")
    of = {
        "training on a CPU": Task(BASIC, TRAINING, SMALL),
        "inference on a CPU": Task(BASIC, INFERENCE, SMALL),
        "inference on a CPU in bf16": Task(BASIC, INFERENCE, replace(SMALL, dtype="bf16")),
        "training on a GPU": Task(BASIC, TRAINING, gpu),
    }
    who = {name: {c.name for c in suite.contestants(task)} for name, task in of.items()}
    stock = {"eager NCHW", "eager", "torch.compile", "torch.compile max-autotune"}
    ours = {"ours, balanced", "ours, speed", "ours, min"}
    assert who["training on a CPU"] == {*stock, *ours, "InPlace-ABN"}
    assert who["inference on a CPU"] == {*stock, "OpenVINO", "ONNX Runtime", "ours, balanced"}
    assert who["inference on a CPU in bf16"] == {*stock, "OpenVINO", "ours, balanced"}
    graphs = {f"{name}, CUDA graph" for name in ("eager", "ours, balanced", "ours, speed")}
    assert who["training on a GPU"] == {*stock, *ours, *graphs, "Apex groupbn"}


# ---- peers that are not here ---------------------------------------------------------------------


class Relu(nn.BatchNorm2d):
    """What Apex's layer computes, on ``[N, H, W, C]``."""

    def __init__(self, num_features: int, fuse_relu: bool = False) -> None:
        super().__init__(num_features)
        self.fuse_relu = fuse_relu

    def forward(self, x: Tensor, z: Tensor | None = None) -> Tensor:
        out = super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        if z is not None:
            assert self.fuse_relu
            out = out + z
        return F.relu(out) if self.fuse_relu else out


class Leaky(nn.BatchNorm2d):
    """What InPlaceABN computes."""

    def __init__(self, num_features, eps, momentum, activation, activation_param) -> None:
        super().__init__(num_features, eps, momentum)
        assert activation == "leaky_relu"
        self.slope = activation_param

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(super().forward(x), self.slope)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in {
        "apex": {},
        "apex.contrib": {},
        "apex.contrib.groupbn": {"BatchNorm2d_NHWC": Relu},
        "inplace_abn": {"InPlaceABN": Leaky},
    }.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)


BLOCK_KINDS = {
    "basic": lambda: BasicBlock(8, 8),
    "basic, projection": lambda: BasicBlock(
        8, 16, 2, nn.Sequential(nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
    ),
    "bottleneck": lambda: Bottleneck(8, 2),
}


def step(model: nn.Module) -> list[Tensor]:
    x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = model(x)
    gradients = torch.autograd.grad(out.square().sum(), (x, *model.parameters()))
    return [out.detach(), *sorted(gradients, key=lambda g: (g.shape, g.norm().item()))]


@pytest.mark.parametrize("kind", BLOCK_KINDS)
def test_apex_layers_take_over_relu_and_addition(kind: str, stand_ins: None) -> None:
    stock = BLOCK_KINDS[kind]()
    for m in stock.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias)
    want = step(stock)
    changed = rewriting.apex_batch_norms(stock)
    kinds = [type(m).__name__ for m in changed.modules()]
    used = {str(n.target) for n in changed.graph.nodes if n.op == "call_module"}
    assert "BatchNorm2d" not in kinds and not any("relu" in name for name in used)
    for got, truth in zip(step(changed), want, strict=True):
        assert_close(got, truth)


def test_inplace_abn_computes_another_function_and_is_timed(stand_ins: None) -> None:
    found = measure(
        Job("a block", Task(BASIC, TRAINING, SMALL), (peers.CONTESTANTS[peers.INPLACE_ABN],)),
        Effort(1, 0.1),
        Console(quiet=True),
    )[peers.INPLACE_ABN]
    assert found.error is not None and found.error > 1e-5  # ReLU's and leaky ReLU's outputs differ
    assert found.seconds and not found.missing and found.how == "leaky ReLU of slope 0.01"
    block = rewriting.inplace_abn(BLOCK_KINDS["basic"]())
    kinds = [type(m).__name__ for m in block.modules()]
    assert (
        kinds.count("Leaky") == 1 and kinds.count("BatchNorm2d") == 1
    )  # the last one's sum has a ReLU of its own


# ---- clocks and ceilings -------------------------------------------------------------------------


class Events:
    """In place of CUDA's: they note the order of things, and their clock advances by what was run."""

    log: list[str] = []
    clock = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.at = math.nan

    def record(self) -> None:
        Events.log.append("record")
        self.at = Events.clock

    def synchronize(self) -> None:
        Events.log.append("wait")

    def elapsed_time(self, end: Events) -> float:
        return end.at - self.at


def test_a_gpu_is_timed_by_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Events, "log", [])
    monkeypatch.setattr(torch.cuda, "Event", Events)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: Events.log.append("synchronise"))
    monkeypatch.setattr(torch.cuda, "device", lambda *_: contextlib.nullcontext())

    def run() -> None:
        Events.log.append("run")
        Events.clock += 250.0  # milliseconds

    assert stopwatch("cuda")(run) == pytest.approx(0.25)
    assert Events.log == ["synchronise", "record", "run", "record", "wait"]


def test_caches_are_filled_before_every_run() -> None:
    order: list[str] = []
    cold = ColdCache()
    assert cold.size >= 1 << 20
    interleaved(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b")},
        2,
        warmup=0,
        before_run=lambda: order.append("cold"),
    )
    assert order[::2] == ["cold"] * 4 and sorted(order[1::2]) == ["a", "a", "b", "b"]


def test_ceilings() -> None:
    found = measured("fp32")
    assert 1e8 < found.bytes_per_second < 1e13 and 1e8 < found.flops_per_second["fp32"] < 1e15
    assert datasheet("h100").bytes_per_second == 3.35e12
    for gpu in GPUS.values():
        assert gpu.flops_per_second["bf16"] >= gpu.flops_per_second["fp32"]
    with pytest.raises(ValueError, match=r"expected one of a10, .*got 'abacus'"):
        datasheet("abacus")


class FakeGraph:
    replays = 0

    def replay(self) -> None:
        FakeGraph.replays += 1


def test_a_cuda_graph_is_captured_after_warming_up_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU: what is run when, and that the results are the captured ones."""
    log: list[str] = []

    class Stream:
        def wait_stream(self, other: Stream) -> None:
            log.append("wait")

    @contextlib.contextmanager
    def inside(name: str):
        log.append(f"{name} begins")
        yield
        log.append(f"{name} ends")

    monkeypatch.setattr(FakeGraph, "replays", 0)
    for name, value in {
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda _: inside("stream"),
        "graph": lambda _: inside("capture"),
        "CUDAGraph": FakeGraph,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    work = Work(Task(BASIC, TRAINING, SMALL), Variant(memory="speed"))
    monkeypatch.setattr(Work, "__call__", lambda self: log.append("run") or self._train())
    graph = peers._Graph(work)
    steps = [entry for entry in log if entry != "wait"]
    assert steps == ["stream begins", *["run"] * 3, "stream ends", "capture begins", "run", "capture ends"]
    assert torch.equal(graph(), graph()) and FakeGraph.replays == 2 and log.count("run") == 4
    assert graph.gradients().isfinite().all()


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_files_give_back_what_was_written(tmp_path: Path, suffix: str) -> None:
    rows = [
        row(),
        row(contestant="OpenVINO", missing="absent", median_s=None, kept_bytes=None, cold_cache=False),
    ]
    path = tmp_path / f"results{suffix}"
    results.write(path, [results.as_dict(r) for r in rows], {"CPU": "a processor", "commit": "abc"})
    found, conditions = results.read(path)
    assert found == rows
    assert conditions == {"CPU": "a processor", "commit": "abc"}


def test_files_of_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(results.FormatError, match="level"):
        results.read(path)
    with pytest.raises(ValueError, match=r"ends in \.csv or \.json, got 'x\.txt'"):
        results.read(Path("x.txt"))
    done = CliRunner().invoke(app, ["plot", str(path)], env={"COLUMNS": "200"})
    assert done.exit_code == 2 and "not the results" in done.output


def test_files_side_by_side(tmp_path: Path) -> None:
    before = [row(), row(contestant="slower"), row(contestant="noisy"), row(contestant="gone")]
    slow = {"median_s": 3.0, "first_quartile_s": 2.9, "third_quartile_s": 3.1}
    noisy = {"median_s": 3.0, "first_quartile_s": 1.0, "third_quartile_s": 5.0}
    after = [row(peak_bytes=5 << 20), row(contestant="slower", **slow), row(contestant="noisy", **noisy)]
    found = beside.compare(before, after, ({"commit": "a", "date": "1"}, {"commit": "b", "date": "2"}))
    assert found.differing == {"commit": ("a", "b")}
    assert [r.contestant for r in found.only_before] == ["gone"] and not found.only_after
    same, slower, unsure = found.pairs
    assert same.ratio == 1 and same.memory_ratio == 0.5 and not same.is_distinct
    assert slower.ratio == 1.5 and slower.is_slower(1.4) and not slower.is_slower(1.6)
    assert unsure.ratio == 1.5 and not unsure.is_slower(1.1)

    paths = tmp_path / "before.csv", tmp_path / "after.json"
    for path, rows in zip(paths, (before, after), strict=True):
        results.write(path, [results.as_dict(r) for r in rows], {"commit": path.stem})
    options = ["compare", *map(str, paths), "--json"]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["differing conditions"] == {"commit": ["before", "after"]} and len(told["pairs"]) == 3
    done = CliRunner().invoke(app, [*options, "--fail-slower", "1.4"])
    assert done.exit_code == 1 and len(json.loads(done.stdout)["slower"]) == 1


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_plots_come_from_the_file_alone(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    rows = [
        row(),
        row(contestant="ours, balanced", speedup=1.6, median_s=1.25, kept_bytes=2 << 20),
        row(contestant="OpenVINO", missing="absent", median_s=None, speedup=None, peak_bytes=None),
        row(level="op", work="gram 64x56x56", mode=OP, peak_bytes=None, kept_bytes=None),
    ]
    path = tmp_path / "results.csv"
    results.write(path, [results.as_dict(r) for r in rows], {"CPU": "a processor"})
    done = CliRunner().invoke(app, ["plot", str(path), "--format", suffix, "--json"])
    assert done.exit_code == 0, done.output
    written = json.loads(done.stdout)
    assert written == [str(tmp_path / f"results-{n}.{suffix}") for n in ("speedup", "memory", "roofline")]
    texts = [Path(p).read_bytes() for p in written]
    starts = {"svg": b"<?xml", "png": b"\x89PNG"}
    assert all(text.startswith(starts[suffix]) for text in texts)
    done = CliRunner().invoke(app, ["plot", str(path), "--format", suffix])
    assert [Path(p).read_bytes() for p in written] == texts, "the same file, the same drawing"


@pytest.mark.parametrize("terminal", [True, False])
def test_bars_and_colours_on_a_terminal_only(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(
        file=out, force_terminal=terminal, width=190, color_system="standard" if terminal else None
    )
    rows = [
        row(),
        row(contestant="ours, balanced", speedup=2.0),
        row(contestant="Apex", missing="absent: get it"),
    ]
    console.print(report.suite_table(rows, console))
    words = out.getvalue()
    assert ("█" in words) == ("\x1b[" in words) == terminal
    assert "2.00" in words and "100%" not in words and "50%" in words


# ---- the command ---------------------------------------------------------------------------------


def test_run(tmp_path: Path) -> None:
    as_csv = tmp_path / "results.csv"
    options = ["--quick", "--level", "block", "--only", "bottleneck, proj", "--mode", "training"]
    skip = [f"--skip={name}" for name in (peers.COMPILE, peers.COMPILE_MAX)]
    done = CliRunner().invoke(app, ["run", *options, *skip, "-o", str(as_csv), "--json", "--threads", "1"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    rows = list(csv.DictReader(as_csv.open()))
    assert len(rows) == len(found["results"]) == 8
    assert {r["contestant"] for r in rows} >= {"eager NCHW", "eager", "InPlace-ABN", "ours, min"}
    for name in ("CPU", "clock", "torch", "commit", "openvino", "threads"):
        assert rows[0][name] == found["conditions"][name]
    assert "speed-up" in done.stderr and "ours, min" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--level", "planet"], "expected one of op, block, network"),
        (["--mode", "sleep"], "expected one of training, inference"),
        (["--only", "planet"], "nothing has 'planet' in its name"),
        (["--dtype", "int4"], "expected one of fp32, bf16, fp16"),
        (["--device", "planet"], "expected cpu, cuda or cuda:N"),
        (["--skip", "planet"], "expected some of"),
        (["-o", "results.txt"], "ends in .csv or .json"),
    ],
)
def test_bad_options(options: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["run", *options], env={"COLUMNS": "300"})
    assert done.exit_code == 2 and message in done.output


def test_the_pytest_form_runs() -> None:
    pytest.importorskip("pytest_benchmark")
    chosen = "(gram or conv_fprop_dual or basic) and not compile and not projection"
    options = ["--benchmark-disable", "--batch", "1", "--image-size", "64", "-q", "-k", chosen]
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks", *options], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\b(\d\d) passed", done.stdout), done.stdout
