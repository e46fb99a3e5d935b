"""Bytes that a training step moves, counted while it runs."""

import pytest
import torch

from .support import ARCH  # isort: skip  # noqa: F401

from fused_resnet import fuse
from fused_resnet.analysis import traffic


def test_identity_bottleneck(monkeypatch):
    """No more than the Triton kernels move, in either direction."""
    pytest.importorskip("triton")
    monkeypatch.setenv("FUSED_RESNET_REAL_LIMITS", "1")  # sums are split as on a GPU
    torch.manual_seed(0)
    stock, x, unit = traffic.model("bottleneck", batch=2, size=14)
    model = fuse(stock)
    ours, theirs = (traffic.kernel_bytes(model, x, backend) for backend in ("cuda", "triton"))
    for direction in ("forward", "backward"):
        moved = [found.total(direction) / unit.size for found in (ours, theirs)]
        print(f"{direction}: {moved[0]:.2f}, Triton {moved[1]:.2f} units of M*C elements")
        assert moved[0] <= moved[1]
