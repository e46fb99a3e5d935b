"""Launch configurations: one frozen dataclass per kind of kernel, and which of them fit a problem.

Candidates come best first by rule of thumb; `..tuning` may know better, from measuring on the GPU at hand.
All of them fit 99 KiB of shared memory, the least of any architecture from sm_80.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch

from ..geometry import cdiv as cdiv
from .launch import Config

PROGRAMS = 128  # enough to keep every multiprocessor of a large GPU busy
REDUCING = 512  # the same where programs only read, and several share a multiprocessor


def power_of_2(n: int) -> int:
    """The smallest power of 2 that is at least n."""
    return 1 << max(n - 1, 0).bit_length()


class Product(Config):
    """Of kernels on tensor cores: ptxas may use all registers, instead of spilling a few for occupancy."""

    @property
    def options(self) -> dict[str, Any]:
        return {**super().options, "maxnreg": 255}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gemm(Product):
    """Tiles of a product [M, K]·[K, N]; GROUP_M tiles of rows run side by side."""

    BLOCK_M: int
    BLOCK_N: int
    BLOCK_K: int
    GROUP_M: int = 8


# For 2-byte elements; BLOCK_K is halved for 4-byte ones.
_LARGE = Gemm(BLOCK_M=128, BLOCK_N=128, BLOCK_K=32, num_warps=8, num_stages=4)
_NARROW = Gemm(BLOCK_M=128, BLOCK_N=64, BLOCK_K=64, num_warps=8, num_stages=3)
_SMALL = Gemm(BLOCK_M=64, BLOCK_N=64, BLOCK_K=64, num_warps=4, num_stages=3)
_GROUPED = Gemm(BLOCK_M=128, BLOCK_N=16, BLOCK_K=32, num_warps=4, num_stages=3)
# Loads of single elements take a register or two for each address.
_GATHER = Gemm(BLOCK_M=128, BLOCK_N=64, BLOCK_K=16, num_warps=8, num_stages=3)
_GATHER_SMALL = Gemm(BLOCK_M=64, BLOCK_N=64, BLOCK_K=16, num_warps=4, num_stages=3)
_GATHER_GROUPED = Gemm(BLOCK_M=128, BLOCK_N=16, BLOCK_K=16, num_warps=4, num_stages=3)
# Without tensor cores every thread multiplies its own tile: smaller ones, or the code explodes.
_EXACT = Gemm(BLOCK_M=32, BLOCK_N=32, BLOCK_K=16, num_warps=4, num_stages=2)


def gemm(
    rows: int, columns: int, wide: bool, dtype: torch.dtype, precision: str, reads: int = 1
) -> tuple[Gemm, ...]:
    """Candidates for a product of `rows` x `columns` results (of one group).

    Args: wide: both operands are read in 16 bytes at a time; reads: tensors that the left one is made of.
    """
    found: tuple[Gemm, ...]
    if columns <= 16:
        found = (_GROUPED,) if wide else (_GATHER_GROUPED,)
    elif not wide:
        found = (_GATHER, _GATHER_SMALL)
    elif cdiv(rows, 128) * cdiv(columns, 64) < PROGRAMS:
        found = (_SMALL, _NARROW)
    elif columns <= 64:
        found = (_NARROW, _SMALL)
    else:
        found = (_LARGE, _NARROW)
    if reads > 1:
        found = tuple(dataclasses.replace(c, BLOCK_K=max(16, c.BLOCK_K // reads)) for c in found)
    return _for_dtype(found, dtype, precision)


def dual(rows: int, columns: int, wide: bool, dtype: torch.dtype, precision: str) -> tuple[Gemm, ...]:
    """Candidates for two products of `rows` x `columns` results that are scaled before they are added."""
    found: tuple[Gemm, ...]
    if not wide:
        found = (_GATHER_SMALL,)
    elif cdiv(rows, 128) * cdiv(columns, 64) < PROGRAMS:
        found = (_SMALL, _NARROW)
    else:
        found = (_NARROW, _SMALL)
    return _for_dtype(found, dtype, precision)


def _for_dtype(found: tuple[Gemm, ...], dtype: torch.dtype, precision: str) -> tuple[Gemm, ...]:
    if dtype != torch.float32:
        return found
    if precision == "ieee":
        return (_EXACT,)
    return tuple(dataclasses.replace(c, BLOCK_K=max(16, c.BLOCK_K // 2)) for c in found)


SPLIT_ROWS = 2048  # fewer, and writing the partial sums would cost more than reading the activations


def split(rows: int, block: int, tiles: int) -> tuple[int, int]:
    """How many splits a sum over `rows` goes into, and how many blocks each has; `tiles`: of results."""
    wanted = max(1, min(cdiv(2 * PROGRAMS, tiles), rows // SPLIT_ROWS))
    blocks = cdiv(cdiv(rows, wanted), block)
    return cdiv(rows, blocks * block), blocks


def _sums_for_dtype(found: tuple, exact: Config, dtype: torch.dtype, precision: str) -> tuple:
    if dtype != torch.float32:
        return found
    if precision == "ieee":
        return (exact,)
    return tuple(dataclasses.replace(c, BLOCK_M=c.BLOCK_M // 2) for c in found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wgrad(Product):
    """Tiles of results [K, columns], each summed over blocks of BLOCK_M rows."""

    BLOCK_M: int
    BLOCK_K: int
    BLOCK_C: int


# For 2-byte elements; BLOCK_M is halved for 4-byte ones.
_WGRAD_LARGE = Wgrad(BLOCK_M=32, BLOCK_K=128, BLOCK_C=128, num_warps=8, num_stages=3)
_WGRAD_NARROW = Wgrad(BLOCK_M=32, BLOCK_K=128, BLOCK_C=64, num_warps=8, num_stages=3)
_WGRAD_SMALL = Wgrad(BLOCK_M=32, BLOCK_K=64, BLOCK_C=64, num_warps=4, num_stages=3)
_WGRAD_WIDE = Wgrad(BLOCK_M=32, BLOCK_K=64, BLOCK_C=128, num_warps=8, num_stages=3)
_WGRAD_GROUPED = Wgrad(BLOCK_M=64, BLOCK_K=16, BLOCK_C=64, num_warps=8, num_stages=3)
_WGRAD_TINY = Wgrad(BLOCK_M=64, BLOCK_K=16, BLOCK_C=16, num_warps=4, num_stages=3)
_WGRAD_EXACT = Wgrad(BLOCK_M=16, BLOCK_K=32, BLOCK_C=32, num_warps=4, num_stages=2)


def wgrad(filters: int, columns: int, wide: bool, dtype: torch.dtype, precision: str) -> tuple[Wgrad, ...]:
    """Candidates for `filters` x `columns` results (of one group and, unless flat, one tap).

    Args: wide: g and x are read in 16 bytes at a time.
    """
    found: tuple[Wgrad, ...]
    if filters <= 16:
        found = (_WGRAD_TINY, _WGRAD_GROUPED) if columns <= 16 else (_WGRAD_GROUPED, _WGRAD_TINY)
    elif not wide:  # loads of single elements take many registers
        found = (_WGRAD_SMALL, _WGRAD_WIDE)
    elif min(filters, columns) <= 64:
        found = (_WGRAD_SMALL, _WGRAD_NARROW if columns <= 64 else _WGRAD_WIDE)
    else:
        found = (_WGRAD_LARGE, _WGRAD_NARROW, _WGRAD_SMALL)
    return _sums_for_dtype(found, _WGRAD_EXACT, dtype, precision)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeWgrad(Config):
    """BLOCK x BLOCK_TAPS results, from BLOCK_SPLITS partial sums at a time."""

    BLOCK_SPLITS: int
    BLOCK: int
    BLOCK_TAPS: int


def merge_wgrad(splits: int, taps: int) -> MergeWgrad:
    """Many loads in flight for a few results, long rows for many."""
    block_taps = power_of_2(taps)
    block = max(16, min(64, 512 // block_taps))
    block_splits = min(power_of_2(splits), max(1, 8192 // (block * block_taps)))
    return MergeWgrad(BLOCK_SPLITS=block_splits, BLOCK=block, BLOCK_TAPS=block_taps, num_warps=8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vector(Config):
    """BLOCK_C values of per-channel vectors."""

    BLOCK_C: int


VECTOR = Vector(BLOCK_C=128)


class Split(NamedTuple):
    """How a reduction is divided: `parts` blocks of `per_program` tiles of rows each."""

    per_program: int
    parts: int
    grid: tuple[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tile(Config):
    """BLOCK_M rows x BLOCK_C channels of activations."""

    BLOCK_M: int
    BLOCK_C: int

    def grid(self, rows: int, channels: int) -> tuple[int]:
        """A program for each tile."""
        return (cdiv(rows, self.BLOCK_M) * cdiv(channels, self.BLOCK_C),)

    def split(self, rows: int, channels: int) -> Split:
        """Programs for a reduction over the rows, about REDUCING of them."""
        tiles, columns = cdiv(rows, self.BLOCK_M), cdiv(channels, self.BLOCK_C)
        per_program = cdiv(tiles * columns, REDUCING)
        parts = cdiv(tiles, per_program)
        return Split(per_program, parts, (parts * columns,))


MERGE = Tile(BLOCK_M=64, BLOCK_C=32)


def _tile(elements: int, channels: int, num_warps: int) -> Tile:
    block_c = min(power_of_2(channels), 64)  # 128 bytes of 2-byte elements
    if channels % 16:
        elements //= 2  # one access per element: registers for twice the addresses would spill
    return Tile(BLOCK_M=elements // block_c, BLOCK_C=block_c, num_warps=num_warps)


def elementwise(channels: int) -> tuple[Tile, ...]:
    """Candidates for kernels that read and write each element once."""
    return _tile(4096, channels, 4), _tile(8192, channels, 8)


def reduction(channels: int) -> tuple[Tile, ...]:
    """Candidates for reductions over rows: fewer elements per thread, as each has sums of its own."""
    return _tile(4096, channels, 8), _tile(2048, channels, 4)


def windows(channels: int) -> tuple[Tile, ...]:
    """Candidates for kernels with a window for each element: few elements per thread, as each loads many."""
    return _tile(2048, channels, 8), _tile(1024, channels, 4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gram(Product):
    """Tiles of moments [BLOCK_C, BLOCK_C], each summed over blocks of BLOCK_M rows."""

    BLOCK_M: int
    BLOCK_C: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class MergeGram(Config):
    """Tiles of moments [BLOCK, BLOCK], from BLOCK_SPLITS partial sums at a time."""

    BLOCK_SPLITS: int
    BLOCK: int


_GRAM_LARGE = Gram(BLOCK_M=32, BLOCK_C=128, num_warps=8, num_stages=3)
_GRAM_SMALL = Gram(BLOCK_M=64, BLOCK_C=64, num_warps=4, num_stages=3)
_GRAM_EXACT = Gram(BLOCK_M=16, BLOCK_C=32, num_warps=4, num_stages=2)
MERGE_GRAM = MergeGram(BLOCK_SPLITS=16, BLOCK=16, num_warps=8)


def gram(channels: int, dtype: torch.dtype, precision: str) -> tuple[Gram, ...]:
    """Candidates for moments of this many channels."""
    found = (_GRAM_SMALL,) if channels <= 64 else (_GRAM_LARGE, _GRAM_SMALL)
    return _sums_for_dtype(found, _GRAM_EXACT, dtype, precision)
