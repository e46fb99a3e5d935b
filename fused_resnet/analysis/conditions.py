"""The conditions of a measurement, to be printed beside it."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

from .. import _extension

__all__ = ["conditions", "has_bf16_hardware"]


def conditions(device: torch.device | str = "cpu") -> dict[str, str]:
    """Processor, threads, versions, commit and date, in the order to print them in."""
    device = torch.device(device)
    found = {
        "CPU": f"{_cpu_name()} ({torch.backends.cpu.get_cpu_capability()})",
        "threads": str(torch.get_num_threads()),
    }
    if device.type == "cuda":
        found["GPU"] = torch.cuda.get_device_name(device)
    found["torch"] = torch.__version__
    if (version := _version("torchvision")) is not None:
        found["torchvision"] = version
    found["fused_resnet"] = _version("fused_resnet") or "not installed"
    found["C++ extension"] = _extension_state()
    found["Python"] = platform.python_version()
    found["commit"] = _commit()
    found["date"] = datetime.date.today().isoformat()
    return found


def has_bf16_hardware(device: torch.device | str) -> bool:
    """Does `device` multiply bf16 matrices in hardware? Elsewhere bf16 is emulated: its times say little."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(flag in _cpu_info("flags").split() for flag in ("avx512_bf16", "amx_bf16"))


def _cpu_info(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extension_state() -> str:
    if why := _extension.why_missing():
        return f"none ({why})"
    info = _extension.build_info()
    compiled = "".join(f", sm_{a}" for a in info["cuda_architectures"] or ())
    return f"{info['cpu_instruction_set']}{compiled}" + (f" by nvcc {info['cuda']}" if compiled else "")


def _commit() -> str:
    """The checkout's commit, marked where files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
