"""Tiles of results that a block of threads computes, and which of them fit a product.

Their numbers are csrc/cuda's. Candidates come best first by rule of thumb; `..tuning` may know better, from
measuring on the GPU at hand. Channels that are no multiple of 16 bytes are loaded one by one, which only the
64x64 tiles do.
"""

from __future__ import annotations

import dataclasses

import torch

from ..geometry import cdiv

BLOCKS = 128  # enough to keep every multiprocessor of a large GPU busy


@dataclasses.dataclass(frozen=True)
class Tile:
    """rows x columns of results; index: what the C++ function knows it by."""

    index: int
    rows: int
    columns: int


LARGE, NARROW, SMALL = Tile(0, 128, 128), Tile(1, 128, 64), Tile(2, 64, 64)
SLIM = Tile(3, 128, 32)  # for groups of few output channels
FEW_FILTERS = Tile(3, 16, 64)  # of weight gradients

Tiles = tuple[Tile, ...]


def aligned(dtype: torch.dtype, *channels: int) -> bool:
    """Whether rows of this many channels can be read in 16 bytes at a time."""
    return all(c * dtype.itemsize % 16 == 0 for c in channels)


def gemm(rows: int, columns: int, aligned: bool, dtype: torch.dtype) -> Tiles:
    """Candidates for a product of `rows` x `columns` results (of one group)."""
    if not aligned:
        return (SMALL,)
    if columns <= SLIM.columns:
        return SLIM, SMALL
    if _few(rows, columns):
        return SMALL, NARROW
    if columns <= NARROW.columns or dtype == torch.float32:
        return NARROW, SMALL
    return LARGE, NARROW


def dual(rows: int, columns: int, aligned: bool) -> Tiles:
    """Candidates for two products of `rows` x `columns` results that are scaled before they are added."""
    if not aligned:
        return (SMALL,)
    return (SMALL, NARROW) if _few(rows, columns) else (NARROW, SMALL)


def _few(rows: int, columns: int) -> bool:
    """Whether tiles of 128 rows would leave multiprocessors idle."""
    return cdiv(rows, NARROW.rows) * cdiv(columns, NARROW.columns) < BLOCKS


def wgrad(filters: int, columns: int, aligned: bool, dtype: torch.dtype) -> Tiles:
    """Candidates for weight gradients of `filters` x `columns` (of one group)."""
    if not aligned:
        return (SMALL,)
    if filters <= FEW_FILTERS.rows:
        return FEW_FILTERS, SMALL
    if min(filters, columns) <= SMALL.columns or dtype == torch.float32:
        return (SMALL,)
    return LARGE, SMALL


def gram(channels: int, aligned: bool, dtype: torch.dtype) -> Tiles:
    """Candidates for moments of this many channels."""
    if not aligned or channels <= SMALL.columns or dtype == torch.float32:
        return (SMALL,)
    return LARGE, SMALL
