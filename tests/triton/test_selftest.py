"""The command for an owner of a GPU, here without one."""

import json

import pytest
import torch
from typer.testing import CliRunner

from .support import ARCHS  # isort: skip  # noqa: F401

from fused_resnet.analysis import kernel_truth, selftest
from fused_resnet.cli import app


@pytest.fixture
def short(monkeypatch):
    """One problem, one architecture, no table."""
    monkeypatch.setattr(selftest, "BRIEF", ("bn_act_bwd_reduce-y",))
    monkeypatch.setattr(selftest, "BLOCKS", ())
    monkeypatch.setattr(selftest, "ARCHITECTURES", (90,))
    monkeypatch.setattr(selftest, "compiled", lambda: iter(()))


def run(*options):
    return CliRunner().invoke(app, ["selftest", "--device", "cpu", "--backend", "triton", *options])


def test_report(short, tmp_path):
    path = tmp_path / "report.json"
    result = run("--report", str(path))
    assert result.exit_code == 0, result.output
    report = json.loads(path.read_text())
    assert report["conditions"]["torch"]
    executed = [f for f in report["findings"] if f["check"] == "triton parity, code for sm_90 on the CPU"]
    assert [f["passed"] for f in executed] == [True]
    unchecked = [f["subject"] for f in report["findings"] if f["passed"] is None]
    assert "compute-sanitizer" in unchecked and "speed" in unchecked
    assert "1 passed, 0 FAILED, 5 not checked" in result.output


def test_wrong_results_fail(short, monkeypatch):
    monkeypatch.setattr(kernel_truth, "check", lambda *args: {"g": 7.0})
    result = run()
    assert result.exit_code == 1
    assert "1 FAILED" in result.output and "7.0" in result.output


def test_same_bits():
    """Also of tensors with dimensions of size 1, whose strides may be anything."""
    t = torch.randn(4, 3, 1, 1, dtype=torch.bfloat16)
    assert selftest._same_bits(t.contiguous(memory_format=torch.channels_last), t)
    assert not selftest._same_bits(t, t + 1)
