"""The arguments of a Triton kernel as the parameters of its PTX, as Triton's own launcher passes them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpu_on_cpu.ptx.arguments import Argument
from gpu_on_cpu.ptx.module import Launch, Module
from gpu_on_cpu.ptx.tensor_map import SWIZZLES, TensorMap

TF32 = 11  # element type of a tensor map


SCRATCH = ("global scratch", "profile scratch")  # the pointers that Triton appends to a kernel's parameters


def parameters(source: Any, metadata: Any, values: Sequence[Any]) -> dict[str, Argument]:
    """The parameters of a compiled kernel.

    Args:
        source, metadata: `src` and `metadata` of Triton's CompiledKernel.
        values: of all arguments of the @triton.jit function, in order.
    """
    signature = dict(source.signature)
    return flatten(list(signature), list(signature.values()), values, getattr(metadata, "tensordesc_meta", None))


def launch(module: Module, metadata: Any, args: Mapping[str, Argument], grid: Sequence[int], **options: Any) -> Launch:
    """Launches a module as Triton's launcher would: with its block, shared memory and scratch."""
    missing = len(module.kernels[metadata.name].parameters) - len(args)
    blocks = math.prod(grid)
    sizes = (getattr(metadata, f"{kind}_scratch_size", 0) * blocks for kind in ("global", "profile"))
    scratch = dict(zip(SCRATCH[:missing], sizes, strict=False))
    block = (metadata.num_warps * 32,)
    return module.launch(metadata.name, args, grid, block, metadata.shared, scratch=scratch, **options)


def flatten(
    names: Sequence[str],
    signature: Sequence[Any],
    values: Sequence[Any],
    descriptors: Sequence[Mapping[str, Any]] | None,
) -> dict[str, Argument]:
    """Parameters by name, in order.

    Args:
        names, signature, values: of the kernel's arguments; a signature is Triton's type name, a tuple of such for a
            tuple, or "constexpr" for what is no parameter.
        descriptors: how each tensor descriptor is laid out in shared memory (the compiler's `tensordesc_meta`); empty
            where the architecture has no tensor memory accelerator.
    """
    maps = iter(descriptors or ())
    return dict(leaf for n, s, v in zip(names, signature, values, strict=True) for leaf in _leaves(n, s, v, maps))


def _leaves(name: str, signature: Any, value: Any, maps: Iterator[Mapping[str, Any]]) -> Iterator[tuple[str, Argument]]:
    if isinstance(signature, tuple):
        for i, (s, v) in enumerate(zip(signature, value, strict=True)):
            yield from _leaves(f"{name}.{i}", s, v, maps)
    elif signature.startswith("tensordesc"):
        yield from _descriptor(name, value, next(maps, None))
    elif signature != "constexpr":
        yield name, float(value) if signature.startswith("fp") else value


def _descriptor(name: str, value: Any, layout: Mapping[str, Any] | None) -> Iterator[tuple[str, Argument]]:
    """A host-made descriptor: a tensor map, or the base pointer with everything else, then shape and strides."""
    shape, strides = list(value.shape), list(value.strides)
    if layout is None:
        yield name, value.base
        yield from ((f"{name}.shape64.{i}", n) for i, n in enumerate(shape))
        yield from ((f"{name}.strides64.{i}", n) for i, n in enumerate(strides))
        yield f"{name}.padding", value.padding == "nan"
        yield f"{name}.round", bool(value.round_f32_to_tf32)
    else:
        yield name, tensor_map(value, layout)
    yield from ((f"{name}.shape.{i}", n) for i, n in enumerate(shape))
    yield from ((f"{name}.strides.{i}", n) for i, n in enumerate(strides))


def tensor_map(descriptor: Any, layout: Mapping[str, Any]) -> TensorMap:
    if layout.get("is_im2col") or layout["fp4_padded"]:
        raise ValueError("im2col and fp4 tensor descriptors are not modelled")
    swizzle = {mode: size for size, mode in SWIZZLES.items()}[layout["swizzle"]]
    kind = TF32 if descriptor.round_f32_to_tf32 else layout["elem_type"]
    return TensorMap(
        descriptor.base,
        list(descriptor.shape),
        list(descriptor.strides),
        layout["block_size"],
        swizzle,
        kind,
        descriptor.padding == "nan",
    )
