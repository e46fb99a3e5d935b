"""Set-up of the Triton backend's tests."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _poisoned():
    """torch.empty gives NaN (255 for bytes): what a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _keeps_precision():
    before = torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32 = before
