"""Options of ``pytest benchmarks``."""

from __future__ import annotations

import pytest

from fused_resnet.bench.cases import DTYPES, Setting


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fused_resnet")
    group.addoption("--device", default="cpu", help="where to run (default: cpu)")
    group.addoption("--dtype", default="fp32", choices=list(DTYPES), help="bf16 and fp16 are autocast")
    group.addoption("--batch", default=8, type=int, help="images (default: 8)")
    group.addoption("--image-size", default=224, type=int, help="height and width (default: 224)")


@pytest.fixture(scope="session")
def setting(request: pytest.FixtureRequest) -> Setting:
    option = request.config.getoption
    return Setting(option("--batch"), option("--image-size"), option("--dtype"), option("--device"))
