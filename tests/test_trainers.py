"""The examples with Lightning and Accelerate, each on two processes, as a user would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist

ROOT = Path(__file__).parent.parent
EPOCHS = ("--epochs", "4")
FLOOR = 80.0  # per cent; four epochs gave 95 and 96, a network that learns nothing has 10

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo"
)


def result(*arguments: str) -> tuple[int, float]:
    """Processes and accuracy that an example prints, run without GPUs."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    found = re.findall(r"processes: (\d+), test accuracy: ([\d.]+) % of 360", done.stdout)
    assert len(found) == 1, f"one line, by one process: {done.stdout}"
    return int(found[0][0]), float(found[0][1])


def test_lightning() -> None:
    for package in ("lightning", "sklearn", "typer"):
        pytest.importorskip(package)
    processes, accuracy = result("examples/train_lightning.py", "--processes", "2", *EPOCHS)
    assert processes == 2 and accuracy >= FLOOR


def test_accelerate() -> None:
    for package in ("accelerate", "sklearn", "typer"):
        pytest.importorskip(package)
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    processes, accuracy = result(*torchrun, "examples/train_accelerate.py", *EPOCHS)
    assert processes == 2 and accuracy >= FLOOR
