"""PTX ISA, "Data Movement and Conversion Instructions": ld, st, atom, red, and what only concerns caches."""

from __future__ import annotations

from re import Match

from gpu_on_cpu.ptx.emitter import FLOATS, HALVES, Emitter, ctype, storage, vector
from gpu_on_cpu.ptx.parser import BITS
from gpu_on_cpu.ptx.table import instruction

CHAPTER = "Data Movement and Conversion Instructions: "
ORDER = r"(?:\.(?:weak|volatile|(?:relaxed|acquire|release)(?:\.(?:cta|cluster|gpu|sys))?))?"
ACCESS = ORDER + r"(?:\.(?P<space>global|local|<SHARED>))?(?:\.nc)?<CACHE>(?P<n>\.v[248])?\.(?P<t><ANY>)"


def count(m: Match[str]) -> int:
    return int(m["n"][2:]) if m["n"] else 1


def space(m: Match[str]) -> str:
    return (m["space"] or "generic").split("::")[0]


@instruction("ld.param", CHAPTER + "ld", r"ld\.param(?P<n>\.v[24])?\.(?P<t><ANY>)", reports=True)
def ld_param(e: Emitter, m: Match[str], a: list[str]) -> str:
    n, t = count(m), storage(m["t"])
    sign = f"({ctype(m['t'])})" if m["t"][0] == "s" else ""
    return f"{t} t_[{n}]; memcpy(t_, {e.parameter(a[1], n * BITS[m['t']] // 8)}, sizeof t_); " + " ".join(
        e.set(r, f"{sign}t_[{i}]") for i, r in enumerate(vector(a[0]))
    )


@instruction("ld.const", CHAPTER + "ld", r"ld\.const(?P<n>\.v[24])?\.(?P<t><ANY>)", reports=True)
@instruction("ld", CHAPTER + "ld, ld.global.nc", r"ld" + ACCESS, reports=True)
def ld(e: Emitter, m: Match[str], a: list[str]) -> str:
    kind, registers = m["t"], vector(a[0])
    n = count(m)
    size, t = BITS[kind] // 8, storage(kind)
    where = "global" if "space" not in m.groupdict() else space(m)
    site = "" if where in ("shared", "local") else f", {e.site}"
    sign = f"({ctype(kind)})" if kind[0] == "s" else ""
    return f"{t} t_[{n}]; memcpy(t_, ptx::load_{where}({e.address(a[1])}, {n * size}{site}), {n * size}); " + " ".join(
        e.set(r, f"{sign}t_[{i}]") for i, r in enumerate(registers) if r != "_"
    )


@instruction("st", CHAPTER + "st", r"st" + ACCESS, reports=True)
def st(e: Emitter, m: Match[str], a: list[str]) -> str:
    n, size, t, where = count(m), BITS[m["t"]] // 8, storage(m["t"]), space(m)
    site = "" if where in ("shared", "local") else f", {e.site}"
    values = ", ".join(f"({t})({e.raw(r)})" for r in vector(a[1]))
    return f"{t} t_[{n}] = {{{values}}}; ptx::store_{where}({e.address(a[0])}, t_, {n * size}{site});"


# ---- atomics; o_ is the old value, b_ and c_ the operands
OPERATIONS = {
    "add": "o_ + b_",
    "and": "o_ & b_",
    "or": "o_ | b_",
    "xor": "o_ ^ b_",
    "exch": "b_",
    "cas": "o_ == b_ ? c_ : o_",
    "inc": "o_ >= b_ ? 0 : o_ + 1",
    "dec": "o_ == 0 || o_ > b_ ? b_ : o_ - 1",
}
SEMANTICS = r"(?:\.(?:relaxed|acquire|release|acq_rel))?"
SCOPES = r"(?:\.(?:cta|cluster|gpu|sys))?"
# The ISA puts both before the space, Triton behind it: the scope first in an add, the semantics first in a cas.
SCOPE = rf"(?P<before>{SEMANTICS}{SCOPES})(?:\.(?P<space>global|<SHARED>))?(?P<after>{SCOPES}{SEMANTICS}|{SEMANTICS}{SCOPES})"


def operation(m: Match[str], kind: str) -> str:
    if m["f"] in ("min", "max"):
        return f"{'ptx::f' if kind in FLOATS + HALVES else 'std::'}{m['f']}(o_, b_)"
    return OPERATIONS[m["f"]]


def begin(e: Emitter, m: Match[str], address: str, size: int, i: int) -> str:
    """The place of element i of an atomic, as a C++ expression."""
    where = f"{e.address(address)} + {i * size}"
    return (
        f"ptx::begin_atomic_shared({where}, {size})"
        if space(m) == "shared"
        else f"ptx::begin_atomic({where}, {size}, {-e.site if i else e.site})"
    )


def aligned(e: Emitter, m: Match[str], address: str, size: int) -> str:
    """A vector has to be aligned as a whole."""
    return (
        f'if (({e.address(address)}) % {count(m) * size}) emu::die("misaligned vector atomic"); '
        if count(m) > 1
        else ""
    )


def orders(m: Match[str]) -> str:
    """Whether it acquires or releases, and whether its scope is wider than the block."""
    words = (m["before"] + m["after"]).split(".")
    device = not {"cta", "cluster"} & set(words)
    return f"{'true' if {'acquire', 'release', 'acq_rel'} & set(words) else 'false'}, {'true' if device else 'false'}"


def split(m: Match[str], a: list[str]) -> tuple[list[str], str, list[str]]:
    """(destinations, address, values) of atom and red."""
    n = count(m) if "n" in m.groupdict() else 1
    return (vector(a[0]), a[1], a[2:]) if m["o"] == "atom" else (["_"] * n, a[0], a[1:])


@instruction(
    "atom, red",
    CHAPTER.replace("Data Movement and Conversion", "Parallel Synchronization and Communication") + "atom, red",
    r"(?P<o>atom|red)" + SCOPE + r"\.(?P<f>add)(?P<n>\.v[24])?\.(?P<t>f32|f64|[su](?:32|64))",
    r"(?P<o>atom|red)" + SCOPE + r"\.(?P<f>and|or|xor|exch|min|max|cas|inc|dec)(?P<n>)\.(?P<t>[bsu](?:32|64)|b16)",
    reports=True,
)
def atomic(e: Emitter, m: Match[str], a: list[str]) -> str:
    t, size = ctype(m["t"]), BITS[m["t"]] // 8
    destinations, address, rest = split(m, a)
    lines = []
    for i, value in enumerate(vector(rest[0])):
        third = f"{t} c_ = {e.value(rest[1], m['t'])}; " if m["f"] == "cas" else ""
        where = begin(e, m, address, size, i)
        function = f"[&]({t} o_) -> {t} {{ return {operation(m, m['t'])}; }}"
        lines.append(
            f"{{ {t} b_ = {e.value(value, m['t'])}; {third}{t} old_ = ptx::atomic<{t}>({where}, {orders(m)}, {function}); {e.set(destinations[i], 'old_', m['t'])} }}"
        )
    return aligned(e, m, address, size) + " ".join(lines)


@instruction(
    "atom, red (16 bit)",
    "Parallel Synchronization and Communication Instructions: atom, red",
    r"(?P<o>atom|red)" + SCOPE + r"\.(?P<f>add|min|max)(?:\.noftz)?(?P<n>\.v[248])?\.(?P<h><H>)(?P<x2>x2)?",
    reports=True,
)
def atomic_half(e: Emitter, m: Match[str], a: list[str]) -> str:
    t, function, size = ("uint32_t", "map16x2", 4) if m["x2"] else ("uint16_t", "map16", 2)
    bf = "true" if m["h"] == "bf16" else "false"
    expression = "x + y" if m["f"] == "add" else f"ptx::f{m['f']}(x, y)"
    destinations, address, rest = split(m, a)
    lines = []
    for i, value in enumerate(vector(rest[0])):
        where = begin(e, m, address, size, i)
        body = f"[&]({t} o_) -> {t} {{ return ptx::{function}<{bf}>([](double x, double y, double) {{ return {expression}; }}, o_, b_); }}"
        lines.append(
            f"{{ {t} b_ = {e.raw(value)}; {t} old_ = ptx::atomic<{t}>({where}, {orders(m)}, {body}); {e.set(destinations[i], 'old_')} }}"
        )
    return aligned(e, m, address, size) + " ".join(lines)


@instruction(
    "prefetch, applypriority",
    CHAPTER + "prefetch, prefetchu, applypriority",
    r"prefetch(?:u)?(?:\.global)?\.L[12](?:::\w+)?",
    r"applypriority(?:\.global)?\.L2::evict_normal",
)
def cache_hint(e: Emitter, m: Match[str], a: list[str]) -> str:
    return ";"


@instruction("createpolicy", CHAPTER + "createpolicy", r"createpolicy\.fractional(?:\.L2::\w+)+\.b64")
def createpolicy(e: Emitter, m: Match[str], a: list[str]) -> str:  # an opaque value that only caches read
    return e.set(a[0], "0")
