"""What is there without Triton."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
sys.modules["triton"] = None  # as if it were not installed
import torch, gpu_on_cpu, gpu_on_cpu.cuda, gpu_on_cpu.pytest_plugin
sys.path.insert(0, sys.argv[1])
from support import frame
out = torch.zeros(1, dtype=torch.int32)
module = gpu_on_cpu.Module(frame("mov.u32 %r2, 7; st.global.u32 [%rd1], %r2;"), "-O0")
module.launch("k", dict(a=out, b=out.clone(), c=out.clone(), d=out.clone()), (1,), (1,))
assert out.item() == 7
try:
    gpu_on_cpu.run
except ImportError as e:
    print(e)
"""


def test_without_triton(request) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(request.path.parent)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pip install 'gpu_on_cpu[triton]'" in done.stdout
