"""Copies of a kernel's tensors in memory that another process can map.

They lie far enough apart that a stray access hits nothing.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
from collections.abc import Collection, Mapping

import torch

GUARD = 1 << 16  # bytes around every tensor that no access may touch
ALIGNMENT = 16  # all that a kernel may rely on: torch's allocators give more, views of their tensors do not
FULL_ALIGNMENT = 256  # what torch's allocators give; sectors of traffic are counted from there


def span_bytes(t: torch.Tensor) -> int:
    """Bytes from a tensor's first element to its last, whatever its strides."""
    if t.numel() == 0:
        return 0
    return (1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))) * t.element_size()


@dataclasses.dataclass
class Region:
    """Bytes that one tensor covers, or several that overlap; or an area that is no tensor's.

    Attributes:
        name: of the tensor, or of all of them joined by "+".
        storage: the caller's memory; None for an area.
        start: address of the first byte of the caller's memory.
        offset: where it lies in the shared memory.
    """

    name: str
    members: list[str]
    storage: torch.UntypedStorage | None
    start: int
    size: int
    offset: int = 0

    def bytes(self) -> torch.Tensor:
        """The caller's memory."""
        assert self.storage is not None
        first = self.start - self.storage.data_ptr()
        return torch.empty(0, dtype=torch.uint8).set_(self.storage, first, (self.size,), (1,))


def regions_of(tensors: Mapping[str, torch.Tensor]) -> list[Region]:
    """One region for every group of overlapping tensors."""
    regions: list[Region] = []
    for name, t in tensors.items():
        new = Region(name, [name], t.untyped_storage(), t.data_ptr(), span_bytes(t))
        for r in [r for r in regions if new.start < r.start + r.size and r.start < new.start + new.size]:
            start, end = min(r.start, new.start), max(r.start + r.size, new.start + new.size)
            new = Region(f"{r.name}+{new.name}", r.members + new.members, new.storage, start, end - start)
            regions.remove(r)
        regions.append(new)
    return regions


class SharedCopies:
    """The tensors of one launch in shared memory; tensors that overlap do so there too.

    Args:
        tensors: CPU tensors by name.
        areas: sizes in bytes of further zero-filled areas, by name.
        header: bytes at the start that are for something else.
        aligned: place tensors at FULL_ALIGNMENT; otherwise they get no more than what their own address promises, and
            at most ALIGNMENT.

    Attributes:
        descriptor: the file descriptor of the memory, open until `close`.
        offsets: of each tensor's first element and of each area.
    """

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        areas: Mapping[str, int],
        header: int,
        aligned: bool = False,
    ) -> None:
        self.regions = regions_of(tensors) + [Region(name, [name], None, 0, size) for name, size in areas.items()]
        end = header + GUARD
        self.offsets: dict[str, int] = {}
        for r in self.regions:
            promised = r.start % ALIGNMENT
            r.offset = -(-end // FULL_ALIGNMENT) * FULL_ALIGNMENT + (
                promised if aligned or r.storage is None else ALIGNMENT + promised
            )
            self.offsets |= {
                name: r.offset + (tensors[name].data_ptr() - r.start if r.storage is not None else 0)
                for name in r.members
            }
            end = r.offset + r.size + GUARD
        self.descriptor = os.memfd_create("gpu_on_cpu")
        os.truncate(self.descriptor, end)
        self.all = torch.frombuffer(mmap.mmap(self.descriptor, end), dtype=torch.uint8)
        for r in self.regions:
            if r.storage is not None:
                self.copy(r).copy_(r.bytes())

    def copy(self, r: Region) -> torch.Tensor:
        """The bytes of a region in the shared memory."""
        return self.all[r.offset : r.offset + r.size]

    def write(self, offset: int, data: bytes) -> None:
        self.all[offset : offset + len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)

    def write_back(self, names: Collection[str]) -> None:
        """Gives the caller what the kernel made of these tensors."""
        for r in self.regions:
            if r.storage is not None and set(names) & set(r.members):
                r.bytes().copy_(self.copy(r))

    def close(self) -> None:
        os.close(self.descriptor)
