"""The ops once more on the kernels that lesser processors get, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fused_resnet import _extension

ROOT = Path(__file__).resolve().parents[2]
INSTRUCTION_SET = "from fused_resnet import _extension; print(_extension.build_info()['cpu_instruction_set'])"
LIMITS = {
    "baseline": {"ATEN_CPU_CAPABILITY": "default"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "avx2, oneDNN too": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}
TESTS = "tests/cpu/test_ops.py", "tests/test_cpu_backend.py", "tests/cpu/test_blocks.py"
COMPACT = "not slow", "truth or nan or reference or eval"


def python(limit, *command):
    environment = os.environ | LIMITS[limit]
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.mark.skipif(_extension.load() is None, reason="there is no extension")
@pytest.mark.parametrize("limit", LIMITS)
def test_ops(limit, request):
    """A selection, or with --all-dtypes everything."""
    chosen = python(limit, "-c", INSTRUCTION_SET)
    assert chosen.returncode == 0, chosen.stdout
    assert chosen.stdout.strip() in (limit.partition(",")[0], "baseline")
    if chosen.stdout.strip() == _extension.build_info()["cpu_instruction_set"] and "oneDNN" not in limit:
        pytest.skip("that is what this process runs on")
    selected = [] if request.config.getoption("--all-dtypes") else ["-m", COMPACT[0], "-k", COMPACT[1]]
    run = python(limit, "-m", "pytest", "-q", "-p", "no:cacheprovider", *selected, *TESTS)
    assert run.returncode == 0, run.stdout[-10_000:]
