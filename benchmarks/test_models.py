"""Residual blocks and whole networks, stock, fused and by others."""

from __future__ import annotations

import pytest

from benchmarks.support import bench
from fused_resnet.bench.cases import BLOCKS, INFERENCE, NETWORKS, TRAINING, Case, Setting, Task
from fused_resnet.bench.peers import CONTESTANTS


@pytest.mark.parametrize("name", CONTESTANTS)
@pytest.mark.parametrize("mode", [TRAINING, INFERENCE])
@pytest.mark.parametrize("case", (*BLOCKS, *NETWORKS), ids=lambda case: case.name)
def test_model(benchmark, setting: Setting, case: Case, mode: str, name: str) -> None:
    bench(benchmark, Task(case, mode, setting), CONTESTANTS[name], rounds=3 if case.is_network else 10)
