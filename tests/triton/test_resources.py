"""Every kernel as compiled: what ptxas says. `test_ptx.py` asks the same of the architectures it executes."""

import pytest
import torch

from .support import ARCHS  # isort: skip  # noqa: F401

from fused_resnet.analysis.kernel_problems import PROBLEMS
from fused_resnet.analysis.kernel_table import GEMMS, kernels, problems
from tests.kernels_support import FORMATS

# Channels in multiples of 16: rows of activations that 16 bytes divide.
ALIGNED = (
    *("conv_fprop-1x1-tail", "conv_fprop_stats-3x3", "conv_fprop_dual-relu", "conv_dgrad_reduce-1x1"),
    *("conv_wgrad-1x1-wide", "gram-relu", "folded_dgrad-residual", "bn_act_bwd_reduce-y-out"),
    "bn_add_act-dual",
)


@pytest.mark.parametrize("family", sorted({name.partition("-")[0] for name in PROBLEMS}))
def test_sm_120(family):
    """The architecture with the least shared memory."""
    found = kernels(120, problems(family + "-", torch.bfloat16))
    assert found
    assert not [f"{k.name} {k.variant}: {k.why_not}" for k in found if k.why_not]
    assert all(k.tensor_core for k in found if k.name in GEMMS)
    assert all(0 < k.registers <= 255 for k in found)


@pytest.mark.parametrize("name", ALIGNED)
def test_sixteen_bytes_at_a_time(name):
    found = kernels(90, problems(name, FORMATS["bf16"].dtype))
    for k in found:
        if not k.name.startswith("merge"):
            assert k.wide > 0, f"{k.name} {k.variant}: {k.wide} of {k.accesses}"
