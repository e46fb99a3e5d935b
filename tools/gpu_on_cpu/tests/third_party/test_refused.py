"""What of these packages does not run, and why. The other tests here run all else, so that this list is true.

For the tutorials it is in test_tutorials.py.
"""

from __future__ import annotations

import types

import pytest
import torch
from triton.compiler import CompilationError

from gpu_on_cpu.triton.driver import emulate


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_liger_softmax_of_several_blocks(liger: types.SimpleNamespace, direction: str) -> None:
    """The package's mistake: these kernels call tl.float32, a type. Its host code never gets to them."""
    kernel = getattr(liger.softmax, f"_softmax_multi_block_{direction}_kernel")
    x, result = torch.randn(2, 77), torch.empty(2, 77)
    operands = {"forward": [result, 77, x, 77], "backward": [x, 77, x, 77, result, 77]}[direction]
    with emulate(90), pytest.raises(CompilationError, match=r"'dtype' object is not callable"):
        kernel[(2,)](*operands, 77, BLOCK_SIZE=32)
