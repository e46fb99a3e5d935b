"""What the tests of both backends of GPU kernels share."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from fused_resnet.analysis import kernel_truth
from fused_resnet.analysis.kernel_problems import Configuration


class Format(NamedTuple):
    """Storage and how tensor cores multiply it."""

    dtype: torch.dtype
    tf32: bool = True

    def use(self) -> torch.dtype:
        torch.backends.cudnn.allow_tf32 = self.tf32
        return self.dtype


FORMATS = {
    "bf16": Format(torch.bfloat16),
    "fp16": Format(torch.float16),
    "tf32": Format(torch.float32),
    "fp32": Format(torch.float32, tf32=False),
}

# Of every family of kernels one problem or two, so that all tiles are among them.
REPRESENTATIVES = (
    "conv_fprop-1x1-tail",
    "conv_fprop-1x1-odd",
    "conv_fprop-stem",
    "conv_fprop_stats-3x3",
    "conv_dgrad-3x3-stride2",
    "conv_dgrad_reduce-1x1",
    "conv_wgrad-3x3",
    "conv_wgrad-1x1-wide",
    "conv_wgrad_masked-1x1",
    "gram-relu",
    "folded_dgrad-stride2-residual-odd",
    "conv_fprop_dual-relu",
    "bn_stats-odd",
    "bn_add_act-dual",
    "bn_act_bwd_reduce-dual",
    "bn_act_bwd_apply-y",
    "bn_act_maxpool-stem",
    "bn_act_maxpool_bwd_reduce-stem",
)


@pytest.fixture(autouse=True)
def _poisoned():
    """torch.empty gives NaN (255 for bytes): what a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _keeps_precision():
    before = torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32 = before


def bits(t: torch.Tensor) -> torch.Tensor:
    """In the order of memory, so that NaNs can be compared."""
    return torch.empty(0, dtype=torch.uint8).set_(t.clone().untyped_storage())  # a view: its part alone


def assert_same_bits(got, want, what=""):
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(got, want, strict=True)), what


def run(configuration: Configuration) -> tuple[torch.Tensor, ...]:
    """The results; no argument was written to, and activations are NHWC."""
    tensors = [a for a in configuration.args if isinstance(a, torch.Tensor)]
    before = [t.clone() for t in tensors]
    results = configuration.run()
    assert_same_bits(tensors, before, "an argument was written to")
    if configuration.problem.op != "conv_wgrad":
        assert all(r.is_contiguous(memory_format=torch.channels_last) for r in results if r.dim() == 4)
    return results


def assert_right(configuration: Configuration, results) -> None:
    problem, args = configuration.problem, configuration.args
    errors = kernel_truth.check(problem.op, args, results)
    sizes = [tuple(a.shape) if isinstance(a, torch.Tensor) else a for a in args]
    assert max(errors.values()) <= 1, f"{problem.name} {sizes}, {configuration.chosen}: {errors}"


def with_a_nan(problem, args, backend):
    """Configurations with a NaN in one of the activations and weights each."""
    for i, t in enumerate(args):
        if isinstance(t, torch.Tensor) and t.dim() == 4 and t.is_floating_point():
            planted = t.clone()
            planted[t.shape[0] // 2, t.shape[1] // 2, t.shape[2] // 2, t.shape[3] // 2] = torch.nan
            yield Configuration(problem, (*args[:i], planted, *args[i + 1 :]), 0, backend)
