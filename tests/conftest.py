"""Set-up of tests: seeds, how long hypothesis searches, choices between backends."""

import functools

import pytest
import torch
from hypothesis import HealthCheck, settings

# "ci" draws the same examples in every run; `--hypothesis-profile=long` searches for new ones.
SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile("ci", max_examples=20, derandomize=True, deadline=None, suppress_health_check=SLOW)
settings.register_profile("long", max_examples=1000, deadline=None, suppress_health_check=SLOW)
settings.load_profile("ci")


def pytest_addoption(parser):
    parser.addoption(
        "--all-dtypes",
        action="store_true",
        help="execute every GPU kernel in every number format and configuration (hours)",
    )


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def no_choices(monkeypatch, tmp_path):
    """No choices between backends and no winners of measurements but a test's own."""
    from fused_resnet.backends import engines, faster, tuning

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tuning, "_winners", functools.cache(tuning._Winners))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(engines, "assigned", {})
    monkeypatch.setattr(engines, "assigned_on_cpu", {})
    monkeypatch.setattr(faster, "measured", {})
