"""The conditions of a measurement, to be printed beside it."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from .. import _extension
from .._version import __version__

__all__ = ["OtherProcesses", "conditions", "has_bf16_hardware"]


class OtherProcesses:
    """How busy others keep the processors within this context: `share` of all of them, None where unknown.

    Threads that wait for each other at barriers (OpenMP's, PyTorch's therefore) lose far more to other
    processes than those that take work as it comes: times side by side are no longer comparable.
    """

    share: float | None = None

    def __enter__(self) -> OtherProcesses:
        self._start = time.perf_counter(), time.process_time(), _busy_seconds()
        return self

    def __exit__(self, *error: object) -> None:
        wall, own, busy = self._start
        busy_now = _busy_seconds()
        if busy is not None and busy_now is not None:
            available = (time.perf_counter() - wall) * (os.cpu_count() or 1)
            self.share = max(0.0, (busy_now - busy - (time.process_time() - own)) / available)


def _busy_seconds() -> float | None:
    """Of all processors, since the system started; Linux only."""
    try:
        values = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, values[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def conditions(device: torch.device | str = "cpu", packages: Iterable[str] = ()) -> dict[str, str]:
    """Processor, threads, clock, versions, commit and date, in the order to print them in.

    Args: packages: others that take part in the measurement, by the names that pip knows.
    """
    device = torch.device(device)
    found = {
        "CPU": f"{_cpu_name()} ({torch.backends.cpu.get_cpu_capability()})",
        "threads": str(torch.get_num_threads()),
        "clock": _cpu_clock(),
    }
    if device.type == "cuda":
        found["GPU"] = torch.cuda.get_device_name(device)
        found["GPU clock and driver"] = _gpu_clock(device)
    found["torch"] = torch.__version__
    if (version := _version("torchvision")) is not None:
        found["torchvision"] = version
    for name in packages:
        found[name] = _version(name) or "not installed"
    found["fused_resnet"] = __version__
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


def _cpu_clock() -> str:
    """As the system tells it at this moment."""
    megahertz = _cpu_info("cpu MHz")
    return f"{float(megahertz) / 1e3:.2f} GHz" if megahertz else "unknown"


def _gpu_clock(device: torch.device) -> str:
    """Of the multiprocessors: now, at most; driver; power limit."""
    query = ["--query-gpu=clocks.sm,clocks.max.sm,driver_version,power.limit", "--format=csv,noheader"]
    uuid = torch.cuda.get_device_properties(device).uuid
    command = ["nvidia-smi", f"--id=GPU-{uuid}", *query]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown: nvidia-smi did not tell"


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
