"""A fixture and a marker that run a kernel's test over architectures, schedules and number formats.

    @pytest.mark.gpu_on_cpu(archs=(80, 90, 100), seeds=range(3), dtypes=("bf16", "fp32"))
    def test_scale(emulated_gpu):
        x = torch.randn(1000).to(emulated_gpu.dtype)
        ...
        emulated_gpu.run(scale, dict(x=x, y=y, n=1000), grid=(8,), BLOCK=128)

`--gpu-archs 90` and `--gpu-seeds 10` replace what the markers say, for a quick or a long run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:  # the package itself is imported when a test uses the fixture
    from gpu_on_cpu.case import Case
    from gpu_on_cpu.triton import Record, Run

DEFAULT_ARCHS = (80, 90, 100)
DEFAULT_SEEDS = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class EmulatedGpu:
    """One combination that a test runs under.

    Attributes:
        arch: 80, 90 (sm_90a), 100 (sm_100a), ...
        seed: the schedule; 0 is lock step.
        dtype: of the data; None if the marker names none.
    """

    arch: int
    seed: int
    dtype_name: str | None

    @property
    def dtype(self) -> torch.dtype | None:
        from gpu_on_cpu.case import DTYPES

        return DTYPES[self.dtype_name] if self.dtype_name else None

    def run(self, kernel: Any, args: Mapping[str, Any] | Sequence[Any], grid: Any, **options: Any) -> Run:
        """`gpu_on_cpu.run` on this architecture and schedule; traffic is counted only if asked for."""
        from gpu_on_cpu.triton import run

        return run(kernel, args, grid, self.arch, self.seed, **{"traffic": False, **options})

    def emulate(self, **options: Any) -> contextlib.AbstractContextManager[list[Record]]:
        """`gpu_on_cpu.emulate` on this architecture and schedule."""
        from gpu_on_cpu.triton import emulate

        return emulate(self.arch, self.seed, **options)

    def check(self, case: Case) -> Run:
        """Runs a case and fails the test if an output is off by more than its reference allows."""
        case.poison()
        result = self.run(case.kernel, case.args, case.grid, outputs=list(case.expected), **case.constexprs)
        if wrong := case.wrong():
            pytest.fail(f"errors in units of the tolerance: {wrong}", pytrace=False)
        return result


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gpu_on_cpu")
    group.addoption("--gpu-archs", help="architectures for every test of an emulated GPU, e.g. 80,90,100")
    group.addoption("--gpu-seeds", type=int, help="number of schedules for every test of an emulated GPU")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "gpu_on_cpu(archs, seeds, dtypes): combinations under which a test that uses emulated_gpu runs",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "emulated_gpu" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("gpu_on_cpu")
    chosen, positional = (dict(marker.kwargs), marker.args) if marker else ({}, ())
    unknown = set(chosen) - {"archs", "seeds", "dtypes"}
    if unknown or positional:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: "
            f"gpu_on_cpu takes archs, seeds and dtypes, got {sorted(unknown) or positional}"
        )
    archs, count = metafunc.config.getoption("--gpu-archs"), metafunc.config.getoption("--gpu-seeds")
    combinations = itertools.product(
        [int(a) for a in archs.split(",")] if archs else chosen.get("archs", DEFAULT_ARCHS),
        range(count) if count else chosen.get("seeds", DEFAULT_SEEDS),
        chosen.get("dtypes", (None,)),
    )
    gpus = [EmulatedGpu(*c) for c in combinations]
    ids = ["-".join([f"sm_{g.arch}", f"seed{g.seed}", *([g.dtype_name] if g.dtype_name else [])]) for g in gpus]
    metafunc.parametrize("emulated_gpu", gpus, ids=ids, indirect=True)


@pytest.fixture
def emulated_gpu(request: pytest.FixtureRequest) -> EmulatedGpu:
    """The architecture, schedule and dtype of this run of the test, with `run`, `emulate` and `check`."""
    return request.param
