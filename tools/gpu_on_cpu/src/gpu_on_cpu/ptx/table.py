"""The table of instructions: which forms are modelled, what each is called, where the PTX ISA describes it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

from gpu_on_cpu.ptx.emitter import Emitter

Translator = Callable[[Emitter, re.Match[str], list[str]], str]

# What a form may abbreviate as <NAME>.
MACROS = {
    "INT": r"[bsu](?:16|32|64)",
    "ANY": r"(?:[bsu](?:8|16|32|64)|f32|f64)",
    "FLT": r"f(?:32|64)",
    "H": r"b?f16",
    "RND": r"(?:\.(?P<rnd>rn|rz|rm|rp))?",
    "FTZ": r"(?P<ftz>\.ftz)?",
    "SAT": r"(?P<sat>\.sat)?",
    "SHARED": r"shared(?:::cta)?",
    "CACHE": r"(?:\.(?:ca|cg|cs|lu|cv|wb|wt))?(?:\.L1::\w+)?(?:\.L2::\w+)*",
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """An instruction with the forms that are modelled.

    Attributes:
        name: what it is called in reports and in the list of modelled instructions.
        section: the title of its section in the PTX ISA, chapter "Instructions".
        forms: patterns of the opcode with all modifiers; what fully matches none of the table is refused.
        translate: (emitter, match, operands) -> C++ statements.
        reports: it can find an error of the kernel at run time, which then names its line.
    """

    name: str
    section: str
    forms: tuple[re.Pattern[str], ...]
    translate: Translator
    reports: bool


ENTRIES: list[Entry] = []


def instruction(name: str, section: str, *forms: str, reports: bool = False) -> Callable[[Translator], Translator]:
    """Adds a translator to the table."""

    def add(translate: Translator) -> Translator:
        expanded = (re.sub(r"<([A-Z]+)>", lambda m: MACROS[m[1]], f) for f in forms)
        ENTRIES.append(Entry(name, section, tuple(map(re.compile, expanded)), translate, reports))
        return translate

    return add


def find(opcode: str) -> tuple[Entry, re.Match[str]] | None:
    for entry in ENTRIES:
        for form in entry.forms:
            if m := form.fullmatch(opcode):
                return entry, m
    return None
