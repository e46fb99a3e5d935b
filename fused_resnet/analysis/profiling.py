"""What NVIDIA's profiler counts of our kernels on the GPU at hand: bytes, occupancy, bank conflicts.

`python -m fused_resnet.analysis.profiling BACKEND` runs one op of every kind at sizes of a ResNet-50;
`profile` does that under Nsight Compute (`ncu`) and reads what it says of each kernel.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from ..backends import BACKENDS, tuning
from .kernel_arguments import BUILDERS, Conv, Make


class Metric(NamedTuple):
    """label, factor: how a value is printed, in units of the profiler's base unit times factor."""

    label: str
    factor: float = 1.0


METRICS = {
    "gpu__time_duration.sum": Metric("us", 1e-3),
    "dram__bytes.sum": Metric("MB of DRAM", 1e-6),
    "sm__warps_active.avg.pct_of_peak_sustained_active": Metric("% occupancy"),
    "launch__registers_per_thread": Metric("registers"),
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum": Metric("bank conflicts"),
    "sm__inst_executed_pipe_tensor.sum": Metric("tensor instructions"),
}

_IDENTITY = Conv(32, 56, 56, 64, 64, (3, 3), padding=(1, 1))
_DOWN = Conv(32, 56, 56, 128, 128, (3, 3), (2, 2), (1, 1))
_WIDENING = Conv(32, 56, 56, 64, 256)
_PROJECTION = Conv(32, 56, 56, 256, 512, stride=(2, 2))
# Op -> its sizes and variant: the self-test's brief set, as large as in a training step of 32 images.
CALLS = {
    "bn_act_bwd_reduce": ((32, 256, 56, 56), {"given": "y"}),
    "conv_fprop_stats": (_IDENTITY, {"prologue": "relu"}),
    "conv_dgrad_reduce": (_DOWN, {}),
    "conv_wgrad": (_WIDENING, {}),
    "gram": (_WIDENING, {}),
    "folded_dgrad_reduce": (_WIDENING, {}),
    "conv_fprop_dual": (_PROJECTION, {}),
}


def calls(backend: str, device: str = "cuda", dtype: torch.dtype = torch.bfloat16) -> None:
    """Run each of `CALLS` once, as it is known to be fastest; nothing is measured under a profiler."""
    with tuning.policy("cached"):
        for op, (size, variant) in CALLS.items():
            args = BUILDERS[op](Make(dtype), size, **variant)
            BACKENDS[backend].OPS[op](*(a.to(device) if isinstance(a, torch.Tensor) else a for a in args))


def profile(ncu: str, backend: str) -> dict[str, str]:
    """Kernel -> what was counted of it, in words.

    Args: ncu: the profiler's path. Raises: RuntimeError: it did not run to the end; its last words.
    """
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "profile.csv"
        options = ["--csv", "--page", "raw", "--print-units", "base", "--log-file", str(table)]
        metrics = ["--metrics", ",".join(METRICS)]
        command = [ncu, *options, *metrics, sys.executable, "-m", __name__, backend]
        done = subprocess.run(command, capture_output=True, text=True)
        log = table.read_text() if table.exists() else ""
    if done.returncode or "==ERROR==" in log:
        raise RuntimeError(" | ".join((done.stdout + done.stderr + log).strip().splitlines()[-3:]))
    return dict(read(log))


def read(log: str) -> Iterator[tuple[str, str]]:
    """The rows of the profiler's table, without the kernels that torch brings along."""
    lines = [line for line in log.splitlines() if line.startswith('"')]  # others are the profiler's messages
    rows = list(csv.DictReader(lines))[1:]  # the first one has the units
    for i, row in enumerate(rows):
        name = row["Kernel Name"]
        if "at::" in name or "cub::" in name:
            continue
        counted = (f"{_number(row.get(key), m.factor)} {m.label}" for key, m in METRICS.items())
        yield f"{i} {name.partition('(')[0]}", ", ".join(counted)


def _number(text: str | None, factor: float) -> str:
    """Some counters are not there on every GPU."""
    try:
        return f"{float((text or '').replace(',', '')) * factor:.4g}"
    except ValueError:
        return "?"


if __name__ == "__main__":
    calls(sys.argv[1])
