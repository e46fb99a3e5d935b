"""How many breakages of a kernel its cases notice."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Sequence

from gpu_on_cpu.case import Case
from gpu_on_cpu.errors import CompilerError, KernelFault, Unsupported
from gpu_on_cpu.mutation.mutants import Mutant, mutate
from gpu_on_cpu.ptx.module import Module
from gpu_on_cpu.triton.replay import Replay


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What became of one breakage.

    Attributes:
        mutant: what was broken.
        noticed: by the translator, the runtime, or a wrong result.
        how: which of them, and what it said; "survived" otherwise.
    """

    mutant: Mutant
    noticed: bool
    how: str


@dataclasses.dataclass(frozen=True)
class Score:
    """Verdicts on one kernel on one architecture."""

    kernel: str
    arch: int
    verdicts: Sequence[Verdict]

    @property
    def noticed(self) -> int:
        return sum(v.noticed for v in self.verdicts)

    @property
    def survivors(self) -> list[Verdict]:
        return [v for v in self.verdicts if not v.noticed]

    def by_kind(self) -> dict[str, tuple[int, int]]:
        """kind -> (noticed, all)"""
        total = Counter(v.mutant.kind for v in self.verdicts)
        noticed = Counter(v.mutant.kind for v in self.verdicts if v.noticed)
        return {kind: (noticed[kind], n) for kind, n in total.items()}


def judge(mutant: Mutant, replay: Replay, cases: Sequence[Case], seeds: Iterable[int], timeout: float) -> Verdict:
    """Runs all problem sizes under all seeds until something is wrong."""
    try:
        module = Module(mutant.ptx, optimize="-O0")
        path = module.path
    except Unsupported as e:
        return Verdict(mutant, True, f"refused: {e}")
    except CompilerError:
        return Verdict(mutant, True, "refused by the C++ compiler")
    try:
        for seed in seeds:
            for i, case in enumerate(cases):
                case.poison()
                replay.launch(module, case, seed=seed, timeout=timeout)
                if wrong := case.wrong():
                    return Verdict(mutant, True, f"wrong result of size {i}, seed {seed}: {', '.join(wrong)}")
    except KernelFault as fault:
        return Verdict(mutant, True, str(fault))
    finally:
        os.remove(path)  # nobody runs it again
    return Verdict(mutant, False, "survived")


def score(
    cases: Sequence[Case],
    arch: int = 90,
    *,
    count: int | None = 20,
    seeds: Sequence[int] = (0, 1, 2, 3),
    choice: int = 0,
    timeout: float = 20.0,
) -> Score:
    """Breaks a kernel on purpose, and reports which breakages its cases notice.

    Args:
        cases: problem sizes of one kernel that compile to the same code; the unbroken kernel must pass them all.
        arch: 80, 90, 100, ...
        count: how many breakages; None: all there are.
        seeds: schedules to try each under.
        choice: another choice of breakages.
        timeout: seconds until a broken kernel counts as a hang, which is noticed.

    Raises:
        ValueError: the cases do not share one compiled kernel, or the unbroken kernel fails them.
    """
    if not cases:
        raise ValueError("cases must not be empty")
    replay = Replay(cases, arch)
    sound = judge(Mutant("none", 0, "", "", replay.ptx), replay, cases, seeds, timeout)
    if sound.noticed:
        raise ValueError(f"the kernel itself fails: {sound.how}")
    verdicts = [judge(m, replay, cases, seeds, timeout) for m in mutate(replay.ptx, count, choice)]
    return Score(replay.name, arch, verdicts)
