"""Residual blocks, stock and fused."""

from __future__ import annotations

import pytest

from benchmarks.cases import BLOCKS, VARIANTS, Case, Setting, Variant, Work
from fused_resnet.analysis import synchronise


@pytest.mark.parametrize("case", BLOCKS, ids=lambda case: case.name)
@pytest.mark.parametrize(
    ("mode", "variant"),
    [pytest.param(mode, v, id=f"{mode}-{v.name}") for mode, variants in VARIANTS.items() for v in variants],
)
def test_block(benchmark, setting: Setting, case: Case, mode: str, variant: Variant) -> None:
    work = Work(case, variant, mode, setting)
    benchmark.group = f"{case.name}, {mode}"
    benchmark.extra_info["kept bytes"] = work.kept_bytes()

    def run():
        work()
        synchronise(setting.device)

    benchmark.pedantic(run, rounds=10, warmup_rounds=2)
