"""Breakages: each kind makes what it says, and a score counts what is noticed."""

from __future__ import annotations

import re

import pytest
import subjects
import torch

from gpu_on_cpu import KernelFault, Module
from gpu_on_cpu.case import Case, Expected
from gpu_on_cpu.mutation import mutate, score
from gpu_on_cpu.mutation.mutants import KINDS, candidates
from gpu_on_cpu.triton.replay import Replay

# kind -> (line, broken line; None where the kind does not apply)
REWRITES = {
    "drop bar.sync": [("\tbar.sync 0;", ""), ("@%p3 bar.sync 0;", ""), ("bra $L;", None)],
    "drop cp.async.wait": [("cp.async.wait_group 2;", "")],
    "weaken wait": [
        ("cp.async.wait_group 2;", "cp.async.wait_group 3;"),
        ("wgmma.wait_group.sync.aligned 0;", "wgmma.wait_group.sync.aligned 1;"),
    ],
    "drop cp.async.commit": [("cp.async.commit_group;", "")],
    "drop bulk wait": [("cp.async.bulk.wait_group.read 0;", "")],
    "drop wgmma.wait": [("wgmma.wait_group.sync.aligned 0;", "")],
    "drop wgmma.fence": [("wgmma.fence.sync.aligned;", "")],
    "drop fence.proxy": [("fence.proxy.async.shared::cta;", "")],
    "drop tcgen05.wait": [("tcgen05.wait::ld.sync.aligned;", "")],
    "drop tcgen05.commit": [("@%p1 tcgen05.commit.cta_group::1.mbarrier::arrive::one.b64 [%rd1];", "")],
    "drop mbarrier wait": [("@!complete bra.uni waitLoop;", "")],
    "drop mbarrier arrival": [("mbarrier.arrive.shared::cta.b64 _, [%r1];", "")],
    "drop mma": [("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r1}, {%r2}, {%r3}, {%r1};", "")],
    "drop vector store": [
        ("@%p1 st.global.v4.b32 [ %rd1 + 0 ], { %r1, %r2, %r3, %r4 };", ""),
        ("st.global.b32 [%rd1], {%r1};", None),
    ],
    "drop scalar store": [("st.global.b32 [ %rd1 + 0 ], { %r1 };", ""), ("st.shared.b32 [%r1], %r2;", None)],
    "drop atomic": [("@%p1 red.global.add.f32 [%rd1], %r1;", "")],
    "drop predicate": [("@!%p1 ld.global.b32 { %r1 }, [ %rd1 + 0 ];", "ld.global.b32 { %r1 }, [ %rd1 + 0 ];")],
    "ignore copy mask": [
        (
            "cp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, %r2;",
            "cp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, 0x10;",
        )
    ],
    "swap registers": [
        ("sub.f32 %r3, %r1, %r2;", "sub.f32 %r3, %r2, %r1;"),
        ("sub.f32 %r3, %r1, %r1;", None),
    ],
    "shift offset": [
        (
            "ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];",
            "ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 16 ];",
        ),
        ("ld.param.b64 %rd1, [k_param_0];", None),
    ],
    "flip comparison": [("setp.lt.s32 %p1, %r1, %r2;", "setp.le.s32 %p1, %r1, %r2;")],
    "negate comparison": [("setp.lt.s32 %p1, %r1, %r2;", "setp.ge.s32 %p1, %r1, %r2;")],
    "and -> or": [("\tand.pred %p1, %p2, %p3;", "\tor.pred %p1, %p2, %p3;")],
    "mask constant": [
        ("and.b32 %r1, %r2, 12;", "and.b32 %r1, %r2, 8;"),
        ("and.b32 %r1, %r2, 4;", "and.b32 %r1, %r2, 8;"),
    ],
    "xor constant": [("xor.b32 %r1, %r2, 16;", "xor.b32 %r1, %r2, 32;")],
    "or constant": [("or.b32 %r1, %r2, 16;", "or.b32 %r1, %r2, 32;")],
    "shift amount": [("shl.b32 %r1, %r2, 3;", "shl.b32 %r1, %r2, 4;")],
    "shuffle distance": [("shfl.sync.bfly.b32 %r1, %r2, 8, 31, -1;", "shfl.sync.bfly.b32 %r1, %r2, 4, 31, -1;")],
    "index constant": [("add.s64 %rd1, %rd2, 64;", "add.s64 %rd1, %rd2, 66;")],
    "descriptor bits": [("or.b64 %rd1, %rd2, 4611686293338849280;", "or.b64 %rd1, %rd2, 274911461376;")],
    "relu bound": [("max.f32 %r1, %r2, 0f00000000;", "max.f32 %r1, %r2, 0fBF800000;")],
    "add -> sub": [
        ("add.f32 %r1, %r2, %r3;", "sub.f32 %r1, %r2, %r3;"),
        ("add.f32x2 %rd1, %rd2, %rd3;", None),
    ],
    "mul -> add": [("mul.f32 %r1, %r2, %r3;", "add.f32 %r1, %r2, %r3;")],
}


@pytest.mark.parametrize("kind", KINDS)
def test_kind(kind: str) -> None:
    for line, broken in REWRITES[kind]:
        assert KINDS[kind](line) == broken


def test_mutants_change_one_line_and_are_repeatable() -> None:
    ptx = Replay(subjects.scale("fp32"), 90).ptx
    mutants = list(mutate(ptx, 8))
    assert [m.ptx for m in mutants] == [m.ptx for m in mutate(ptx, 8)]
    assert len({tuple(m.line for m in mutate(ptx, 8, seed=seed)) for seed in range(8)}) > 1
    for m in mutants:
        different = [i + 1 for i, (a, b) in enumerate(zip(ptx.splitlines(), m.ptx.splitlines(), strict=True)) if a != b]
        assert different == [m.line]
    every = sum(map(len, candidates(ptx).values()))
    assert len(list(mutate(ptx))) == every > 8


def test_the_same_mutants_wherever_the_source_lies() -> None:
    """The path of a kernel's source stands in its PTX; which mutants are tried has to be the same in every checkout."""
    ptx = Replay(subjects.scale("fp32"), 90).ptx
    elsewhere = re.sub(r'^(\s*\.file\s+\d+\s+)".*"', r'\1"/elsewhere/kernels.py"', ptx, flags=re.MULTILINE)
    assert elsewhere != ptx
    for seed in range(8):
        assert [m.line for m in mutate(ptx, seed=seed)] == [m.line for m in mutate(elsewhere, seed=seed)]


def test_a_difference_that_is_squared_is_not_swapped() -> None:
    """(a - b)^2 is (b - a)^2; a difference that is used otherwise too is swapped."""
    squared = "sub.f32 %r3, %r1, %r2;\nmul.f32 %r4, %r3, %r3;\nfma.rn.f32 %r5, %r3, %r3, %r4;\nadd.f32 %r30, %r4, %r5;"
    assert "swap registers" not in candidates(squared)
    assert len(candidates(squared + "\nadd.f32 %r6, %r3, %r4;")["swap registers"]) == 1
    masked = "sub.f32 %r3, %r1, %r2;\nselp.f32 %r7, %r3, 0f00000000, %p1;\nmul.f32 %r4, %r7, %r7;"
    assert "swap registers" not in candidates(masked)
    assert len(candidates(masked + "\nst.global.b32 [%rd1], %r7;")["swap registers"]) == 1


def test_score() -> None:
    s = score(subjects.scale("bf16"), 80, count=10, seeds=(0, 1))
    assert len(s.verdicts) == 10
    assert s.noticed + len(s.survivors) == 10
    assert s.noticed >= 8
    assert sum(n for _, n in s.by_kind().values()) == 10
    assert all(v.how == "survived" for v in s.survivors)


def test_a_check_that_cannot_fail_scores_low() -> None:
    """Everything is within tolerance, so only what the runtime stops is noticed."""
    lenient = [
        Case(c.kernel, c.args, c.grid, {"y": Expected(c.expected["y"].value, absolute=1e9)}, c.constexprs)
        for c in subjects.scale("bf16")
    ]
    strict, loose = (score(c, 80, count=24, seeds=(0,)).noticed for c in (subjects.scale("bf16"), lenient))
    assert loose < strict


def test_score_needs_a_sound_kernel() -> None:
    with pytest.raises(ValueError, match="the kernel itself fails: wrong result of size 0"):
        score(subjects.wrong("bf16"), 90, count=1)
    with pytest.raises(ValueError, match="must not be empty"):
        score([], 90)


def test_one_code_for_all_sizes() -> None:
    cases = subjects.scale("fp32")
    x = torch.zeros(304)
    divisible = Case(
        cases[0].kernel,
        dict(x=x, y=x.clone(), n=304, factor=3.0),
        (3,),
        {"y": Expected(x)},
        cases[0].constexprs,
    )
    replay = Replay([cases[0], divisible], 90)  # code for an odd n serves one that is divisible
    replay.launch(Module(replay.ptx), divisible)
    with pytest.raises(ValueError, match="case 1: n is not a multiple of 16"):
        Replay([divisible, cases[0]], 90)


def test_a_dropped_predicate_is_a_fault() -> None:
    replay = Replay(subjects.scale("fp32"), 90)
    mutant = next(m for m in mutate(replay.ptx) if m.kind == "drop predicate" and "st.global" in m.before)
    with pytest.raises(KernelFault, match="outside every argument") as fault:
        for c in subjects.scale("fp32"):
            replay.launch(Module(mutant.ptx), c)
    assert fault.value.line == mutant.line
