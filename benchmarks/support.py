"""One task of one contestant through pytest-benchmark."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fused_resnet.analysis import synchronise
from fused_resnet.bench.cases import Task, Work
from fused_resnet.bench.peers import Contestant


def bench(benchmark: BenchmarkFixture, task: Task, contestant: Contestant, **rounds: Any) -> None:
    """rounds: as `benchmark.pedantic` takes them; the warm-up compiles and measures what is done once."""
    if not contestant.takes(task):
        pytest.skip(f"{contestant.name} does not do this")
    if why := contestant.why_absent():
        pytest.skip(why)
    run, how = contestant.prepare(task)
    setting = task.setting
    benchmark.group = f"{task.case.name}, {task.mode}, {setting.dtype}, batch {setting.batch}"
    benchmark.extra_info |= {"layout": contestant.layout, "how": how}
    if isinstance(run, Work):
        benchmark.extra_info["kept bytes"] = run.kept_bytes()

    def timed() -> None:
        run()
        synchronise(setting.device)

    benchmark.pedantic(timed, warmup_rounds=2, **rounds)
