"""The command for an owner of a GPU, here without one."""

import json

from typer.testing import CliRunner

from .support import ARCH  # isort: skip

from fused_resnet.analysis import selftest
from fused_resnet.cli import app


def test_report(monkeypatch, tmp_path):
    monkeypatch.setattr(selftest, "BRIEF", ("bn_act_bwd_reduce-y",))
    monkeypatch.setattr(selftest, "BLOCKS", ())
    path = tmp_path / "report.json"
    command = ["selftest", "--device", "cpu", "--backend", "cuda", "--report", str(path)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    findings = json.loads(path.read_text())["findings"]
    checked = [(f["check"], f["subject"]) for f in findings if f["passed"]]
    assert checked == [(f"cuda parity, code for sm_{ARCH} on the CPU", "bn_act_bwd_reduce-y bf16")]
