"""PTX text -> kernels made of registers, variables, labels and instructions. No meaning, only structure.

The grammar is that of the PTX ISA, chapters "Syntax", "State Spaces, Types, and Variables" and "Directives", as far as
Triton and nvcc write it.
"""

from __future__ import annotations

import bisect
import dataclasses
import re
from collections.abc import Callable, Iterator

from gpu_on_cpu.errors import Unsupported

BITS = {"pred": 1, "f32x2": 64, "f16x2": 32, "bf16x2": 32, "bf16": 16}
BITS |= {f"{kind}{bits}": bits for kind in "bus" for bits in (8, 16, 32, 64)} | {
    "f16": 16,
    "f32": 32,
    "f64": 64,
}


@dataclasses.dataclass(frozen=True)
class Instruction:
    opcode: str  # with all modifiers, e.g. "ld.global.v4.b32"
    operands: tuple[str, ...]
    guard: str  # "", "%p1" or "!%p1"
    text: str
    line: int


@dataclasses.dataclass(frozen=True)
class Label:
    name: str


@dataclasses.dataclass(frozen=True)
class Parameter:
    name: str
    size: int  # bytes


@dataclasses.dataclass(frozen=True)
class Variable:
    """A variable in memory. `size` is 0 for `extern` shared memory, whose size the launch decides."""

    name: str
    space: str  # "shared", "local", "const" or "global"
    alignment: int
    size: int
    initial: bytes = b""


@dataclasses.dataclass
class Kernel:
    name: str
    parameters: list[Parameter]
    registers: dict[str, str]  # name -> type without the dot
    variables: dict[str, Variable]
    body: list[Instruction | Label]
    branch_targets: dict[str, list[str]]  # of brx.idx

    @property
    def shared(self) -> list[Variable]:
        return [v for v in self.variables.values() if v.space == "shared"]


VARIABLE = re.compile(
    r"(?:\.(?:extern|visible|weak)\s+)*\.(shared|local|const|global)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)"
    r"\s*(?:\[(\d*)\])?\s*(?:=\s*(?:\{([^}]*)\}|(\S+)))?\s*$",
    re.S,
)
PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+"  # type
    r"(?:\.ptr\s+|\.(?:global|shared|const|local)\s+|\.align\s+\d+\s+)*"  # what a pointer points to
    r"([\w$]+)(?:\[(\d+)\])?$"  # name, bytes
)
IGNORED = re.compile(
    r"^[ \t]*\.(?:loc|file|pragma|reqntid|maxntid|minnctapersm|maxnreg|noreturn"
    r"|explicitcluster|reqnctapercluster|maxclusterrank)\b[^\n]*$",
    re.M,
)
SYMBOL = re.compile(r"(?<![\w$%.])[%$\w]+")


class Text:
    """PTX without comments and without directives that say nothing here, its line numbers kept."""

    def __init__(self, ptx: str) -> None:
        def blank(m: re.Match[str]) -> str:
            return "\n" * m[0].count("\n") or " "

        text = re.sub(r'//[^\n]*|/\*.*?\*/|"[^"\n]*"', lambda m: m[0] if m[0][0] == '"' else blank(m), ptx, flags=re.S)
        text = IGNORED.sub("", text)
        debug = re.search(r"^\s*\.section\b", text, re.M)
        self.text = text[: debug.start()] if debug else text
        self._newlines = [m.start() for m in re.finditer("\n", self.text)]

    def line(self, offset: int) -> int:
        return bisect.bisect_left(self._newlines, offset) + 1


def matching_brace(source: Text, start: int) -> int:
    depth = 0
    for m in re.compile(r"[{}]").finditer(source.text, start):
        depth += 1 if m[0] == "{" else -1
        if depth == 0:
            return m.start()
    raise Unsupported("unbalanced braces", source.line(start))


def split_operands(text: str) -> list[str]:
    """Split at the commas that are outside braces, brackets and parentheses."""
    parts, depth, current = [], 0, ""
    for ch in text:
        depth += {"{": 1, "[": 1, "(": 1, "}": -1, "]": -1, ")": -1}.get(ch, 0)
        if ch == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += ch
    return [*parts, current.strip()] if current.strip() else parts


@dataclasses.dataclass(frozen=True)
class Statement:
    text: str  # "{", "}", "name:" or a statement without its ";"
    line: int


LABEL = re.compile(r"([\w$%]+)\s*:(?!:)")


def statements(source: Text, start: int, end: int) -> Iterator[Statement]:
    text, i = source.text, start
    while i < end:
        ch = text[i]
        if ch.isspace() or ch == ";":
            i += 1
        elif ch in "{}":
            yield Statement(ch, source.line(i))
            i += 1
        elif m := LABEL.match(text, i):
            yield Statement(m[1] + ":", source.line(i))
            i = m.end()
        else:
            stop = text.find(";", i)
            if stop < 0:
                raise Unsupported(text[i : i + 80], source.line(i), "statement without ';'")
            yield Statement(" ".join(text[i:stop].split()), source.line(i))
            i = stop + 1


def declared_registers(statement: Statement) -> Iterator[tuple[str, str]]:
    """'.reg .b32 %r<3>' -> ('%r0', 'b32'), ...; also plain names."""
    m = re.match(r"\.reg\s+\.(\w+)\s+(.*)", statement.text)
    if not m or m[1] not in BITS:
        raise Unsupported(statement.text, statement.line, "register declaration")
    for item in split_operands(m[2]):
        if many := re.fullmatch(r"(%\w+?)<(\d+)>", item):
            yield from ((f"{many[1]}{i}", m[1]) for i in range(int(many[2])))
        else:
            yield item, m[1]


def initial_bytes(values: str, kind: str, statement: str, line: int) -> bytes:
    size = BITS[kind] // 8
    try:
        return b"".join((int(v.strip(), 0) & (1 << 8 * size) - 1).to_bytes(size, "little") for v in values.split(","))
    except ValueError:
        raise Unsupported(statement, line, "initial value") from None


def variable(statement: str, line: int) -> Variable | None:
    """The declaration of a variable in memory, or None if the statement is something else."""
    m = VARIABLE.match(statement)
    if not m:
        return None
    space, align, kind, name, count, many, one = m.groups()
    if kind not in BITS:
        raise Unsupported(statement, line, "variable type")
    size = BITS[kind] // 8 * (int(count or 0) if count is not None else 1)
    initial = initial_bytes(many or one, kind, statement, line) if many or one else b""
    return Variable(name, space, int(align or BITS[kind] // 8), size, initial)


def parse_instruction(statement: Statement, rename: Callable[[str], str]) -> Instruction:
    m = re.match(r"(?:@(!?)([\w$%]+)\s+)?([\w.:]+)\s*(.*)", statement.text)
    if not m:
        raise Unsupported(statement.text, statement.line)
    operands = tuple(SYMBOL.sub(lambda w: rename(w[0]), o) for o in split_operands(m[4]))
    return Instruction(m[3], operands, m[1] + rename(m[2]) if m[2] else "", statement.text, statement.line)


class BodyParser:
    """Flattens nested scopes: what a scope declares gets a name of its own."""

    def __init__(self, items: list[Statement], variables: dict[str, Variable]) -> None:
        self.items = items
        self.registers: dict[str, str] = {}
        self.variables = dict(variables)
        self.body: list[Instruction | Label] = []
        self.branch_targets: dict[str, list[str]] = {}
        self.scopes: list[dict[str, str]] = [{}]

    def rename(self, name: str) -> str:
        for scope in reversed(self.scopes):
            if name in scope:
                return scope[name]
        return name

    def parse(self) -> BodyParser:
        for i, item in enumerate(self.items):
            if item.text == "{":
                self.open_scope(i)
            elif item.text == "}":
                self.scopes.pop()
            elif item.text.endswith(":"):
                self.body.append(Label(self.rename(item.text[:-1])))
            elif item.text.startswith("."):
                self.directive(item)
            else:
                self.body.append(parse_instruction(item, self.rename))
        return self

    def directive(self, item: Statement) -> None:
        if item.text.startswith(".reg"):
            self.declare_registers(item)
        elif v := variable(item.text, item.line):
            self.variables[v.name] = v
        elif item.text.startswith(".branchtargets") and isinstance(label := self.body[-1], Label):
            targets = item.text.removeprefix(".branchtargets").split(",")
            self.branch_targets[label.name] = [self.rename(t.strip()) for t in targets]
        else:
            raise Unsupported(item.text, item.line, "directive")

    def open_scope(self, i: int) -> None:
        """A label inside a scope is local to it and may be used before it stands."""
        names, depth = {}, 0
        for item in self.items[i:]:
            depth += {"{": 1, "}": -1}.get(item.text, 0)
            if depth == 0:
                break
            if depth == 1 and item.text.endswith(":"):
                names[item.text[:-1]] = f"{item.text[:-1]}__{i}"
        self.scopes.append(names)

    def declare_registers(self, item: Statement) -> None:
        inner = len(self.scopes) > 1
        for name, kind in declared_registers(item):
            unique = f"{name}__{len(self.registers)}" if inner else name
            if inner:
                self.scopes[-1][name] = unique
            self.registers[unique] = kind


def parse_parameters(text: str, line: int) -> list[Parameter]:
    parameters = []
    for p in split_operands(text):
        m = PARAMETER.match(" ".join(p.split()))
        if not m or m[1] not in BITS:
            raise Unsupported(p.strip(), line, "parameter")
        parameters.append(Parameter(m[2], BITS[m[1]] // 8 * int(m[3] or 1)))
    return parameters


ENTRY = re.compile(r"(?:\.(?:visible|weak|extern)\s+)*\.entry\s+([\w$]+)\s*(?:\((.*?)\))?\s*(?=\{)", re.S)
FUNCTION = re.compile(r"\.func\b[^;{]*([;{])", re.S)


def module_variables(source: Text, functions: list[tuple[int, int]]) -> dict[str, Variable]:
    """Variables declared outside all kernels."""
    found, at = {}, 0
    for start, end in [*functions, (len(source.text), len(source.text))]:
        for m in re.finditer(
            r"(?:\.(?:extern|visible|weak)\s+)*\.(?:shared|const|global)\b[^;]*;", source.text[at:start]
        ):
            line = source.line(at + m.start())
            v = variable(" ".join(m[0][:-1].split()), line)
            if v is None:
                raise Unsupported(m[0], line, "variable")
            found[v.name] = v
        at = end
    return found


def parse(ptx: str) -> list[Kernel]:
    """All kernels of a PTX module.

    Raises:
        Unsupported: the text is not PTX, or has a directive that is not modelled.
    """
    source = Text(ptx)
    for m in FUNCTION.finditer(source.text):
        if m[1] == "{":
            raise Unsupported(" ".join(m[0].split()), source.line(m.start()), "functions are not modelled")
    entries = [(m, matching_brace(source, m.end())) for m in ENTRY.finditer(source.text)]
    if not entries:
        raise Unsupported("no .entry in the module")
    module = module_variables(source, [(m.start(), end) for m, end in entries])
    kernels = []
    for m, end in entries:
        body = BodyParser(list(statements(source, m.end() + 1, end)), module).parse()
        parameters = parse_parameters(m[2] or "", source.line(m.start()))
        kernels.append(Kernel(m[1], parameters, body.registers, body.variables, body.body, body.branch_targets))
    return kernels
