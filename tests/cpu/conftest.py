"""Set-up of the CPU backend's tests."""

import os

import pytest
import torch

from fused_resnet.backends import cpu
from tests.kernels_support import _poisoned  # noqa: F401


def pytest_collection_modifyitems(items):
    """Without the extension there is nothing to prove, which is an error where it has to be there."""
    if why := cpu.unavailable():
        if os.environ.get("FUSED_RESNET_REQUIRE_EXTENSION") == "1":
            raise pytest.UsageError(f"FUSED_RESNET_REQUIRE_EXTENSION=1, but {why}")
        for item in items:
            if "tests/cpu/" in item.nodeid:
                item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(autouse=True)
def _exact_products():
    """The truth multiplies fp32 as it is, not in tf32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before
