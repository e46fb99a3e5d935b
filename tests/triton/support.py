"""What the tests of the Triton backend share. Import this first: it skips a module that cannot run."""

from __future__ import annotations

import contextlib
import sys
from unittest import mock

import pytest

pytest.importorskip(
    "triton", reason="the Triton backend's tests need Triton, which comes with CUDA builds of torch"
)
pytest.importorskip(
    "gpu_on_cpu", reason="the Triton backend's tests need gpu_on_cpu: pip install -e tools/gpu_on_cpu"
)

ARCHS = 80, 90, 100


@contextlib.contextmanager
def patched_in_backend(name: str, value):
    """Replaces what all modules of the backend call `name`."""
    backend = "fused_resnet.backends.triton."
    modules = [m for n, m in sys.modules.items() if n.startswith(backend) and hasattr(m, name)]
    with contextlib.ExitStack() as patches:
        for module in modules:
            patches.enter_context(mock.patch.object(module, name, value))
        yield
