"""Every op at the sizes of a ResNet-50, per backend that has a kernel for it, beside PyTorch's operators."""

from __future__ import annotations

import pytest

from benchmarks.support import bench
from fused_resnet.bench.cases import OP, Setting, Task
from fused_resnet.bench.op_cases import OP_CASES, OP_CONTESTANTS, OpCase


@pytest.mark.parametrize("name", OP_CONTESTANTS)
@pytest.mark.parametrize("case", OP_CASES, ids=lambda case: case.name)
def test_op(benchmark, setting: Setting, case: OpCase, name: str) -> None:
    bench(benchmark, Task(case, OP, setting), OP_CONTESTANTS[name], rounds=20, iterations=5)
