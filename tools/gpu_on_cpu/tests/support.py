"""Hand-written PTX kernels: a frame around a few instructions, run on tensors."""

from __future__ import annotations

import os
import pathlib

import torch

from gpu_on_cpu.ptx.module import Launch, Module
from gpu_on_cpu.ptx.parser import Instruction

# Registers: %p0-7, %h0-31 (16 bit), %r0-127 (32), %rd0-63 (64). %rd1 to %rd4 hold the addresses of a, b, c, d;
# %r1 is the thread's number in the block; buf is 16 KiB of shared memory.
FRAME = """
.version 8.8
.target sm_100a
.address_size 64
.visible .entry k(.param .u64 k_param_0, .param .u64 k_param_1, .param .u64 k_param_2, .param .u64 k_param_3)
.reqntid {threads}
{{
  .reg .pred %p<8>; .reg .b16 %h<32>; .reg .b32 %r<128>; .reg .b64 %rd<64>;
  .shared .align 1024 .b8 buf[16384];
  ld.param.u64 %rd1, [k_param_0]; ld.param.u64 %rd2, [k_param_1];
  ld.param.u64 %rd3, [k_param_2]; ld.param.u64 %rd4, [k_param_3];
  mov.u32 %r1, %tid.x;
  {body}
  ret;
}}
"""


def rand(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Normally distributed, the same every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def frame(body: str, threads: int = 32) -> str:
    return FRAME.format(body=body, threads=threads)


def run(
    body: str,
    a: torch.Tensor,
    b: torch.Tensor | None = None,
    c: torch.Tensor | None = None,
    d: torch.Tensor | None = None,
    *,
    threads: int = 32,
    blocks: int = 1,
    seed: int = 0,
    traffic: bool = False,
    outputs: tuple[str, ...] | None = None,
) -> Launch:
    """Runs `body` inside the frame; tensors that are not given have one element. Changed in place, as by a launch."""
    args = {name: torch.zeros(1) if t is None else t for name, t in dict(a=a, b=b, c=c, d=d).items()}
    module = Module(frame(body, threads), optimize="-O0")
    launch = module.launch("k", args, (blocks,), (threads,), seed=seed, traffic=traffic, timeout=20, outputs=outputs)
    record(module)
    return launch


def record(module: Module) -> None:
    """Notes the opcodes of a kernel that ran, for the check that every form of the table is executed (conftest.py)."""
    if folder := os.environ.get("GPU_ON_CPU_EXECUTED"):
        opcodes = {i.opcode for k in module.kernels.values() for i in k.body if isinstance(i, Instruction)}
        with open(pathlib.Path(folder) / f"{os.getpid()}.txt", "a") as f:
            f.write("".join(f"{o}\n" for o in sorted(opcodes)))
