"""What sanitizers need of the process that they watch, and what their reports say of a kernel."""

from __future__ import annotations

import functools
import os
import pathlib
import re
import shutil
import subprocess

from gpu_on_cpu import toolchain
from gpu_on_cpu.errors import KernelFault

REPORTS = "GPU_ON_CPU_REPORTS_FAULTS"  # set in a process whose last words somebody reads
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:report_signal_unsafe=0",
}


@functools.cache
def fixed_addresses() -> list[str]:
    """Starts a program without address randomisation, which ThreadSanitizer does not always survive."""
    setarch = shutil.which("setarch")
    works = setarch and subprocess.run([setarch, "-R", "true"], capture_output=True).returncode == 0
    return [setarch, "-R"] if setarch and works else []


@functools.cache
def runtime_libraries(sanitizer: str) -> list[str]:
    """What must be loaded before everything else in a program that was not built with the sanitizer."""
    if sanitizer == "none":
        return []
    names = {"address": "libasan.so", "thread": "libtsan.so"}[sanitizer], "libstdc++.so"
    return [_library(name) for name in names]


def _library(name: str) -> str:
    command = [toolchain.cxx(), f"-print-file-name={name}"]
    return os.path.realpath(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def located(fault: KernelFault) -> KernelFault:
    """The fault with the block, thread and source line that a sanitizer's report tells of, in plain words."""
    reason = re.sub(r" \(pid=\d+\)| on (unknown )?address .*", "", fault.reason)
    block, thread, line, file = fault.block, fault.thread, fault.line, fault.instruction
    if at := re.search(r"^gpu_on_cpu-at\t(\d+) (\d+) (\d+)\t(\d+) (\d+) (\d+)$", fault.details, re.MULTILINE):
        x, y, z, tx, ty, tz = map(int, at.groups())
        block, thread = (x, y, z), (tx, ty, tz)
    if not line:
        own = re.escape(str(toolchain.CPP))
        undefined = rf"^(?!{own})(/[^\s:]+):(\d+):\d+: runtime error"
        frames = rf"{undefined}|^\s+#\d+ (?:0x\w+ in )?.* (?!{own})(/[^\s:]+):(\d+)"
        for found in re.finditer(frames, fault.details, re.MULTILINE):
            file, number = (found[1], found[2]) if found[1] else (found[3], found[4])
            if os.path.exists(file):
                line = int(number)
                break
    return KernelFault(reason, block, thread, line, _source_line(file, line), fault.details)


def _source_line(file: str, line: int) -> str:
    try:
        return pathlib.Path(file).read_text(errors="replace").splitlines()[line - 1].strip() if line else ""
    except (OSError, IndexError):
        return file
