"""Merging of per-program results, which makes every reduction deterministic."""

from __future__ import annotations

import math

from torch import Tensor

from . import configs
from .geometry import scratch
from .kernels.merge import merge_moments as moments_kernel
from .kernels.merge import merge_sums as sums_kernel
from .launch import index_type, launch

DIRECT = 256  # parts that one program merges; more go in chunks first, to occupy more of the GPU
CHUNK = 128


def _split(parts: int) -> tuple[int, int]:
    """Parts per program and chunks of them."""
    per_program = CHUNK if parts > DIRECT else parts
    return per_program, configs.cdiv(parts, per_program)


def merge_moments(mean: Tensor, m2: Tensor, rows_per_tile: int, rows: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance ``[C]`` of `rows` rows from the moments ``[tiles, C]`` of tiles of them."""
    tiles, channels = mean.shape
    per_program, chunks = _split(tiles)
    merged_mean, merged_m2 = scratch(mean, chunks, channels), scratch(mean, chunks, channels)
    launch(
        moments_kernel,
        (chunks, configs.cdiv(channels, configs.MERGE.BLOCK_C)),
        configs.MERGE,
        *(mean, m2, merged_mean, merged_m2, tiles, channels, rows_per_tile, rows, per_program),
        FINAL=chunks == 1,
        INDEX=index_type(mean),
    )
    if chunks > 1:
        return merge_moments(merged_mean, merged_m2, rows_per_tile * per_program, rows)
    return merged_mean.view(channels), merged_m2.view(channels)


def merge_sums(parts: Tensor) -> Tensor:
    """``parts.sum(0)`` of fp32 values."""
    count, columns = parts.shape[0], math.prod(parts.shape[1:])
    per_program, chunks = _split(count)
    merged = scratch(parts, chunks, *parts.shape[1:])
    launch(
        sums_kernel,
        (chunks, configs.cdiv(columns, configs.MERGE.BLOCK_C)),
        configs.MERGE,
        *(parts, merged, count, columns, per_program),
        INDEX=index_type(parts),
    )
    return merge_sums(merged) if chunks > 1 else merged.view(parts.shape[1:])
