"""Kinds of breakages, each of which changes one line of PTX."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Iterator

Rewrite = Callable[[str], str | None]  # a line -> the broken line, "" to drop it, None where the kind does not apply

GUARD = r"\s*(?:@!?%\w+\s+)?"


@dataclasses.dataclass(frozen=True)
class Mutant:
    """PTX with one line broken.

    Attributes:
        kind: what was done, e.g. "drop bar.sync".
        line: number of the line, counted from 1.
        before, after: the line; `after` is "" if it was dropped.
        ptx: the whole text.
    """

    kind: str
    line: int
    before: str
    after: str
    ptx: str = dataclasses.field(repr=False)


def dropper(opcode: str) -> Rewrite:
    pattern = re.compile(GUARD + opcode)
    return lambda line: "" if pattern.match(line) else None


def number(pattern: str, change: Callable[[int], int]) -> Rewrite:
    """Replaces the number that group 1 of `pattern` finds."""
    compiled = re.compile(pattern)

    def rewrite(line: str) -> str | None:
        m = compiled.search(line)
        return line[: m.start(1)] + str(change(int(m[1], 0))) + line[m.end(1) :] if m else None

    return rewrite


# Two different registers of one operand list: B of mma, the first two of A of wgmma, a vector store, sub.
SWAPPABLE = [
    re.compile(p)
    for p in (
        r"mma\.sync\S+\s+\{[^}]*\}, \{[^}]*\}, \{ ?(%r\d+), (%r\d+)",
        r"wgmma\.mma_async\S+ \{[^}]*\}, \{(%r\d+),(%r\d+)",
        r"st\.(?:shared|global)\S* \[[^\]]*\], \{ ?(%\w+), (%\w+)",
        r"tcgen05\.st\S+ \[[^\]]*\], \{(%r\d+), (%r\d+)",
        r"^\s*sub\.(?:rn\.)?f32\s+%\w+, (%\w+), (%\w+)",
    )
]


def swap_registers(line: str) -> str | None:
    for pattern in SWAPPABLE:
        m = pattern.search(line)
        if m and m[1] != m[2]:
            return line[: m.start(1)] + m[2] + line[m.end(1) : m.start(2)] + m[1] + line[m.end(2) :]
    return None


def drop_predicate(line: str) -> str | None:
    m = re.match(r"(\s*)@!?%\w+\s+((?:ld|st|cp|tcgen05|mbarrier|atom|red)\S*\s.*)", line)
    return m[1] + m[2] if m else None


def full_copy(line: str) -> str | None:
    """cp.async that ignores its mask."""
    m = re.match(r"(.*cp\.async\.c[ag]\S* \[[^\]]*\], \[[^\]]*\], (0x\w+|\d+), )%r\d+;", line)
    return f"{m[1]}{m[2]};" if m else None


def shift_offset(line: str) -> str | None:
    """A memory access, one element further: 16 bytes for vectors and matrices, else its own size."""
    m = re.match(GUARD + r"(ld|st|atom|red|ldmatrix|stmatrix|cp\.async)\.", line)
    if not m or ".param" in line or "bulk" in line:
        return None
    step = 16 if re.search(r"\.v4|matrix|cp\.async\.cg", line) else 8 if ".v2" in line else 2 if ".b16" in line else 4
    if re.search(r"\[\s*%\w+\s*\+\s*\d+\s*\]", line):
        return number(r"\[\s*%\w+\s*\+\s*(\d+)\s*\]", lambda n: n + step)(line)
    shifted, count = re.subn(r"\[(%\w+)\]", rf"[\1+{step}]", line, count=1)
    return shifted if count else None


COMPARISON = re.compile(r"(\s*setp\.)(lt|le|gt|ge|eq|ne)(\..*)")
OFF_BY_ONE = {"lt": "le", "le": "lt", "gt": "ge", "ge": "gt", "eq": "ne", "ne": "eq"}
OPPOSITE = {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt", "eq": "ne", "ne": "eq"}


def comparison(other: dict[str, str]) -> Rewrite:
    def rewrite(line: str) -> str | None:
        m = COMPARISON.match(line)
        return m[1] + other[m[2]] + m[3] if m else None

    return rewrite


def replacer(pattern: str, replacement: str) -> Rewrite:
    compiled = re.compile(pattern)
    return lambda line: compiled.sub(replacement, line, count=1) if compiled.search(line) else None


def either(*rewrites: Rewrite) -> Rewrite:
    return lambda line: next((new for r in rewrites if (new := r(line)) is not None), None)


def other_bit(n: int) -> int:
    """Another value of similar size: clears the lowest bit, or doubles a power of two."""
    return n ^ (n & -n) if n & (n - 1) else n * 2


def clear_swizzle(n: int) -> int:
    """A matrix descriptor without its swizzle mode (bits 62 and 63)."""
    return n & ~(3 << 62) if n > 0 else n & ((1 << 62) - 1)


KINDS: dict[str, Rewrite] = {
    "drop bar.sync": dropper(r"bar(?:rier)?(?:\.cta)?\.sync"),
    "drop cp.async.wait": dropper(r"cp\.async\.wait_group"),
    "weaken wait": either(
        number(r"cp\.async\.wait_group\s+(\d+)", lambda n: n + 1),
        number(r"wgmma\.wait_group\S*\s+(\d+)", lambda n: n + 1),
    ),
    "drop cp.async.commit": dropper(r"cp\.async\.commit_group"),
    "drop bulk wait": dropper(r"cp\.async\.bulk\.wait_group"),
    "drop wgmma.wait": dropper(r"wgmma\.wait_group"),
    "drop wgmma.fence": dropper(r"wgmma\.fence"),
    "drop fence.proxy": dropper(r"fence\.proxy"),
    "drop tcgen05.wait": dropper(r"tcgen05\.wait"),
    "drop tcgen05.commit": dropper(r"tcgen05\.commit"),
    "drop mbarrier wait": dropper(r"@!complete bra"),
    "drop mbarrier arrival": dropper(r"mbarrier\.arrive"),
    "drop mma": dropper(r"(?:wgmma\.mma_async|mma\.sync|tcgen05\.mma)"),
    "drop vector store": dropper(r"st\.global(?:\.L\d::\w+)*\.v"),
    "drop scalar store": dropper(r"st\.global(?:\.L\d::\w+)*\.[bfsu]\d"),
    "drop atomic": dropper(r"(?:atom|red)\."),
    "drop predicate": drop_predicate,
    "ignore copy mask": full_copy,
    "swap registers": swap_registers,
    "shift offset": shift_offset,
    "flip comparison": comparison(OFF_BY_ONE),
    "negate comparison": comparison(OPPOSITE),
    "and -> or": replacer(r"^(\s*)and\.pred", r"\1or.pred"),
    "mask constant": number(r"^\s*and\.b32\s.*, (\d+);", other_bit),
    "xor constant": number(r"^\s*xor\.b32\s.*, (\d+);", lambda n: n * 2),
    "or constant": number(r"^\s*or\.b32\s.*, (\d+);", lambda n: n * 2),
    "shift amount": number(r"^\s*sh[lr]\.b32\s.*, (\d+);", lambda n: n + 1),
    "shuffle distance": number(r"shfl\.sync\.bfly\.b32\s.*, (\d+), 31", lambda n: n // 2 or 2),
    "index constant": number(r"^\s*add\.s(?:32|64)\s.*, (\d+);", lambda n: n + 2),
    "descriptor bits": number(r"^\s*or\.b64\s.*, (-?\d{15,});", clear_swizzle),
    "relu bound": replacer(r"(max\.f32\s.*), 0f00000000", r"\1, 0fBF800000"),
    "add -> sub": replacer(r"^(\s*)add\.(rn\.)?f32\s", r"\1sub.\2f32 "),
    "mul -> add": replacer(r"^(\s*)mul\.(rn\.)?f32\s", r"\1add.\2f32 "),
}


def only_squared(register: str, ptx: str, definition: str) -> bool:
    """Whether a register is used in squares alone, at once or after a choice between it and 0."""
    name = re.escape(register)
    for use in re.findall(rf"[^\n]*{name}\b[^\n]*", ptx):
        if use.strip() == definition or re.match(rf"\s*(?:mul|fma)\S*\s+%\w+, {name}, {name}[,;]", use):
            continue
        chosen = re.match(rf"\s*selp\.\S+\s+(%\w+), {name}, 0f00000000,", use)
        if not chosen or not only_squared(chosen[1], ptx, use.strip()):
            return False
    return True


def changes_a_sign_only(line: str, ptx: str) -> bool:
    """Whether `line` is a difference that is only ever squared, so that swapping its operands changes nothing."""
    m = re.match(r"\s*sub\.\S+\s+(%\w+),", line)
    return m is not None and only_squared(m[1], ptx, line.strip())


def candidates(ptx: str) -> dict[str, list[Mutant]]:
    """Every breakage that changes the text, by kind; without those that are known to change no result."""
    found: dict[str, list[Mutant]] = {}
    lines = ptx.splitlines()
    for i, line in enumerate(lines):
        if line.strip().startswith(("//", ".", "$")):
            continue
        for kind, rewrite in KINDS.items():
            new = rewrite(line)
            if new is not None and new != line and not (kind == "swap registers" and changes_a_sign_only(line, ptx)):
                text = "\n".join([*lines[:i], new, *lines[i + 1 :]])
                found.setdefault(kind, []).append(Mutant(kind, i + 1, line.strip(), new.strip(), text))
    return found


def mutate(ptx: str, count: int | None = None, seed: int = 0) -> Iterator[Mutant]:
    """Breakages of a PTX text, in random order, going round the kinds.

    Args:
        count: how many at most; None: all there are.
        seed: another order. The same instructions and seed give the same breakages, wherever the kernel's source lies
            (its path stands in the debug information).
    """
    remaining = {}
    for kind, found in candidates(ptx).items():
        rng = random.Random(f"{[m.before for m in found]} {seed} {kind}")
        remaining[kind] = rng.sample(found, len(found))
    given = 0
    while remaining and (count is None or given < count):
        for kind in [k for k in KINDS if k in remaining]:
            if given == count:
                return
            yield remaining[kind].pop()
            given += 1
            if not remaining[kind]:
                del remaining[kind]
