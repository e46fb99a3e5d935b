"""What a kernel asked of global memory, per tensor and kind of access."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

SECTOR = 32  # bytes: the unit in which NVIDIA's caches and DRAM move data
KINDS = ("load", "store", "atomic")


@dataclasses.dataclass(frozen=True)
class Access:
    """One kind of access to one tensor. All figures but `instructions` are bytes.

    Attributes:
        requested: bytes that threads asked for, masked-off lanes not counted.
        sectors: 32-byte sectors touched, counted once per warp instruction (what leaves the load/store unit).
            In the interpreter, which has no warps, once per operation on a whole tile.
        block_sectors: the same, counted once per block (what a perfect first-level cache would let through).
        unique_sectors: the same, counted once per kernel (what a perfect second-level cache would let through).
        instructions: warp instructions (tile operations in the interpreter).
    """

    requested: int = 0
    sectors: int = 0
    block_sectors: int = 0
    unique_sectors: int = 0
    instructions: int = 0

    def __add__(self, other: Access) -> Access:
        return Access(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Accesses by (tensor name, kind), kind being "load", "store" or "atomic"."""

    accesses: Mapping[tuple[str, str], Access]

    def __getitem__(self, key: tuple[str, str]) -> Access:
        """An access nobody made is all zeros."""
        if key[1] not in KINDS:
            raise KeyError(f"kind must be one of {KINDS}, got {key[1]!r}")
        return self.accesses.get(key, Access())

    def total(self, kind: str | None = None) -> Access:
        """The sum over all tensors, of one kind or of all."""
        return sum((a for (_, k), a in self.accesses.items() if kind in (None, k)), Access())

    def rows(self) -> list[dict[str, object]]:
        """One dictionary per tensor and kind, for tables and CSV files."""
        return [{"tensor": t, "kind": k, **dataclasses.asdict(a)} for (t, k), a in sorted(self.accesses.items())]
