"""Global memory of one interpreted launch: copies of the tensors, bounds, races and traffic.

Every tensor argument gets an address range of its own, far from all others, even where two arguments share
storage. So an address tells which argument it came from, and one that left its tensor lands in no other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import torch

from gpu_on_cpu.errors import KernelFault
from gpu_on_cpu.traffic import SECTOR, Access, Traffic

_SLOT_BITS = 41  # one address range of 2 TiB per argument; the tensor begins in its middle
_ALIGNMENT = 256  # what the CUDA allocator guarantees for a storage, and so for addresses inside it
_NOBODY, _SEVERAL = 0, -1  # owners besides 1 + program index


def _distinct(index: np.ndarray, scratch: np.ndarray) -> np.ndarray:
    """A mask that picks each value of `index` once, in linear time: `scratch` has a cell for each value."""
    lanes = np.arange(index.size, dtype=scratch.dtype)
    scratch[index] = lanes
    return scratch[index] == lanes


class _Owners:
    """Which programs wrote, read or atomically updated each granule (some bytes) of one storage."""

    def __init__(self, nbytes: int, granule: int) -> None:
        self.granule = granule
        self.writer, self.reader, self.updater, self._scratch = (
            np.zeros(-(-nbytes // granule), np.int32) for _ in range(4)
        )

    def granules(self, positions: np.ndarray, itemsize: int) -> np.ndarray:
        """Granules of each element: shape [elements, granules per element]."""
        if itemsize < self.granule:
            self._refine(itemsize)
        return positions[:, None] // self.granule + np.arange(itemsize // self.granule)

    def _refine(self, granule: int) -> None:
        """A pointer cast to a narrower type asks for smaller granules than the tensors' own elements."""
        factor, self.granule = self.granule // granule, granule
        for name in ("writer", "reader", "updater", "_scratch"):
            setattr(self, name, np.repeat(getattr(self, name), factor))

    def first_of_each(self, granules: np.ndarray) -> np.ndarray:
        return _distinct(granules[:, 0], self._scratch)

    @staticmethod
    def foreign(owners: np.ndarray, granules: np.ndarray, me: int) -> np.ndarray:
        """Per element: does anyone but `me` own a part of it?"""
        found = owners[granules]
        return ((found != _NOBODY) & (found != me)).any(axis=1)

    @staticmethod
    def claim(owners: np.ndarray, granules: np.ndarray, me: int) -> None:
        found = owners[granules]
        owners[granules] = np.where((found == _NOBODY) | (found == me), me, _SEVERAL)


class _Storage:
    """A copy of one torch storage, which several arguments may view."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.original = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
        self.copy = self.original.clone()
        self.bytes = self.copy.numpy()
        self.granule = tensor.element_size()
        self.owners: _Owners | None = None

    def cells(self, itemsize: int) -> np.ndarray:
        """The copy as unsigned integers of `itemsize` bytes."""
        return self.bytes[: self.bytes.size // itemsize * itemsize].view(f"u{itemsize}")

    def view_like(self, tensor: torch.Tensor) -> torch.Tensor:
        view = torch.empty(0, dtype=tensor.dtype)
        return view.set_(self.copy.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())


class _Meter:
    """Counts one kind of access to one tensor."""

    def __init__(self, sectors: int) -> None:
        self.requested = self.sectors = self.block_sectors = self.unique_sectors = self.instructions = 0
        self._last_program = np.full(sectors, -1, np.int32)
        self._scratch = np.zeros(sectors, np.int32)

    def count(self, sectors: np.ndarray, itemsize: int, program: int) -> None:
        touched = sectors[_distinct(sectors, self._scratch)]
        last = self._last_program[touched]
        self._last_program[touched] = program
        self.requested += sectors.size * itemsize
        self.sectors += touched.size * SECTOR
        self.block_sectors += int((last != program).sum()) * SECTOR
        self.unique_sectors += int((last < 0).sum()) * SECTOR
        self.instructions += 1

    def access(self) -> Access:
        return Access(self.requested, self.sectors, self.block_sectors, self.unique_sectors, self.instructions)


class _Region:
    """One tensor argument: where it begins in its storage and in the address space, how far it reaches."""

    def __init__(self, name: str, tensor: torch.Tensor, storage: _Storage, slot: int) -> None:
        self.name, self.storage, self.itemsize = name, storage, tensor.element_size()
        self.start = int(tensor.storage_offset()) * self.itemsize
        last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        self.extent = int(last + 1) * self.itemsize if tensor.numel() else 0
        self.head = self.start % _ALIGNMENT
        self.address = (slot << _SLOT_BITS) + (1 << (_SLOT_BITS - 1)) + self.head
        self.meters: dict[str, _Meter] = {}

    def count(self, kind: str, offsets: np.ndarray, itemsize: int, program: int) -> None:
        if kind not in self.meters:
            self.meters[kind] = _Meter(-(-(self.head + self.extent) // SECTOR))
        self.meters[kind].count((offsets + self.head) // SECTOR, itemsize, program)

    def at(self, offset: int) -> str:
        return f"{self.name}[{offset // self.itemsize}]"


class Memory:
    """Global memory as the programs of one launch see it.

    Programs run one after another; set `program` (a running number) and `block` (for reports) before each.
    All methods that take `addresses` want int64, shape [elements], active lanes only, and raise KernelFault.

    Args:
        tensors: the tensor arguments, by name. They are copied; `commit` writes the copies back.
        outputs: names that may be written, or None for all.
    """

    def __init__(self, tensors: Mapping[str, torch.Tensor], outputs: Collection[str] | None = None) -> None:
        self.program, self.block, self.redundant_stores = 0, (0, 0, 0), 0
        self._outputs = frozenset(tensors if outputs is None else outputs)
        self._storages: dict[tuple[int, int], _Storage] = {}
        self._regions: list[_Region] = []
        self.copies: dict[str, torch.Tensor] = {}
        for slot, (name, tensor) in enumerate(tensors.items(), start=1):
            storage = self._storage(tensor)
            self._regions.append(_Region(name, tensor, storage, slot))
            self.copies[name] = storage.view_like(tensor)
        # What nobody may write needs no record of who read it.
        for storage in {id(r.storage): r.storage for r in self._regions if r.name in self._outputs}.values():
            storage.owners = _Owners(storage.bytes.size, storage.granule)

    def _storage(self, tensor: torch.Tensor) -> _Storage:
        key = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
        if key not in self._storages:
            self._storages[key] = _Storage(tensor)
        return self._storages[key]

    def address(self, name: str) -> int:
        """Address of the first element of a tensor."""
        return next(region.address for region in self._regions if region.name == name)

    def load(self, addresses: np.ndarray, itemsize: int) -> np.ndarray:
        """Elements as unsigned integers of `itemsize` bytes, shape [elements]."""
        values = np.empty(addresses.size, f"u{itemsize}")
        for region, lanes, offsets in self._access("load", addresses, itemsize):
            positions = offsets + region.start
            self._note_load(region, offsets, itemsize)
            values[lanes] = region.storage.cells(itemsize)[positions // itemsize]
        return values

    def store(self, addresses: np.ndarray, values: np.ndarray) -> None:
        """Writes `values`, unsigned integers, shape [elements]."""
        for region, lanes, offsets in self._access("store", addresses, values.itemsize):
            self._store(region, offsets, values[lanes])

    def atomic(self, addresses: np.ndarray, itemsize: int) -> np.ndarray:
        """Checks and counts an atomic operation. Returns real addresses for it: uint64, shape [elements]."""
        real = np.empty(addresses.size, np.uint64)
        for region, lanes, offsets in self._access("atomic", addresses, itemsize):
            self._note_atomic(region, offsets, itemsize)
            real[lanes] = (offsets + region.start + region.storage.bytes.ctypes.data).astype(np.uint64)
        return real

    def commit(self) -> None:
        """Writes what changed back into the user's tensors."""
        for storage in self._storages.values():
            if not torch.equal(storage.original, storage.copy):
                storage.original.copy_(storage.copy)

    def traffic(self) -> Traffic:
        return Traffic({(r.name, kind): meter.access() for r in self._regions for kind, meter in r.meters.items()})

    def _fault(self, reason: str) -> KernelFault:
        return KernelFault(reason, block=self.block)

    def _access(
        self, kind: str, addresses: np.ndarray, itemsize: int
    ) -> Iterator[tuple[_Region, slice | np.ndarray, np.ndarray]]:
        """Checks and counts an access. Yields for each tensor in it the lanes, and their offsets in bytes."""
        slots = addresses >> _SLOT_BITS
        one_tensor = bool((slots == slots[0]).all())
        for slot in slots[:1].tolist() if one_tensor else np.unique(slots).tolist():
            lanes = slice(None) if one_tensor else slots == slot
            if not 0 < slot <= len(self._regions):
                wrong = int(addresses[lanes][0])
                raise self._fault(f"out of bounds: {kind} at {wrong % 2**64:#x}, which is in no tensor")
            region = self._regions[slot - 1]
            offsets = addresses[lanes] - region.address
            self._check(region, kind, offsets, itemsize)
            region.count(kind, offsets, itemsize, self.program)
            yield region, lanes, offsets

    def _check(self, region: _Region, kind: str, offsets: np.ndarray, itemsize: int) -> None:
        outside = (offsets < 0) | (offsets + itemsize > region.extent)
        if outside.any():
            first, size = int(offsets[outside][0]), region.extent // region.itemsize
            raise self._fault(
                f"out of bounds: {kind} of {itemsize} bytes at {region.at(first)} (byte {first}); "
                f"{region.name} spans {size} elements ({region.extent} bytes)"
            )
        misaligned = (offsets + region.head) % itemsize != 0
        if misaligned.any():
            first = int(offsets[misaligned][0])
            raise self._fault(f"misaligned: {kind} of {itemsize} bytes at byte {first} of {region.name}")
        if kind != "load" and region.name not in self._outputs:
            raise self._fault(f"{kind} to {region.name}, which is not an output")

    def _race(self, region: _Region, offsets: np.ndarray, racing: np.ndarray, what: str) -> None:
        if racing.any():
            raise self._fault(f"race: {what.format(region.at(int(offsets[racing][0])))}")

    def _note_load(self, region: _Region, offsets: np.ndarray, itemsize: int) -> None:
        owners, me = region.storage.owners, self.program + 1
        if owners is None:
            return
        granules = owners.granules(offsets + region.start, itemsize)
        self._race(
            region,
            offsets,
            owners.foreign(owners.writer, granules, me),
            "read of {}, which another program wrote",
        )
        atomic = owners.foreign(owners.updater, granules, me)
        self._race(region, offsets, atomic, "plain read of {}, which another program updated atomically")
        owners.claim(owners.reader, granules, me)

    def _note_atomic(self, region: _Region, offsets: np.ndarray, itemsize: int) -> None:
        owners, me = region.storage.owners, self.program + 1
        assert owners is not None  # outputs have them
        granules = owners.granules(offsets + region.start, itemsize)
        plain = owners.foreign(owners.writer, granules, me) | owners.foreign(owners.reader, granules, me)
        self._race(region, offsets, plain, "atomic on {}, which another program read or wrote without one")
        owners.claim(owners.updater, granules, me)

    def _store(self, region: _Region, offsets: np.ndarray, values: np.ndarray) -> None:
        owners, me = region.storage.owners, self.program + 1
        assert owners is not None  # outputs have them
        positions = offsets + region.start
        granules = owners.granules(positions, values.itemsize)
        read = owners.foreign(owners.reader, granules, me)
        self._race(region, offsets, read, "write to {}, which another program read")
        atomic = owners.foreign(owners.updater, granules, me)
        self._race(region, offsets, atomic, "plain write to {}, which another program updated atomically")
        cells, index = region.storage.cells(values.itemsize), positions // values.itemsize
        written = owners.foreign(owners.writer, granules, me)
        differs = written & (cells[index] != values)
        self._race(region, offsets, differs, "two programs wrote different values to {}")
        cells[index] = values
        # Of several lanes on one element the last stays: the others then read something they did not write.
        self._race(region, offsets, cells[index] != values, "one store wrote different values to {}")
        owners.claim(owners.writer, granules, me)
        once = owners.first_of_each(granules)
        self.redundant_stores += int((written & once).sum() + (~once).sum())
