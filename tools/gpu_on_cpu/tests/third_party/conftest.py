from __future__ import annotations

import os
import pathlib
import types

import pytest
import third_party_sources as sources

# A folder with Triton's tutorials, python/tutorials in its repository. Without it their tests are not there
# at all: a run of everything that can run skips nothing.
TUTORIALS = os.environ.get("GPU_ON_CPU_TUTORIALS")

collect_ignore = [] if TUTORIALS else ["test_tutorials.py"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="session")
def matmul(folder: pathlib.Path) -> types.ModuleType:
    """Triton's tutorial 03, in tritonparse."""
    return sources.kernels(
        sources.unpacked("tritonparse") / "tritonparse/tools/generate_examples.py", ["matmul_kernel"], folder
    )


@pytest.fixture(scope="session")
def layer_norm(folder: pathlib.Path) -> types.ModuleType:
    """Triton's tutorial 05, in lightllm."""
    path = sources.unpacked("lightllm") / "lightllm/models/bloom/triton_kernel/layernorm.py"
    return sources.kernels(path, ["_layer_norm_fwd_fused"], folder)


@pytest.fixture(scope="session")
def attention(folder: pathlib.Path) -> types.ModuleType:
    """Triton's tutorial 06 with masks for any length, in FlagGems."""
    path = sources.unpacked("flag_gems") / "flag_gems/ops/attention.py"
    return sources.kernels(path, ["_attn_fwd_inner", "_attn_fwd"], folder)


@pytest.fixture(scope="session")
def liger() -> types.SimpleNamespace:
    """Modules of Liger-Kernel, whole and unchanged."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(sources.unpacked("liger_kernel")))
        import liger_kernel.ops.cross_entropy
        import liger_kernel.ops.layer_norm
        import liger_kernel.ops.rms_norm
        import liger_kernel.ops.softmax
    ops = liger_kernel.ops
    return types.SimpleNamespace(
        cross_entropy=ops.cross_entropy, layer_norm=ops.layer_norm, rms_norm=ops.rms_norm, softmax=ops.softmax
    )
