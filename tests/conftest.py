"""Set-up of every test: seeds, and how long hypothesis searches."""

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
