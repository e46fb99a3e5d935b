"""Runs something that may crash, and tells what the emulator said of it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Collection, Mapping, Sequence

from gpu_on_cpu.errors import KernelFault

TAG = "gpu_on_cpu-fault\t"


def fault_from(report: str, otherwise: str) -> KernelFault:
    """The fault that the emulator's line in `report` tells of; `otherwise` is the reason if there is no such line."""
    for line in report.splitlines():
        if line.startswith(TAG):
            reason, block, thread, number, text = line[len(TAG) :].split("\t", 4)
            b, t = (tuple(map(int, v.split())) for v in (block, thread))
            return KernelFault(reason, (b[0], b[1], b[2]), (t[0], t[1], t[2]), int(number), text, report)
    sanitizer = re.search(r"(?:ERROR|WARNING): (\w+Sanitizer: [^\n]*)|runtime error: ([^\n]*)", report)
    if sanitizer:
        return KernelFault(sanitizer[1] or f"UndefinedBehaviorSanitizer: {sanitizer[2]}", details=report)
    last = report.strip().splitlines()[-1:]
    return KernelFault(": ".join([otherwise, *last]), details=report)


def reason(status: int) -> str:
    """How a process ended."""
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"the process ended with exit status {status}"


def run(
    command: Sequence[str],
    seconds: float,
    environment: Mapping[str, str] | None = None,
    descriptors: Collection[int] = (),
) -> None:
    """Runs a program that executes a kernel.

    Args:
        seconds: until it counts as a hang.
        environment: variables to add.
        descriptors: open files that the program may use.

    Raises:
        KernelFault: it did not end well, or not in time.
    """
    env = {**os.environ, **environment} if environment else None
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            env=env,
            pass_fds=descriptors,
        )
    except subprocess.TimeoutExpired as e:
        report = e.stderr.decode(errors="replace") if isinstance(e.stderr, bytes) else e.stderr or ""
        raise fault_from(report, f"hang: not finished after {seconds:g} s") from None
    if done.returncode:
        raise fault_from(done.stderr, reason(done.returncode))
