"""What the README shows, the demo and the comparer run as a user would run them."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)


def run(*arguments: str) -> str:
    """Standard output of a Python subprocess in the repository's root, on one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readme_has_examples() -> None:
    assert len(BLOCKS) >= 3


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().splitlines()[0][:40])
def test_readme_example_runs(block: str) -> None:
    for package in ("torchvision", "timm"):
        if re.search(rf"^\s*(import|from) .*\b{package}\b", block, re.MULTILINE):
            pytest.importorskip(package)
    run("-c", block)


def test_demo(tmp_path: Path) -> None:
    for package in ("matplotlib", "rich", "sklearn", "typer"):
        pytest.importorskip(package)
    out = run("examples/demo.py", "--quick", "--output", str(tmp_path))
    for text in ("threads:", "loss, last step", "test accuracy", "ms per step", "ResNet-50", 'memory="min"'):
        assert text in out, out
    picture = tmp_path / "demo_curves.png"
    assert str(picture) in out.splitlines()[-1]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_comparer(tmp_path: Path) -> None:
    for package in ("rich", "typer"):
        pytest.importorskip(package)
    as_json, as_csv = tmp_path / "results.json", tmp_path / "results.csv"
    out = run("-m", "benchmarks", "run", "--quick", "--json", str(as_json), "--csv", str(as_csv))
    for text in ("bottleneck, projection", "stock NCHW", "fused min", "x stock", "commit:"):
        assert text in out, out
    found = json.loads(as_json.read_text())
    rows = list(csv.DictReader(as_csv.open()))
    assert len(rows) == len(found["results"]) == 4 * (5 + 3)  # blocks, variants in training and inference
    assert {row["torch"] for row in rows} == {found["conditions"]["torch"]}
    kept = {(r["case"], r["variant"]): r["kept_bytes"] for r in found["results"] if r["mode"] == "training"}
    for case in {case for case, _ in kept}:
        assert kept[case, "fused min"] < kept[case, "stock channels_last"]
    for row in found["results"]:
        assert row["median_s"] > 0
        assert row["variant"] != "stock channels_last" or row["ratio"] == 1
