"""Every kernel of the extension as compiled for every architecture; and that all of them are tested."""

import os

import pytest
import torch

from .support import ARCH, formats  # isort: skip

from fused_resnet import _extension
from fused_resnet.analysis import extension_table
from fused_resnet.analysis.cuda_emulation import emulate_cuda, extension
from fused_resnet.analysis.kernel_problems import PROBLEMS, Make, every_configuration
from tests.kernels_support import FORMATS


@pytest.fixture(scope="module")
def compiled():
    if not hasattr(_extension.load(), "cuda"):
        why = _extension.why_missing() or "the extension was built without CUDA"
        assert os.environ.get("FUSED_RESNET_REQUIRE_EXTENSION") != "1", why
        pytest.skip(why)
    return extension_table.compiled()


def test_registers_and_spills(compiled):
    """No spills; 168 registers for four warps, so that three blocks fit; a block of any kernel fits."""
    assert {k.arch for k in compiled} >= {80, 90, 100}
    assert not [f"sm_{k.arch} {k.signature}: {k.why_not}" for k in compiled if k.why_not]


@pytest.fixture(scope="module")
def launched():
    """Every launch of every problem, format and tile, none of them run: kernel -> most shared memory."""
    found, before = {}, torch.backends.cudnn.allow_tf32
    for name, problem in PROBLEMS.items():
        for number_format in formats(name):
            for args in problem.arguments(Make(FORMATS[number_format].use())):
                for configuration in every_configuration(problem, args, "cuda"):
                    with emulate_cuda(execute=False) as records:
                        configuration.run()
                    for record in records:
                        found[record.symbol] = max(found.get(record.symbol, 0), record.shared)
    torch.backends.cudnn.allow_tf32 = before
    return found


def test_every_instance_is_launched(launched):
    """By some problem: no kernel, and no instance of a template, ships untested."""
    assert not sorted(extension().kernels(ARCH) - set(launched))


def test_shared_memory(launched):
    """The least that any architecture from sm_80 gives a block is 99 KiB (sm_86, sm_89, sm_120)."""
    assert max(launched.values()) <= 99 * 1024
