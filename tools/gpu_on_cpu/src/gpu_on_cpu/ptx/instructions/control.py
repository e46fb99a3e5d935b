"""PTX ISA, "Control Flow Instructions" and "Miscellaneous Instructions"."""

from __future__ import annotations

from re import Match

from gpu_on_cpu.ptx.emitter import Emitter
from gpu_on_cpu.ptx.table import instruction

CHAPTER = "Control Flow Instructions: "


@instruction("bra", CHAPTER + "bra", r"bra(?:\.uni)?")
def bra(e: Emitter, m: Match[str], a: list[str]) -> str:
    return f"goto {e.target(a[0])};"


@instruction("brx.idx", CHAPTER + "brx.idx", r"brx\.idx(?:\.uni)?", reports=True)
def brx(e: Emitter, m: Match[str], a: list[str]) -> str:
    if a[1] not in e.kernel.branch_targets:
        raise e.fail("branch targets")
    cases = " ".join(f"case {i}: goto {e.target(t)};" for i, t in enumerate(e.kernel.branch_targets[a[1]]))
    return f'switch ({e.value(a[0], "u32")}) {{ {cases} default: emu::die("brx.idx: index outside the table"); }}'


@instruction("ret, exit", CHAPTER + "ret, exit", r"ret(?:\.uni)?", r"exit")
def ret(e: Emitter, m: Match[str], a: list[str]) -> str:
    return "return;"


@instruction("trap", "Miscellaneous Instructions: trap", r"trap", reports=True)
def trap(e: Emitter, m: Match[str], a: list[str]) -> str:
    return "ptx::trap();"


# Time and register allocation do not exist here.
@instruction(
    "nanosleep, setmaxnreg, pmevent",
    "Miscellaneous Instructions: nanosleep, setmaxnreg, pmevent",
    r"nanosleep\.u32",
    r"setmaxnreg\.(?:inc|dec)\.sync\.aligned\.u32",
    r"pmevent",
)
def no_effect(e: Emitter, m: Match[str], a: list[str]) -> str:
    return ";"
