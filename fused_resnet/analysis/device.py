"""The device that a command is to run on."""

from __future__ import annotations

import torch

__all__ = ["device_named"]


def device_named(name: str) -> torch.device:
    """A processor or a CUDA device that is here.

    Raises: ValueError: another name, or there is no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"device: expected cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: there is no CUDA device here")
    return device
