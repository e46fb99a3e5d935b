"""A load that races with a store of its block, no barrier between, is a fault only if its value matters."""

from __future__ import annotations

import pytest
import torch
from support import run

from gpu_on_cpu.errors import KernelFault

# Thread 0 stores 5 to a[0], all others load it.
RACE = """
setp.eq.u32 %p1, %r1, 0; mov.u32 %r2, 5;
@%p1 st.global.u32 [%rd1], %r2;
@!%p1 ld.global.u32 %r2, [%rd1];
"""
INDEX = "mul.wide.u32 %rd5, %r1, 4; add.u64 %rd6, %rd2, %rd5;"


@pytest.mark.parametrize("seed", [0, 1])
def test_a_value_that_is_not_used_is_no_fault(seed: int) -> None:
    a, b = torch.zeros(1, dtype=torch.int32), torch.zeros(32, dtype=torch.int32)
    run(RACE + INDEX + "add.u32 %r3, %r2, 1; @%p1 st.global.u32 [%rd6], %r3;", a, b, seed=seed)
    assert a.item() == 5
    assert b.tolist() == [6] + 31 * [0]


def test_a_value_that_is_stored_is_a_fault() -> None:
    a, b = torch.zeros(1, dtype=torch.int32), torch.zeros(32, dtype=torch.int32)
    with pytest.raises(KernelFault, match="reads another thread's value"):
        run(RACE + INDEX + "st.global.u32 [%rd6], %r2;", a, b)
    assert a.item() == 0


def test_a_value_that_is_an_address_is_a_fault() -> None:
    """Its complement leads out of every tensor; what is reported is the load."""
    a, b = torch.zeros(1, dtype=torch.int32), torch.zeros(32, dtype=torch.int32)
    with pytest.raises(KernelFault, match="reads another thread's value"):
        run(RACE + "mul.wide.u32 %rd5, %r2, 4; add.u64 %rd6, %rd2, %rd5; ld.global.u32 %r3, [%rd6];", a, b)
