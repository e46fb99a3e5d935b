"""A file of cases, as the command line takes it: one right kernel, one whose reference it does not meet."""

from __future__ import annotations

import torch
import triton_kernels as kernels

from gpu_on_cpu.case import DTYPES, Case, Expected

SIZES = (300, 257, 200, 129, 77)


def scale(dtype: str, factor: float = 3.0) -> list[Case]:
    cases = []
    for n in SIZES:
        x = torch.randn(n, generator=torch.Generator().manual_seed(n)).to(DTYPES[dtype])
        args = dict(x=x, y=torch.empty_like(x), n=n, factor=3.0)
        cases.append(Case(kernels.scale, args, (3,), {"y": Expected(x.double() * factor)}, dict(BLOCK=128)))
    return cases


def wrong(dtype: str) -> list[Case]:
    return scale(dtype, factor=2.0)


CASES = {"scale": scale, "wrong": wrong}
