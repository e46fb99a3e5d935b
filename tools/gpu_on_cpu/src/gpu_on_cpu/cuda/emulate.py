"""Runs the launchers of a CUDA C++ source on the CPU."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch

from gpu_on_cpu import process
from gpu_on_cpu.cuda import build, watch
from gpu_on_cpu.errors import KernelFault

Value = torch.Tensor | int | float | None
Sanitizer = Literal["none", "address", "thread"]


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run left, apart from the tensors.

    Attributes:
        printed: what the kernels and the launcher printed.
        seconds: how long the program ran.
    """

    printed: str
    seconds: float


def emulate(
    source: str | os.PathLike[str],
    launcher: str,
    args: Mapping[str, Value] | Sequence[Value],
    *,
    outputs: Collection[str | int] | None = None,
    seed: int = 0,
    sanitizer: Sanitizer = "none",
    include: Sequence[str | os.PathLike[str]] = (),
    defines: Mapping[str, object] | None = None,
    timeout: float = 60.0,
    flags: Sequence[str] = (),
) -> Result:
    """Compiles a ``.cu`` source with the C++ compiler and calls one of its functions, which launches kernels.

    Args:
        source: path of the source, as nvcc would take it, without inline PTX.
        launcher: name of an ``extern "C"`` function of pointers, integers and floating-point numbers.
        args: its arguments in order: contiguous CPU tensors, numbers, None for a null pointer. A last pointer
            that is left out (a stream) is null.
        outputs: names (or positions) of the tensors that may change; None: all.
        seed: the schedule. 0 runs all threads in lock step, others take the warps in random order.
        sanitizer: "address" (with UndefinedBehaviorSanitizer) finds accesses out of bounds, misaligned ones
            and undefined arithmetic; "thread" finds races inside a block.
        include: folders of headers.
        defines: macros; None as a value defines an empty one.
        timeout: seconds after which the run counts as hung. Compiling is not counted.
        flags: further options of the C++ compiler.

    Returns:
        What was printed. Tensors are changed in place, and only if nothing went wrong.

    Raises:
        KernelFault: the run did something undefined, hung, or changed a tensor that is no output.
        CompilerError: the source does not compile.
        Unsupported: it has inline PTX.
        ValueError: an argument cannot be passed.
    """
    path = pathlib.Path(source).resolve()
    if sanitizer not in build.SANITIZERS:
        raise ValueError(f"sanitizer is one of {', '.join(build.SANITIZERS)}, not {sanitizer!r}")
    named: dict[str | int, Value] = dict(args.items() if isinstance(args, Mapping) else enumerate(args))
    written: set[str | int] = set(named) if outputs is None else set(outputs)
    if unknown := written - set(named):
        raise ValueError(f"outputs that are no arguments: {sorted(map(str, unknown))}")
    program = build.program(path, launcher, [*build.options(include, defines or {}), *flags], sanitizer)
    with tempfile.TemporaryDirectory(prefix="gpu_on_cpu-") as folder:
        tensors = _write_arguments(pathlib.Path(folder), named)
        result = _run(program, pathlib.Path(folder), launcher, seed, sanitizer, timeout)
        _read_back(pathlib.Path(folder) / "outputs", tensors, written)
    return result


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)


def _write_arguments(folder: pathlib.Path, named: Mapping[str | int, Value]) -> dict[str | int, torch.Tensor]:
    """Writes the files that the driver reads; returns the tensors in the order of their copies there."""
    lines: list[str] = []
    tensors: dict[str | int, torch.Tensor] = {}
    places: dict[tuple[int, int], int] = {}
    for number, (name, value) in enumerate(named.items()):
        if isinstance(value, torch.Tensor):
            place = _checked(name, value, places)
            if place in places:
                lines.append(f"same {places[place]}")
                continue
            if value.numel():
                places[place] = number
            tensors[name] = value
            file = folder / f"argument{number}"
            file.write_bytes(_bytes_of(value).numpy().tobytes())
            lines.append(f"tensor {file} {place[1]} {value.element_size()}")
        elif value is None:
            lines.append("null")
        elif isinstance(value, int):
            lines.append(f"integer {int(value)}")
        elif isinstance(value, float):
            lines.append(f"real {value.hex()}")
        else:
            raise ValueError(f"argument {name}: neither a tensor nor a number, but {type(value).__name__}")
    (folder / "arguments").write_text("\n".join(lines))
    return tensors


def _checked(name: str | int, tensor: torch.Tensor, places: Mapping[tuple[int, int], int]) -> tuple[int, int]:
    """Address and size of a tensor that can be passed."""
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise ValueError(f"argument {name}: not a contiguous tensor of the CPU")
    start, size = tensor.data_ptr(), tensor.numel() * tensor.element_size()
    for other, length in places:
        if (other, length) != (start, size) and start < other + length and other < start + size:
            raise ValueError(f"argument {name}: shares memory with a part of another argument")
    return start, size


def _run(
    program: pathlib.Path, folder: pathlib.Path, launcher: str, seed: int, sanitizer: str, timeout: float
) -> Result:
    environment = {"GPU_ON_CPU_SEED": str(seed), **watch.OPTIONS}
    prefix = watch.fixed_addresses() if sanitizer == "thread" else []
    files = [str(folder / name) for name in ("arguments", "printed", "outputs")]
    start = time.perf_counter()
    try:
        process.run([*prefix, str(program), *files, launcher], timeout, environment)
    except KernelFault as fault:
        raise watch.located(fault) from None
    return Result((folder / "printed").read_text(errors="replace"), time.perf_counter() - start)


def _read_back(file: pathlib.Path, tensors: Mapping[str | int, torch.Tensor], written: Collection[str | int]) -> None:
    """Copies the outputs into the tensors, after making sure that no other tensor has changed."""
    data = torch.frombuffer(bytearray(file.read_bytes() or b"\0"), dtype=torch.uint8)
    changes = []
    offset = 0
    for name, tensor in tensors.items():
        old = _bytes_of(tensor)
        new = data[offset : offset + old.numel()]
        offset += old.numel()
        if name in written:
            changes.append((old, new))
        elif not torch.equal(old, new):
            raise KernelFault(f"argument {name} was changed, but is not one of the outputs")
    for old, new in changes:
        old.copy_(new)
