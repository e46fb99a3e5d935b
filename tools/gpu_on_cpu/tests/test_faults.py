"""Every bug that the runtime can report is reported as what it is, and its kernel is right without it."""

from __future__ import annotations

import pathlib
import re

import pytest
import torch
from faults import (  # noqa: F401  (each adds its cases)
    CASES,
    PRELUDE,
    Case,
    async_copy,
    barriers,
    bulk_copies,
    global_memory,
    mbarriers,
    shared_memory,
    tcgen05,
    tensor_maps,
    wgmma,
)
from faults.wgmma import MMA, WG, WG_FENCE
from support import frame, run

from gpu_on_cpu import toolchain
from gpu_on_cpu.errors import KernelFault
from gpu_on_cpu.ptx.arguments import check_arguments
from gpu_on_cpu.ptx.module import Module


@pytest.mark.parametrize("c", CASES, ids=lambda c: c.name)
def test_planted(c: Case) -> None:
    with pytest.raises(KernelFault) as caught:
        c.run(True, 0)
    fault = caught.value
    assert fault.reason == c.reason
    assert c.at in fault.instruction
    lines = frame(c.text, c.threads).split("\n")
    assert not fault.instruction or fault.instruction[:100] in " ".join(
        " ".join(lines[fault.line - 1 : fault.line + 2]).split()
    )
    assert fault.thread == (fault.thread[0] if c.thread is None else c.thread, 0, 0)
    assert fault.block == (fault.block[0] if c.block is None else c.block, 0, 0)
    for seed in (1, 2, 3):
        with pytest.raises(KernelFault):
            c.run(True, seed)


@pytest.mark.parametrize("c", CASES, ids=lambda c: c.name)
def test_corrected(c: Case) -> None:
    for seed in range(4):
        c.run(False, seed)


# ---- what is not a predicate away from being right
def deadlock(body: str, threads: int = 64) -> KernelFault:
    with pytest.raises(KernelFault) as caught:
        run(body.replace("; ", ";\n"), torch.zeros(4), threads=threads)
    return caught.value


def line_of(body: str, instruction: str, threads: int = 64) -> int:
    return next(
        i for i, line in enumerate(frame(body.replace("; ", ";\n"), threads).split("\n"), 1) if instruction in line
    )


def test_deadlock_of_divergent_barriers() -> None:
    body = "setp.lt.u32 %p0, %r1, 16; @%p0 bra A; bar.sync 1; bra B; A: bar.sync 0; B:"
    fault = deadlock(body)
    one, zero = line_of(body, "bar.sync 1"), line_of(body, "bar.sync 0")
    assert fault.reason == (f"deadlock: 48 threads at a barrier (line {one}); 16 threads at a barrier (line {zero})")
    assert (fault.line, fault.thread) == (zero, (0, 0, 0))


def test_deadlock_of_an_mbarrier_that_misses_arrivals() -> None:
    body = (
        "mov.u32 %r3, buf; setp.eq.u32 %p0, %r1, 0; @%p0 mbarrier.init.shared.b64 [%r3], 65; bar.sync 0; "
        "mbarrier.arrive.shared.b64 %rd9, [%r3]; "
        "W: mbarrier.try_wait.shared.b64 %p1, [%r3], %rd9; @!%p1 bra W;"
    )
    fault = deadlock(body)
    assert fault.reason == f"deadlock: 64 threads at a mbarrier (line {line_of(body, 'try_wait')})"
    assert "mbarrier.try_wait" in fault.instruction


def test_deadlock_of_an_mbarrier_that_misses_bytes() -> None:
    body = (
        "mov.u32 %r3, buf; setp.eq.u32 %p0, %r1, 0; @%p0 mbarrier.init.shared.b64 [%r3], 1; bar.sync 0; "
        "@%p0 mbarrier.arrive.expect_tx.shared.b64 _, [%r3], 16; "
        "W: mbarrier.try_wait.parity.shared.b64 %p1, [%r3], 0; @!%p1 bra W;"
    )
    assert deadlock(body).reason.startswith("deadlock: 64 threads at a mbarrier")


def test_deadlock_of_a_divergent_warp_collective() -> None:
    fault = deadlock("setp.eq.u32 %p0, %r1, 3; @%p0 bar.sync 0; bar.warp.sync -1;", threads=32)
    assert re.fullmatch(
        r"deadlock: 1 threads at a barrier \(line \d+\); "
        r"31 threads at a warp collective \(line \d+\)",
        fault.reason,
    )


def test_deadlock_of_a_cluster_barrier() -> None:
    fault = deadlock(
        "setp.eq.u32 %p0, %r1, 3; @%p0 bar.sync 1; @!%p0 barrier.cluster.arrive; @!%p0 barrier.cluster.wait;",
        threads=32,
    )
    assert re.fullmatch(
        r"deadlock: 1 threads at a barrier \(line \d+\); "
        r"31 threads at a cluster barrier \(line \d+\)",
        fault.reason,
    )


def test_endless_loop_is_a_hang() -> None:
    module = Module(frame("W: bra W;"), optimize="-O0")
    with pytest.raises(KernelFault, match=r"^hang: not finished after 0\.5 s"):
        module.launch("k", {n: torch.zeros(1) for n in "abcd"}, (1,), (32,), timeout=0.5)


def test_wgmma_of_a_part_of_a_warpgroup() -> None:
    with pytest.raises(KernelFault, match="wgmma needs whole warpgroups"):
        run(WG + WG_FENCE + MMA, torch.zeros(4), threads=96)


def test_launch_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Module(frame(""), optimize="-O0")
    tensors = {n: torch.zeros(1) for n in "abcd"}
    with pytest.raises(KernelFault, match=re.escape("launch: more shared memory than a block may have (232448 bytes)")):
        module.launch("k", tensors, (1,), (32,), dynamic_shared=232448 - 16384 + 1)
    module.launch("k", tensors, (1,), (32,), dynamic_shared=232448 - 16384)
    given = check_arguments(module.kernels, "k", tensors, (1,), (32,), None, {})
    monkeypatch.setattr("gpu_on_cpu.ptx.module.check_arguments", lambda *_: given)
    with pytest.raises(KernelFault, match="launch: a block has 1 to 1024 threads"):
        module.launch("k", tensors, (1,), (1025,))


# What only the other users of the runtime can reach, and what the tests above provoke without a table.
ELSEWHERE = {
    "barrier: more threads arrived than it expects": "no arrival of PTX counts the whole block",
    "launch: more shared memory than a block may have (232448 bytes)": "test_launch_limits",
    "launch: a block has 1 to 1024 threads": "test_launch_limits",
    "wgmma needs whole warpgroups": "test_wgmma_of_a_part_of_a_warpgroup",
}


def test_every_report_has_a_case() -> None:
    found = set()
    for folder in ("ptx", "fibers"):
        for file in sorted(pathlib.Path(toolchain.CPP, folder).iterdir()):
            for call in re.findall(r"\bdie\(([^;]*)\);", file.read_text()):
                found |= set(re.findall(r'"((?:[^"\\]|\\.)*)"', call))
    assert len(found) > 100
    assert found - {c.reason for c in CASES} - set(ELSEWHERE) == set()
