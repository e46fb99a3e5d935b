"""Every op on activations of a ResNet at 224x224, per backend that has a kernel for it."""

from __future__ import annotations

import pytest
import torch

from benchmarks.cases import Setting
from benchmarks.op_arguments import ARGUMENTS, Sizes
from fused_resnet import backends, ops
from fused_resnet.analysis import synchronise

SHAPES = ((64, 56), (128, 28), (512, 7))  # channels, height = width


@pytest.mark.parametrize(("channels", "size"), SHAPES, ids=[f"{c}x{s}x{s}" for c, s in SHAPES])
@pytest.mark.parametrize("backend", backends.BACKENDS)
@pytest.mark.parametrize("op", ops.__all__)
def test_op(benchmark, setting: Setting, op: str, backend: str, channels: int, size: int) -> None:
    if why := backends.unavailable(backend):
        pytest.skip(why)
    dtype = torch.bfloat16 if setting.dtype == "bf16" else torch.float32
    torch.manual_seed(0)
    args = ARGUMENTS[op](Sizes(channels, size, setting.batch, setting.device, dtype))
    if op not in backends.BACKENDS[backend].OPS:
        pytest.skip(f"{backend} leaves {op} to the reference")
    if why := backends.BACKENDS[backend].refuses(op, args):
        pytest.skip(f"{backend} refuses: {why}")
    function = getattr(ops, op)
    benchmark.group = f"{op} {channels}x{size}x{size} {setting.dtype}"

    def run():
        function(*args)
        synchronise(setting.device)

    with backends.use_backend(backend), torch.no_grad():
        benchmark(run)
