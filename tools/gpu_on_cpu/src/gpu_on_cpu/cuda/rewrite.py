"""Turns preprocessed CUDA C++ into C++: kernel launches and ``__shared__`` variables are the only new syntax.

Lines keep their numbers, so compile errors point to the user's source.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

from gpu_on_cpu.errors import CompilerError, Unsupported

_TOKEN = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<text>(?:u8|[uUL])?R"(?P<end>[^()\s\\]{0,16})\(.*?\)(?P=end)"   # raw strings
      | (?:u8|[uUL])?"(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)+')
  | (?P<word>[A-Za-z_$][\w$]*)
  | (?P<number>\.?\d(?:[eEpP][+-]|'(?=\w)|[\w.])*)
  | (?P<launch><<\s?<)
  | (?P<sign>::|->|.)
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)
_MARKER = re.compile(r"^#[^\n]*", re.MULTILINE)  # of the preprocessor: line, file and flags; 3 is a system header
_PLACE = re.compile(r'# (\d+) ("(?:[^"\\]|\\.)*")((?: \d)*)')
_CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">"}
_OPENING = {v: k for k, v in _CLOSING.items()}


@dataclasses.dataclass
class Token:
    """Attributes: kind is a group of the pattern, or "marker", or "system" for a piece of a system header."""

    kind: str
    text: str
    line: int


def tokens_of(text: str) -> list[Token]:
    """All tokens of preprocessed text, with the line of the source that they come from."""
    found: list[Token] = []
    line, system, end = 1, False, 0
    files: dict[str, bool] = {}  # is it a system header? Macros of one carry its flag into the user's files
    for marker in [*_MARKER.finditer(text), None]:
        chunk = text[end : marker.start() if marker else len(text)]
        if system:
            found.append(Token("system", chunk, line))
        else:
            for match in _TOKEN.finditer(chunk):
                found.append(Token("text" if match["text"] else match.lastgroup or "", match[0], line))
                line += match[0].count("\n")
        if marker:
            found.append(Token("marker", marker[0], line))
            end = marker.end()
            if place := _PLACE.match(marker[0]):
                line, system = int(place[1]) - 1, files.setdefault(place[2], " 3" in place[3])
    return found


def launchers_of(text: str) -> list[str]:
    """Names of the user's functions that are defined as ``extern "C" type name(...) {``."""
    pattern = re.compile(r'extern\s+"C"\s+(?!__global__)(?:[\w:*&]+\s+)*?[\w:*&]+[\s*&]+(\w+)\s*\([^;{]*\)\s*\{')
    user = "".join(t.text for t in tokens_of(text) if t.kind not in ("system", "marker"))
    return sorted({m[1] for m in pattern.finditer(user)})


def rewrite(text: str) -> str:
    """C++ that means what the CUDA C++ `text`, already preprocessed, means.

    Raises:
        Unsupported: inline PTX, which the emulator cannot run.
        CompilerError: a launch or a shared variable that cannot be understood.
    """
    tokens = tokens_of(text)
    out: list[str] = []
    i = 0
    while i < len(tokens):
        t = tokens[i]
        if t.text in ("asm", "__asm__", "__asm"):
            raise Unsupported(t.text, t.line, "inline PTX; cuda/portable.h has functions that run everywhere")
        elif t.text == "__noinline__":  # no macro, because the C++ library's headers use the name
            out.append("__attribute__((noinline))")
            i += 1
        elif t.text == "__shared__":
            i = _shared_variables(tokens, i, out)
        elif t.kind == "launch":
            i = _launch(tokens, i, out)
        else:
            out.append(t.text)
            i += 1
    return "".join(out)


def _significant(tokens: list[Token], start: int, step: int) -> Iterator[int]:
    """Indices of the tokens that are not space, from `start`."""
    i = start
    while 0 <= i < len(tokens):
        if tokens[i].kind not in ("space", "marker", "system"):
            yield i
        i += step


def _skip(tokens: list[Token], start: int, step: int) -> int:
    """The index of the bracket that closes (or opens, if `step` is -1) the one at `start`."""
    pairs = _CLOSING if step > 0 else _OPENING
    wanted = [pairs[tokens[start].text]]
    for i in _significant(tokens, start + step, step):
        text = tokens[i].text
        if text == wanted[-1]:
            wanted.pop()
            if not wanted:
                return i
        elif text in pairs and (text not in "<>" or wanted[-1] in "<>"):  # < in parentheses is a comparison
            wanted.append(pairs[text])
    raise CompilerError(f"line {tokens[start].line}: no bracket matches {tokens[start].text}")


def _kernel_start(tokens: list[Token], launch: int) -> int:
    """Where the expression before <<< begins: ns::name, name<T, (N > 3)>, or anything in parentheses."""
    start, done = launch, False
    for i in _significant(tokens, launch - 1, -1):
        t = tokens[i]
        if i >= start:
            continue  # inside brackets that were skipped
        if t.text in ")>" and not done:
            start = _skip(tokens, i, -1)
            done = t.text == ")"
        elif t.kind == "word" and not done:
            start, done = i, True
        elif t.text in ("::", ".", "->"):
            start, done = i, False
        else:
            break
    if start == launch:
        raise CompilerError(f"line {tokens[launch].line}: no kernel before <<<")
    return start


def _launch(tokens: list[Token], launch: int, out: list[str]) -> int:
    """Rewrites kernel<<<configuration>>>; the arguments in parentheses stay as they are."""
    start = _kernel_start(tokens, launch)
    del out[len(out) - (launch - start) :]
    end = launch + 1
    while "".join(t.text for t in tokens[end : end + 3]) != ">>>":
        if end >= len(tokens) or tokens[end].text in ";}":
            raise CompilerError(f"line {tokens[launch].line}: no >>> closes this <<<")
        end = _skip(tokens, end, 1) + 1 if tokens[end].text in ("(", "[", "{") else end + 1
    kernel = "".join(t.text for t in tokens[start:launch])
    configuration = rewrite("".join(t.text for t in tokens[launch + 1 : end]))
    out.append(f"::emu::Launch({configuration}).of([&](auto... emu_v) {{ {kernel}(emu_v...); }})")
    return end + 3


def _shared_variables(tokens: list[Token], start: int, out: list[str]) -> int:
    """Rewrites [extern] __shared__ type name[size], ...; as references to memory of the emulator."""
    end = next((i for i in _significant(tokens, start, 1) if tokens[i].text == ";"), None)
    if end is None:
        raise CompilerError(f"line {tokens[start].line}: no semicolon after __shared__")
    lines = "\n" * sum(t.text.count("\n") for t in tokens[start:end])
    words = [t.text for t in tokens[start + 1 : end] if t.kind not in ("space", "marker", "system")]
    dynamic = _drop_storage_class(out) == "extern" or "extern" in words
    words, alignment = _without_attributes([w for w in words if w not in ("extern", "static")])
    first, *others = _split_at_commas(words)
    base, _, _ = _declarator(first)
    for declarator in [first, *([base.rstrip("*& "), *d] for d in others)]:
        kind, name, dimensions = _declarator(declarator)
        if dynamic:
            value = f"*reinterpret_cast<{kind} (*){dimensions}>(::emu::dynamic_shared_start())"
        else:
            value = f"::emu::shared_variable<{kind} {dimensions}>({alignment})"
        out.append(f"[[maybe_unused]] static auto& {name} = {value}; ")
    out.append(lines)
    return end + 1


def _drop_storage_class(out: list[str]) -> str:
    """Takes back an ``extern`` or ``static`` that was written just before, and returns it."""
    i = len(out) - 1
    while i >= 0 and out[i].isspace():
        i -= 1
    if i >= 0 and out[i] in ("extern", "static"):
        word = out[i]
        out[i] = ""
        return word
    return ""


def _without_attributes(words: list[str]) -> tuple[list[str], str]:
    """The words without alignas(n) and __attribute__((aligned(n))), and n or 1."""
    kept: list[str] = []
    alignment = "1"
    i = 0
    while i < len(words):
        if words[i] not in ("alignas", "__attribute__"):
            kept.append(words[i])
            i += 1
            continue
        depth, group = 0, []
        for word in words[i + 1 :]:
            depth += (word == "(") - (word == ")")
            group.append(word)
            if depth == 0:
                break
        text = " ".join(group)
        found = (
            re.search(r"aligned__\s*(\(.*\))|aligned\s*(\(.*\))", text[1:-1].strip()[1:-1])
            if words[i] != "alignas"
            else None
        )
        if words[i] == "alignas":
            alignment = f"alignof({text})" if text[1:-1].strip().isidentifier() else text
        elif found:
            alignment = found[1] or found[2]
        i += 1 + len(group)
    return kept, alignment


def _split_at_commas(words: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    depth = 0
    for word in words:
        depth += (word in "([{<") - (word in ")]}>")
        if word == "," and depth == 0:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _declarator(words: list[str]) -> tuple[str, str, str]:
    """Splits ``const T name[2][3]`` into type, name and dimensions."""
    cut, depth = len(words), 0
    for i, word in enumerate(words):
        if word == "[" and depth == 0:
            cut = i
            break
        depth += (word in "(<") - (word in ")>")
    if cut < 2 or not words[cut - 1].isidentifier():
        raise CompilerError(f"not understood as a shared variable: {' '.join(words)}")
    return " ".join(words[: cut - 1]), words[cut - 1], " ".join(words[cut:])
