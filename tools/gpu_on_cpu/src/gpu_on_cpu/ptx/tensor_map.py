"""Tensor maps made by the host (CUtensorMap of the driver API)."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence

import torch

BYTES = 128
# "tensormap.replace", field elemtype
ELEMENT_TYPES = {
    torch.uint8: 0,
    torch.uint16: 1,
    torch.uint32: 2,
    torch.int32: 3,
    torch.uint64: 4,
    torch.int64: 5,
    torch.float16: 6,
    torch.float32: 7,
    torch.float64: 9,
    torch.bfloat16: 10,
}
SWIZZLES = {0: 0, 32: 1, 64: 2, 128: 3}  # bytes of the pattern -> field swizzle_mode


@dataclasses.dataclass(frozen=True)
class TensorMap:
    """A tensor and the box that one copy moves; dimensions from the outermost to the innermost, as in torch.

    Attributes:
        tensor: what the copies read or write; the innermost stride is 1.
        shape, strides: in elements.
        box: extents of a tile.
        swizzle: bytes of the pattern in shared memory: 0, 32, 64 or 128.
        element_type: number of the type in the PTX ISA; None: that of the tensor.
        nan_fill: fill with NaN outside the tensor instead of 0.
    """

    tensor: torch.Tensor
    shape: Sequence[int]
    strides: Sequence[int]
    box: Sequence[int]
    swizzle: int = 0
    element_type: int | None = None
    nan_fill: bool = False

    def pack(self, address: int) -> bytes:
        """The map's bytes, as cpp/ptx/tma.h reads them, for a tensor at this address."""
        rank, size = len(self.shape), self.tensor.element_size()
        kind = ELEMENT_TYPES[self.tensor.dtype] if self.element_type is None else self.element_type
        strides = [s * size for s in self.strides[::-1]][1:]
        padded = [[*v, *[0] * (5 - len(v))] for v in (strides, self.shape[::-1], self.box[::-1], [1] * rank)]
        numbers = [
            address,
            *padded[0][:4],
            *padded[1],
            *padded[2],
            *padded[3],
            rank,
            kind,
            0,
            SWIZZLES[self.swizzle],
            int(self.nan_fill),
        ]
        return struct.pack("<Q4Q5I5H5H5B43x", *numbers)
