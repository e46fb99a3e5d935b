"""The figures: what is compared and wanted, how rounds are planned, everyone on a tiny network. No times."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("rich")
pytest.importorskip("typer")

from rich.console import Console
from typer.testing import CliRunner

from fused_resnet.analysis import interleaved, peak_activation_bytes
from fused_resnet.bench import peers, report
from fused_resnet.bench.app import app
from fused_resnet.bench.cases import FORWARD, INFERENCE, TRAINING, Setting, Task, Variant, Work
from fused_resnet.bench.figures import (
    FIGURES,
    HOST_BLOCKS,
    MEMORY,
    SMALL,
    Comparison,
    Figure,
    Result,
    results_of,
)
from fused_resnet.bench.measure import Effort, Measurement, rounds_within
from fused_resnet.bench.peers import BALANCED, CONTESTANTS, EAGER, ONNX_RUNTIME, OPENVINO, Contestant

EFFORT = Effort(rounds=2, budget=1.0)
BY_TITLE = {figure.title: figure for figure in FIGURES}


def quiet() -> Console:
    return Console(quiet=True)


def small_inference(dtype: str, *peers: str) -> Figure:
    task = Task(SMALL, INFERENCE, Setting(batch=2, size=64, dtype=dtype))
    return Figure("small", task, tuple(Comparison(BALANCED, peer, 1.0) for peer in peers))


@pytest.mark.parametrize(
    ("title", "wanted"),
    [
        ("ResNet-50, training step, bf16, batch 8, 224x224", {"eager": "≥ 1.50", "torch.compile": "≥ 1.30"}),
        ("ResNet-50, training step, fp32, batch 8, 224x224", {"eager": "≥ 1.15", "torch.compile": "≥ 1.15"}),
        ("ResNet-18, training step, bf16, batch 16, 224x224", {"eager": "≥ 1.40"}),
        ("ResNet-50, inference, bf16, batch 16, 224x224", {"OpenVINO": "≤ 1.00"}),
        ("ResNet-50, inference, fp32, batch 16, 224x224", {"OpenVINO": "≤ 1.05"}),
        ("ResNet-50, inference, bf16, batch 1, 224x224", {"OpenVINO": "≤ 1.15"}),
        ("ResNet-50, inference, fp32, batch 1, 224x224", {"OpenVINO": "≤ 1.15"}),
        ("host time, bottleneck on 1x8x2x2, forward and backward, fp32", {"eager": "≤ 1.00"}),
        ("host time, basic block on 1x8x2x2, forward in training, fp32", {"eager": "≤ 1.00"}),
    ],
)
def test_what_is_wanted(title: str, wanted: dict[str, str]) -> None:
    comparisons = BY_TITLE[title].comparisons
    assert {c.peer: c.wanted for c in comparisons if c.ours == BALANCED and c.wanted} == wanted


def test_figures_have_titles_of_their_own_and_known_contestants() -> None:
    assert len(BY_TITLE) == len(FIGURES)
    assert {name for figure in FIGURES for name in figure.contestants} <= set(CONTESTANTS)


def test_host_blocks_get_the_input_that_their_name_says() -> None:
    for case in HOST_BLOCKS:
        found = []
        work = Work(Task(case, FORWARD, Setting(batch=1, size=8)), Variant())
        work.model.register_forward_pre_hook(lambda module, args, found=found: found.append(args[0].shape))
        work()
        assert found == [(1, 8, 2, 2)]


@pytest.mark.parametrize(
    ("comparison", "ours", "peer", "verdict"),
    [
        (Comparison("a", "b", 1.5, speedup=True), 1.0, 1.5, "met"),
        (Comparison("a", "b", 1.5, speedup=True), 1.0, 1.4, "MISSED"),
        (Comparison("a", "b", 1.05), 1.05, 1.0, "met"),
        (Comparison("a", "b", 1.05), 1.1, 1.0, "MISSED"),
        (Comparison("a", "b"), 1.1, 1.0, ""),
        (Comparison("a", "b", 1.05), 1.0, None, "not judged"),
        (Comparison("a", "b", 1.05), None, 1.0, "MISSED"),
    ],
)
def test_verdict(comparison: Comparison, ours: float | None, peer: float | None, verdict: str) -> None:
    found = [Measurement(name, "channels_last", seconds=value) for name, value in (("a", ours), ("b", peer))]
    assert Result(FIGURES[0], comparison, *found).verdict == verdict


@pytest.mark.parametrize(
    ("budget", "seconds", "rounds"),
    [
        (60, {"a": 0.1, "b": 0.2}, {"a": 15, "b": 15}),
        (60, {"slow": 35.0, "fast": 2.0}, {"slow": 1, "fast": 15}),
        (60, {"slow": 15.0, "fast": 4.0}, {"slow": 3, "fast": 7}),
        (0, {"a": 0.1}, {"a": 1}),
    ],
)
def test_rounds_fit_the_budget(budget: float, seconds: dict[str, float], rounds: dict[str, int]) -> None:
    assert rounds_within(budget, 15, seconds) == rounds


def test_interleaved_spreads_rounds_evenly() -> None:
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) for name in ("often", "rarely")}
    times = interleaved(runs, {"often": 6, "rarely": 2}, warmup=0)
    assert {name: len(timing.seconds) for name, timing in times.items()} == {"often": 6, "rarely": 2}
    first, second = (i for i, name in enumerate(order) if name == "rarely")
    assert order[:first].count("often") in (2, 3) and second - first in (3, 4)
    with pytest.raises(ValueError, match="at least 1"):
        interleaved(runs, {"often": 1, "rarely": 0})
    with pytest.raises(ValueError, match="for each of"):
        interleaved(runs, {"often": 1})


def test_peak_memory_of_a_known_chain() -> None:
    """Three sines of n bytes keep their inputs; backward adds the gradients of two neighbours."""
    weight = nn.Parameter(torch.ones(1000, 1000))
    n = weight.numel() * weight.itemsize

    def step() -> None:
        weight.sin().sin().sin().sum().backward()

    peak = peak_activation_bytes(step, [weight])
    # alive at once: two kept sines, and of backward a cosine, a gradient and its product; the parameter's
    # own gradient does not count
    assert 3 * n <= peak <= 5 * n + 1000
    assert weight.grad is not None


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(OPENVINO, "fp32"), (OPENVINO, "bf16"), (ONNX_RUNTIME, "fp32"), (EAGER, "fp32"), (EAGER, "bf16")],
)
def test_everyone_computes_the_same(name: str, dtype: str) -> None:
    if why := CONTESTANTS[name].why_absent():
        pytest.skip(why)
    (result,) = results_of(small_inference(dtype, name), EFFORT, quiet())
    assert not result.peer.missing and not result.ours.missing, (result.peer, result.ours)
    assert result.peer.error is not None and result.peer.error < (1e-5 if dtype == "fp32" else 5e-2)
    assert result.ratio is not None and result.peer.rounds == 2


@pytest.mark.slow
@pytest.mark.parametrize("mode", [TRAINING, INFERENCE])
def test_compiled_code_computes_the_same(mode: str) -> None:
    figure = small_inference("fp32", peers.COMPILE)
    (result,) = results_of(replace(figure, task=replace(figure.task, mode=mode)), EFFORT, quiet())
    assert not result.peer.missing, result.peer
    assert result.peer.how == ("freezing" if mode == INFERENCE else "")


def test_who_computes_something_else_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(task: Task) -> tuple[peers.Ready, str]:
        work, how = CONTESTANTS[EAGER].prepare(task)
        with torch.no_grad():
            work.model.fc.weight.mul_(1.01)
        return work, how

    monkeypatch.setitem(CONTESTANTS, OPENVINO, Contestant(OPENVINO, wrong))
    (result,) = results_of(small_inference("fp32", OPENVINO), EFFORT, quiet())
    assert result.peer.missing.startswith("wrong") and result.peer.is_faulty and result.peer.seconds is None
    assert result.verdict == "not judged"


def test_who_is_absent_fails_or_is_skipped_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(task: Task) -> tuple[peers.Ready, str]:
        raise OSError("no compiler")

    absent = Contestant(OPENVINO, fails, needs=(("open-vino", "no_such_module"),))
    monkeypatch.setitem(CONTESTANTS, OPENVINO, absent)
    monkeypatch.setitem(CONTESTANTS, peers.COMPILE, Contestant(peers.COMPILE, fails))
    figure = small_inference("fp32", OPENVINO, peers.COMPILE, EAGER)
    results = results_of(figure, replace(EFFORT, skip=frozenset({EAGER})), quiet())
    missing = ["absent: pip install open-vino", "failed: OSError: no compiler", "skipped"]
    assert [result.peer.missing for result in results] == missing
    assert [result.peer.is_faulty for result in results] == [False, True, False]
    printed = io.StringIO()
    Console(width=report.WIDTH, file=printed).print(report.figures_table(results))
    for text in missing:
        assert text in printed.getvalue()
    assert report.tally(results) == "0 met, 0 MISSED, 3 not judged"


def test_memory_figure() -> None:
    figure = next(figure for figure in FIGURES if figure.quantity == MEMORY).quick()
    results = results_of(figure, EFFORT, quiet())
    for result in results:
        assert result.ours.peak_bytes is not None and result.ours.kept_bytes is not None
        assert result.peer.peak_bytes is not None and result.peer.kept_bytes is not None
        assert result.ours.kept_bytes < result.peer.kept_bytes < result.peer.peak_bytes


def test_command(tmp_path: Path) -> None:
    as_csv, as_json = tmp_path / "figures.csv", tmp_path / "figures.json"
    options = ["--quick", "--only", "host time", "-o", str(as_csv), "-o", str(as_json), "--threads", "1"]
    done = CliRunner().invoke(app, ["figures", *options])
    assert done.exit_code == 0, done.output
    for text in ("CPU: ", "openvino: ", "onnxruntime: ", "commit: ", "verdict", "host time, bottleneck"):
        assert text in done.output
    found = json.loads(as_json.read_text())
    rows = list(csv.DictReader(as_csv.open()))
    assert len(rows) == len(found["results"]) == 4
    for row in rows:
        assert row["verdict"] in ("met", "MISSED") and row["wanted"] == "≤ 1.00"
        assert row["ours_rounds"] == "1" and float(row["ratio"]) > 0
        assert row["torch"] == found["conditions"]["torch"] and row["threads"] == "1"


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--only", "nothing"], "nothing has 'nothing' in its title"), (["--skip", "x"], "expected some of")],
)
def test_bad_options(options: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["figures", *options], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert message in done.output
