"""Runs what torch.compile generates for a GPU: Inductor's Triton code, with its choice of blocks, on the CPU.

Inductor writes Triton for CPU tensors too (`cpu_backend = "triton"`). What it would then do with that code
(look for a driver, time the configurations, launch) is replaced; the code itself, the heuristics that choose
the sizes of blocks, and the wrapper that allocates and calls are Inductor's own.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import third_party_sources as sources
import torch
import triton
from torch._inductor import config
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.runtime import triton_helpers
from torch._inductor.runtime.hints import DeviceProperties
from torch._inductor.runtime.triton_heuristics import CachingAutotuner

from gpu_on_cpu.triton.driver import Record, emulate


def properties(arch: int) -> DeviceProperties:
    return DeviceProperties(
        type="cuda",
        index=0,
        multi_processor_count={80: 108, 90: 132, 100: 148}[arch],
        cc=arch,
        major=arch // 10,
        regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=2048,
        max_threads_per_block=1024,
        warp_size=32,
    )


class Kernel:
    """What the wrapper calls instead of Inductor's autotuner."""

    def __init__(self, tuner: CachingAutotuner) -> None:
        self.tuner = tuner

    def run(self, *args: Any, stream: int) -> None:
        function, chosen = self.tuner.fn, self.tuner.configs[0]
        sizes = dict(zip(function.arg_names, args, strict=False))
        dimensions = {"Grid1D": "x", "Grid2D": "xy"}[self.tuner.inductor_meta["grid_type"]]
        grid = [triton.cdiv(sizes[f"{d}numel"], chosen.kwargs[f"{d.upper()}BLOCK"]) for d in dimensions]
        function[grid](*args, **chosen.kwargs, num_warps=chosen.num_warps, num_stages=chosen.num_stages)


@contextlib.contextmanager
def compiling_for(arch: int, seed: int, folder: pathlib.Path) -> Iterator[list[Record]]:
    """Within this context torch.compile makes GPU code of CPU modules, and calling the result executes it."""

    def kernel(compiler: AsyncCompile, name: str, source: str, device_str: str = "") -> Kernel:
        path = folder / f"{name}.py"
        path.write_text(source)
        return Kernel(getattr(sources.load(path), name))

    torch._dynamo.reset()
    with (
        config.patch(cpu_backend="triton", force_disable_caches=True, compile_threads=1),
        mock.patch.object(AsyncCompile, "triton", kernel),
        mock.patch.object(DeviceProperties, "create", lambda device: properties(arch)),
        mock.patch.object(triton_helpers, "set_driver_to_cpu", lambda: None),
        emulate(arch, seed) as records,
    ):
        yield records
    torch._dynamo.reset()
