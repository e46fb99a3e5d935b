"""The parameters of a launch: checked against the kernel's signature, then laid out as the kernel reads them."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Collection, Mapping, Sequence

import torch

from gpu_on_cpu.memory import SharedCopies
from gpu_on_cpu.ptx import tensor_map
from gpu_on_cpu.ptx.parser import Kernel
from gpu_on_cpu.ptx.tensor_map import TensorMap


@dataclasses.dataclass(frozen=True)
class Struct:
    """A parameter that is a structure with pointers in it.

    Attributes:
        data: its bytes; what they hold where a pointer is does not matter.
        pointers: offset in `data`, a multiple of 8 -> the tensor that the word there points into, and how many bytes
            past its first element. Tensor "8" of parameter "p" is called "p[8]" among outputs and in traffic.
    """

    data: bytes
    pointers: Mapping[int, tuple[torch.Tensor, int]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for offset in self.pointers:
            if offset % 8 or not 0 <= offset <= len(self.data) - 8:
                raise ValueError(f"offset {offset} is no 8-byte word of a structure of {len(self.data)} bytes")

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        return {f"{name}[{offset}]": t for offset, (t, _) in self.pointers.items()}

    def pack(self, name: str, offsets: Mapping[str, int]) -> bytes:
        """The bytes with pointers to tensors that lie at these offsets."""
        packed = bytearray(self.data)
        for offset, (_, inside) in self.pointers.items():
            struct.pack_into("<Q", packed, offset, offsets[f"{name}[{offset}]"] + inside)
        return bytes(packed)


Argument = torch.Tensor | TensorMap | Struct | int | float | bytes
Given = tuple[str, Argument | None, int]  # name, value (None: a scratch area), bytes of the parameter


def three(extents: Sequence[int]) -> tuple[int, int, int]:
    x, y, z = (*extents, 1, 1)[:3]
    return int(x), int(y), int(z)


def check_arguments(
    kernels: Mapping[str, Kernel],
    kernel: str,
    args: Mapping[str, Argument],
    grid: Sequence[int],
    block: Sequence[int],
    outputs: Collection[str] | None,
    scratch: Mapping[str, int],
) -> list[Given]:
    """The parameters in order; raises ValueError or TypeError for what does not fit."""
    if kernel not in kernels:
        raise ValueError(f"kernel must be one of {sorted(kernels)}, got {kernel!r}")
    for name, extents in (("grid", grid), ("block", block)):
        if not 1 <= len(extents) <= 3 or any(int(n) < 1 for n in extents):
            raise ValueError(f"{name} must be one to three positive extents, got {tuple(extents)}")
    if three(block)[0] * three(block)[1] * three(block)[2] > 1024:
        raise ValueError(f"block may have 1024 threads, got {tuple(block)}")
    parameters = kernels[kernel].parameters
    given: list[tuple[str, Argument | None]] = [*args.items(), *((name, None) for name in scratch)]
    if len(given) != len(parameters):
        raise ValueError(
            f"{kernel} has {len(parameters)} parameters, got {len(given)} arguments: {[n for n, _ in given]}"
        )
    tensors = tensors_of(args)
    for name in outputs or ():
        if name not in tensors:
            raise ValueError(f"outputs must name tensors among the arguments, got {name!r}")
    checked = [(name, value, p.size) for (name, value), p in zip(given, parameters, strict=True)]
    for name, value, size in checked:
        _check_argument(name, value, size)
    return checked


def _check_tensor(name: str, t: torch.Tensor) -> None:
    if t.device.type != "cpu" or t.layout != torch.strided:
        raise ValueError(f"{name} must be a dense CPU tensor, got {t.layout} on {t.device}")


def tensors_of(args: Mapping[str, Argument]) -> dict[str, torch.Tensor]:
    """The tensors that a launch touches; that of a tensor map has the map's name."""
    found: dict[str, torch.Tensor] = {}
    for name, v in args.items():
        if isinstance(v, Struct):
            found |= v.tensors(name)
        elif isinstance(v, (TensorMap, torch.Tensor)):
            found[name] = v.tensor if isinstance(v, TensorMap) else v
    return found


def areas_of(args: Mapping[str, Argument]) -> dict[str, int]:
    """Arguments that are passed as bytes lie in areas of their own: name and size."""
    areas = {name: len(v) for name, v in args.items() if isinstance(v, bytes)}
    areas |= {name: len(v.data) for name, v in args.items() if isinstance(v, Struct)}
    return areas | {_map_area(name): tensor_map.BYTES for name, v in args.items() if isinstance(v, TensorMap)}


def _map_area(name: str) -> str:
    return f"{name} (tensor map)"


def _check_argument(name: str, value: Argument | None, size: int) -> None:
    if isinstance(value, TensorMap):
        _check_tensor(name, value.tensor)
        if size != tensor_map.BYTES:
            raise ValueError(f"{name}: a tensor map was given for a parameter of {size} bytes")
    elif isinstance(value, torch.Tensor):
        _check_tensor(name, value)
        if size != 8:
            raise ValueError(f"{name}: a tensor was given for a parameter of {size} bytes")
    elif isinstance(value, (bytes, Struct)):
        data = value.data if isinstance(value, Struct) else value
        for label, t in value.tensors(name).items() if isinstance(value, Struct) else ():
            _check_tensor(label, t)
        if len(data) != size:
            raise ValueError(f"{name}: {len(data)} bytes were given for a parameter of {size} bytes")
    elif isinstance(value, (bool, int, float)):
        if size > 8 or (isinstance(value, float) and size not in (4, 8)):
            raise ValueError(f"{name}: a number was given for a parameter of {size} bytes")
        if isinstance(value, int) and not -(1 << 8 * size - 1) <= value < 1 << 8 * size:
            raise ValueError(f"{name}: {value} does not fit a parameter of {size} bytes")
    elif value is not None:
        raise TypeError(f"{name} must be a tensor, a number or bytes, got {type(value).__name__}")


VALUE, ADDRESS, BYTES = range(3)  # kinds of parameters, as in cpp/ptx/main.cpp


def parameter_words(given: Sequence[Given], copies: SharedCopies) -> list[int]:
    """(kind, value) of every parameter, one after another; areas are filled."""
    words: list[int] = []
    for name, value, size in given:
        if isinstance(value, TensorMap):
            area = copies.offsets[_map_area(name)]
            copies.write(area, value.pack(copies.offsets[name]))
            words += BYTES, area
        elif isinstance(value, (bytes, Struct)):
            data = value.pack(name, copies.offsets) if isinstance(value, Struct) else value
            copies.write(copies.offsets[name], data)
            words += BYTES, copies.offsets[name]
        elif value is None or isinstance(value, torch.Tensor):
            words += ADDRESS, copies.offsets[name]
        elif isinstance(value, float):
            words += VALUE, int.from_bytes(struct.pack("<f" if size == 4 else "<d", value), "little")
        else:
            words += VALUE, int(value) & (1 << 64) - 1
    return words


def relocations(given: Sequence[Given], copies: SharedCopies) -> list[int]:
    """Offsets of the words in areas that are addresses, which the other side must add its own start to."""
    words: list[int] = []
    for name, value, _ in given:
        if isinstance(value, TensorMap):
            words.append(copies.offsets[_map_area(name)])
        elif isinstance(value, Struct):
            words += (copies.offsets[name] + offset for offset in value.pointers)
    return words
