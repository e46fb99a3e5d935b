"""What of these packages does not run, and why. The other tests here run all else, so that this list is true.

For the tutorials it is in test_tutorials.py.
"""

from __future__ import annotations

import types

import pytest
import torch
from test_wheel_kernels import launch_attention
from triton.compiler import CompilationError

from gpu_on_cpu.errors import KernelFault
from gpu_on_cpu.triton.driver import emulate


def test_attention_with_64_rows_on_sm_100(attention: types.ModuleType) -> None:
    """The emulator's limit: a left operand in tensor memory (the weights) is modelled for 128 rows."""
    q, k, v = (torch.randn(1, 1, 40, 32).half() for _ in range(3))
    with pytest.raises(KernelFault, match=r"A in tensor memory is modelled for M = 128"):
        launch_attention(attention, q, k, v, 100, 0, False, rows=64)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_liger_softmax_of_several_blocks(liger: types.SimpleNamespace, direction: str) -> None:
    """The package's mistake: these kernels call tl.float32, a type. Its host code never gets to them."""
    kernel = getattr(liger.softmax, f"_softmax_multi_block_{direction}_kernel")
    x, result = torch.randn(2, 77), torch.empty(2, 77)
    operands = {"forward": [result, 77, x, 77], "backward": [x, 77, x, 77, result, 77]}[direction]
    with emulate(90), pytest.raises(CompilationError, match=r"'dtype' object is not callable"):
        kernel[(2,)](*operands, 77, BLOCK_SIZE=32)
