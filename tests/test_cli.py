"""The command `fused-resnet` as a user or a script calls it: words, JSON, exit statuses."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import fused_resnet
from fused_resnet import _extension, models
from fused_resnet.analysis import selftest as checks
from fused_resnet.analysis.ceilings import datasheet
from fused_resnet.cli import app
from fused_resnet.cli.plan import build

WIDE = {"COLUMNS": "300"}
doctor = importlib.import_module("fused_resnet.cli.doctor")  # the package has the command by this name


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments), env=WIDE)


def document(*arguments: str):
    """What a command prints with --json: one document, and nothing else on standard output."""
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_version_and_help():
    assert run("--version").stdout == f"fused_resnet {fused_resnet.__version__}\n"
    words = run("--help").stdout
    assert all(name in words for name in ("doctor", "plan", "bench", "selftest", "demo"))
    assert run("dance").exit_code == 2


# ---- doctor --------------------------------------------------------------------------------------


def diagnoses() -> dict[str, dict[str, str]]:
    return {d["subject"]: d for d in document("doctor")["diagnoses"]}


def test_doctor():
    done = run("doctor")
    assert done.exit_code == 0 and "\x1b" not in done.stdout  # no colours in a pipe
    found = diagnoses()
    assert found["backend reference"]["state"] == "good"
    assert found["a fused training step"]["state"] == "good"
    assert torch.__version__ in found["torch"]["found"]
    assert ("C++ extension" in found) and (found["backend cpu"]["state"] == "good") == (
        not _extension.why_missing()
    )


def test_doctor_without_the_extension(monkeypatch):
    monkeypatch.setattr(_extension, "why_missing", lambda: "the C++ extension was not built")
    found = diagnoses()["C++ extension"]
    assert found["state"] == "warning" and _extension.BUILD_COMMAND in found["advice"]


def test_doctor_tells_of_wrong_results(monkeypatch):
    error = doctor._error
    monkeypatch.setattr(doctor, "_error", lambda fused: 0.1 if fused else error(fused))
    done = run("doctor", "--json")
    assert done.exit_code == 1
    bad = [d for d in json.loads(done.stdout)["diagnoses"] if d["state"] == "bad"]
    assert [d["subject"] for d in bad] == ["a fused training step"] and "selftest" in bad[0]["advice"]


def test_doctor_tells_of_a_step_that_raises(monkeypatch):
    def fails(fused):
        raise RuntimeError("no memory\nmore lines")

    monkeypatch.setattr(doctor, "_error", fails)
    done = run("doctor")
    assert done.exit_code == 1 and "RuntimeError: no memory" in done.stdout


def test_doctor_names_absent_packages(monkeypatch):
    monkeypatch.setitem(doctor.OPTIONAL, "no_such_module", "nothing")
    found = diagnoses()["optional packages"]
    assert "no_such_module" in found["found"] and found["state"] == "good"


# ---- plan ----------------------------------------------------------------------------------------

SMALL = ("--batch", "2", "--size", "64")


@pytest.mark.parametrize("memory", ["speed", "balanced", "min"])
def test_plan_of_an_own_network(memory):
    found = document("plan", "fused_resnet:resnet50", *SMALL, "--memory", memory, "--gpu", "a100")
    units = found["units"]
    assert len(units) == 17 and units[0]["kind"] == "conv_bn_act_maxpool"
    assert any(any(unit["folded"]) for unit in units) == (memory != "speed")
    assert all(unit["recomputed"] == (memory == "min") for unit in units)
    assert all((unit["bytes_kept"] == 0) == (memory == "min") for unit in units)
    assert found["ceilings"]["name"] == datasheet("a100").name
    assert found["least_seconds"] == pytest.approx(sum(unit["least_seconds"] for unit in units))
    table = run("plan", "fused_resnet:resnet50", *SMALL, "--memory", memory).stdout
    assert "layer4.2" in table and "A bound, nothing was run" in table


def test_plan_counts_multiply_adds():
    found = document("plan", "fused_resnet:resnet18", *SMALL, "--inference")
    network = models.create("resnet18", fused=False)
    linear = 2 * network.fc.in_features * network.fc.out_features
    macs = sum(unit["multiply_adds"] for unit in found["units"])
    assert macs == models.multiply_adds(network, (2, 3, 64, 64)) - linear


def test_plan_times_are_the_slower_of_bytes_and_operations():
    found = document("plan", "fused_resnet:resnet18", *SMALL, "--gpu", "l4")
    gpu = datasheet("l4")
    for unit in found["units"]:
        memory = unit["bytes_moved"] / gpu.bytes_per_second
        arithmetic = 2 * unit["multiply_adds"] / gpu.flops_per_second["bf16"]
        assert unit["least_seconds"] == pytest.approx(max(memory, arithmetic))
        assert unit["bound_by"] == ("memory" if memory >= arithmetic else "arithmetic")


@pytest.mark.parametrize(("package", "name"), [("torchvision", "resnet34"), ("timm", "resnet26d")])
def test_plan_of_other_libraries(package, name):
    pytest.importorskip(package)
    found = document("plan", f"{package}:{name}", *SMALL)
    assert found["title"].startswith(f"{package}'s {name}") and found["units"]


def test_names_without_a_source_go_to_the_first_that_knows_them(monkeypatch):
    _, source = build("cifar_resnet20")
    assert source == "fused_resnet's cifar_resnet20"
    for package in ("torchvision", "timm"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    assert build("resnet50")[1] == "fused_resnet's resnet50"
    with pytest.raises(ImportError, match="timm is not installed: pip install timm"):
        build("timm:resnet50")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_network"], "has no 'no_such_network'"),
        (["planet:resnet50"], "expected one of torchvision, timm, fused_resnet before the colon"),
        (["fused_resnet:resnet50", "--gpu", "abacus"], "expected one of a10, "),
        (["fused_resnet:resnet50", "--dtype", "int4"], "expected one of fp32, bf16, fp16, got 'int4'"),
        (["fused_resnet:resnet50", "--memory", "none"], "expected one of speed, balanced, min, got 'none'"),
    ],
)
def test_bad_plans(arguments, message):
    done = run("plan", *arguments)
    assert done.exit_code == 2 and message in done.output, done.output


def test_plan_of_a_network_without_residual_blocks():
    pytest.importorskip("torchvision")
    done = run("plan", "torchvision:vit_b_16", "--batch", "1", "--size", "224")
    assert done.exit_code == 1 and "nothing in this network can be fused" in done.output


# ---- selftest ------------------------------------------------------------------------------------


@pytest.mark.skipif(_extension.why_missing() is not None, reason="needs the C++ extension")
def test_selftest_of_the_cpu(tmp_path: Path):
    path = tmp_path / "report.json"
    found = document("selftest", "--device", "cpu", "--backend", "cpu", "--report", str(path))
    assert found == json.loads(path.read_text())
    passed = [f for f in found["findings"] if f["passed"]]
    assert len(passed) == len(found["findings"]) == len(checks.BRIEF) + 3 * len(checks.BLOCKS)


@pytest.mark.skipif(_extension.why_missing() is not None, reason="needs the C++ extension")
def test_selftest_finds_a_wrong_kernel(monkeypatch):
    right = checks.cpu.OPS["gram"]

    def wrong(*args):
        mean, gram = right(*args)
        return mean, gram * 1.001

    monkeypatch.setitem(checks.cpu.OPS, "gram", wrong)
    from fused_resnet.analysis import kernel_problems

    kernel_problems.host.cache_clear()
    try:
        done = run("selftest", "--device", "cpu", "--backend", "cpu", "--json")
    finally:
        kernel_problems.host.cache_clear()
    failed = {(f["check"], f["subject"]) for f in json.loads(done.stdout)["findings"] if not f["passed"]}
    assert done.exit_code == 1 and ("cpu parity", "gram-relu fp32") in failed


# ---- demo and bench ------------------------------------------------------------------------------


def test_demo(tmp_path: Path):
    for package in ("matplotlib", "sklearn"):
        pytest.importorskip(package)
    found = document("demo", "--quick", "--output", str(tmp_path))
    picture = tmp_path / "demo_curves.png"
    assert found["curves"] == str(picture) and picture.read_bytes().startswith(b"\x89PNG")
    assert len(found["ResNet-20"]["losses"]["stock"]) == len(found["ResNet-20"]["losses"]["fused"]) == 4
    kept = {name: v["kept bytes"] for name, v in found["ResNet-50"]["variants"].items()}
    assert kept['fused, memory="min"'] < kept['fused, memory="balanced"'] < kept["stock"]


def test_demo_without_its_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "fused_resnet.demonstration", raising=False)
    monkeypatch.delattr(fused_resnet, "demonstration", raising=False)
    done = run("demo")
    assert done.exit_code == 2 and "pip install 'fused_resnet[demo]'" in done.output


def test_bench_is_the_suite():
    words = run("bench", "--help").stdout
    assert all(name in words for name in ("run", "plot", "compare", "figures"))
