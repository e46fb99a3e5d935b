"""PTX of other compilers: older and newer Triton, and CUDA 12's front end."""

from __future__ import annotations

import ctypes
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import pytest
import torch

from gpu_on_cpu import Module, cache

ROOT = pathlib.Path(__file__).parents[2]
CASES = ROOT / "examples" / "resnet" / "cases.py"
FEATURES = ROOT / "tests" / "cuda" / "features.cu"
KERNELS = "conv1x1_stats,conv1x1_wgrad,bn_backward_apply"

# What these versions generate against the PTX ISA; everything else runs right.
FAULTS = {
    ("3.6.0", "conv1x1_stats", "sm_90a"): "an asynchronous unit reads shared memory without fence.proxy.async",
    ("3.6.0", "conv1x1_stats", "sm_100a"): "an asynchronous unit reads shared memory without fence.proxy.async",
    ("3.7.1", "conv1x1_stats", "sm_90a"): "wgmma: register of A changed before the wait",
    ("3.9.0", "conv1x1_stats", "sm_100a"): "register read before its asynchronous result was waited for",
}


def installed(*requirements: str) -> pathlib.Path:
    """A folder of the cache with these packages, without what they depend on."""
    folder = cache.directory() / "third_party" / "-".join(r.replace("==", "-") for r in requirements)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
            command = [
                sys.executable,
                "-m",
                "pip",
                "--disable-pip-version-check",
                "install",
                "--quiet",
                "--no-deps",
            ]
            subprocess.run([*command, "--target", f"{unfinished}/all", *requirements], check=True)
            pathlib.Path(unfinished, "all").rename(folder)
    return folder


@pytest.mark.parametrize("version", ["3.6.0", "3.7.1", "3.9.0"])
def test_triton(version: str) -> None:
    """The driver, the launcher and the generated code."""
    paths = [str(installed(f"triton=={version}")), os.environ.get("PYTHONPATH", "")]
    # A folder in PYTHONPATH comes before the environment's own Triton.
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "TRITON_DEFAULT_FP_FUSION": "1"}
    assert (
        subprocess.run(
            [sys.executable, "-c", "import triton; print(triton.__version__)"],
            env=env,
            capture_output=True,
            text=True,
        ).stdout.strip()
        == version
    )
    command = [
        sys.executable,
        "-m",
        "gpu_on_cpu",
        "run",
        str(CASES),
        "--kernels",
        KERNELS,
        "--dtype",
        "bf16",
        "--seeds",
        "1",
        "--jobs",
        "1",
        "--json",
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 9, done.stderr
    for row in rows:
        fault = FAULTS.get((version, row["kernel"], row["arch"]), "")
        assert fault in row["problem"] and bool(fault) == bool(row["problem"]), row


def cuda12_ptx(source: str, arch: str) -> str:
    """What NVRTC of CUDA 12.9 makes of a source."""
    folder = (
        installed(
            "nvidia-cuda-nvrtc-cu12==12.9.86",
            "nvidia-cuda-runtime-cu12==12.9.79",
            "nvidia-cuda-cccl-cu12==12.9.27",
        )
        / "nvidia"
    )
    ctypes.CDLL(str(next(folder.glob("cuda_nvrtc/lib/libnvrtc-builtins.so.12*"))))
    nvrtc = ctypes.CDLL(str(folder / "cuda_nvrtc" / "lib" / "libnvrtc.so.12"))
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"features.cu", 0, None, None) == 0
    options = [f"--gpu-architecture={arch}", *(f"-I{p}" for p in folder.glob("*/include"))]
    status = nvrtc.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    )
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()
    nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetPTX(program, ptx)
    return ptx.value.decode()


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a", "sm_100a"])
def test_cuda_12(arch: str) -> None:
    module = Module(cuda12_ptx(FEATURES.read_text(), arch))
    x = torch.randn(250, generator=torch.Generator().manual_seed(0))
    sums, votes = torch.zeros(2), torch.zeros(2, 4, dtype=torch.int32)
    module.launch("reductions", dict(x=x, sums=sums, votes=votes, n=250), (2,), (128,), seed=1)
    padded = torch.cat([x, torch.zeros(6)]).view(2, 128)
    torch.testing.assert_close(sums.double(), padded.double().sum(1), rtol=0, atol=1e-5)
    assert votes[:, 0].tolist() == (padded > 0).sum(1).tolist()
    y = torch.zeros(8, 250)
    module.launch("library", dict(x=x * 1e5, y=y, n=250), (4,), (64,))
    torch.testing.assert_close(y[0].double(), (x * 1e5).double().sin(), rtol=2e-6, atol=1e-7)
    i = torch.arange(128, dtype=torch.int32)
    out = torch.zeros(128, dtype=torch.int32)
    module.launch("control", dict(x=i, y=out, n=128), (2,), (64,))
    assert out[0].item() == 3 + 10, "the first case of the switch, the first entry of the table"
