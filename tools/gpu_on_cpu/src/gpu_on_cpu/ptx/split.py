"""One kernel of a PTX module as a module of its own, so that only what runs has to be translated."""

from __future__ import annotations

import functools
import re

from gpu_on_cpu.ptx.parser import SYMBOL

_COMMENT = re.compile(r"//[^\n]*")
_HEADER = re.compile(r"^\s*\.(?:version|target|address_size)\b[^\n]*$", re.MULTILINE)
_VARIABLE = re.compile(r"(?:\.(?:extern|visible|weak)\s+)*\.(?:shared|const|global)\b[^;]*;")
_FUNCTION = re.compile(r"(?:\.(?:visible|weak|extern)\s+)*\.(?:entry\s+([\w$]+)|func\b[^;{]*)[^;{]*\{")
_BRACE = re.compile(r"[{}]")


def _end(text: str, opening: int) -> int:
    """Behind the brace that closes the one at `opening`."""
    depth = 0
    for m in _BRACE.finditer(text, opening):
        depth += 1 if m[0] == "{" else -1
        if depth == 0:
            return m.end()
    return len(text)


@functools.lru_cache(maxsize=64)
def kernels_of(ptx: str) -> dict[str, str]:
    """Kernel -> a module with it alone and with the variables that it names. Functions are left out."""
    text = _COMMENT.sub("", ptx)
    header = "\n".join(m[0].strip() for m in _HEADER.finditer(text))
    bodies, variables, at = {}, [], 0
    while function := _FUNCTION.search(text, at):
        variables += _VARIABLE.findall(text[at : function.start()])
        at = _end(text, function.end() - 1)
        if function[1]:
            bodies[function[1]] = text[function.start() : at]
    variables += _VARIABLE.findall(text[at:])
    return {name: "\n".join([header, *_needed(variables, body), body, ""]) for name, body in bodies.items()}


def _needed(variables: list[str], body: str) -> list[str]:
    named = set(SYMBOL.findall(body))
    return [v for v in variables if named & set(SYMBOL.findall(v.partition("=")[0]))]
