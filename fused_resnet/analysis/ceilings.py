"""What a processor can do at most: bytes of memory and floating-point operations per second."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .timing import stopwatch

__all__ = ["GPUS", "Ceilings", "datasheet", "measured"]


@dataclass(frozen=True)
class Ceilings:
    """bytes_per_second: of memory; flops_per_second: dtype name -> of dense matrix products, fp32 sums.

    "fp32" is what convolutions of fp32 tensors take by default: tf32 on a GPU that has it.
    """

    name: str
    bytes_per_second: float
    flops_per_second: dict[str, float]


def _gpu(name: str, gigabytes: float, bf16: float, tf32: float) -> Ceilings:
    """In GB/s and TFLOP/s; fp16 runs as fast as bf16 on all of these."""
    flops = {"bf16": bf16 * 1e12, "fp16": bf16 * 1e12, "fp32": tf32 * 1e12}
    return Ceilings(name, gigabytes * 1e9, flops)


# From NVIDIA's datasheets and architecture papers: dense products (no sparsity), sums in fp32, boost clock.
GPUS: dict[str, Ceilings] = {
    key: _gpu(*figures)
    for key, figures in {
        "a10": ("NVIDIA A10", 600, 125, 62.5),
        "a30": ("NVIDIA A30", 933, 165, 82),
        "a100": ("NVIDIA A100 SXM 80 GB", 2039, 312, 156),
        "rtx3090": ("NVIDIA GeForce RTX 3090", 936, 71, 35.6),
        "rtx4090": ("NVIDIA GeForce RTX 4090", 1008, 165.2, 82.6),
        "rtx5090": ("NVIDIA GeForce RTX 5090", 1792, 209.5, 104.8),
        "l4": ("NVIDIA L4", 300, 121, 60),
        "l40s": ("NVIDIA L40S", 864, 362, 183),
        "h100-pcie": ("NVIDIA H100 PCIe", 2000, 756, 378),
        "h100": ("NVIDIA H100 SXM", 3350, 989, 494.5),
        "h200": ("NVIDIA H200 SXM", 4800, 989, 494.5),
        "b200": ("NVIDIA B200", 8000, 2250, 1125),
    }.items()
}


def datasheet(gpu: str) -> Ceilings:
    """Of one of `GPUS`, by its key. Raises: ValueError: another one."""
    if gpu not in GPUS:
        raise ValueError(f"gpu: expected one of {', '.join(GPUS)}, got {gpu!r}")
    return GPUS[gpu]


_COPIED = 256 << 20  # bytes: more than any cache holds
_MATRIX = {"cpu": 2048, "cuda": 8192}
_SECONDS = 3.0  # of measuring each: a shared machine has slow moments


def measured(dtype: str, device: torch.device | str = "cpu") -> Ceilings:
    """The best rates seen on `device` within some seconds, on the threads that torch has.

    Memory: a copy of 256 MiB, read and written. Operations: a square product in `dtype` by PyTorch's library.

    Args: dtype: "fp32", "bf16" or "fp16".
    """
    device = torch.device(device)
    source = torch.ones(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    size = _MATRIX[device.type]
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    made = torch.empty_like(a)
    copying = _fastest(lambda: target.copy_(source), device)
    multiplying = _fastest(lambda: torch.mm(a, b, out=made), device)
    return Ceilings(f"measured on {device}", 2 * _COPIED / copying, {dtype: 2 * size**3 / multiplying})


def _fastest(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest run."""
    timed = stopwatch(device)
    timed(run)
    best, end = math.inf, time.monotonic() + _SECONDS
    while best == math.inf or time.monotonic() < end:
        best = min(best, timed(run))
    return best
