"""The pages: their links, the files and names that they mention, and the programs in them."""

from __future__ import annotations

import functools
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

# Packages that a program on a page may use and an installation may lack.
OPTIONAL = ("accelerate", "lightning", "onnx", "onnxruntime", "onnxscript", "openvino", "timm", "torchvision")
GENERATED = ("build/", "out/")  # folders that commands make
NOT_SEARCHED = {".git", "build", "dist", "out", "__pycache__", "node_modules"}
SUFFIXES = "cpp cu cuh csv h json md py sh svg toml"

FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
QUOTED = re.compile(r"`([^`]+)`")
PATH = re.compile(rf"\.?[\w.*-]+(/[\w.*-]+)+/?|[\w*-]+\.({SUFFIXES.replace(' ', '|')})")
NAME = re.compile(r"(fused_resnet(?:\.\w+)+)(?:\(.*)?")
TEST = re.compile(r"test_\w+")


class Block(NamedTuple):
    """A program on a page, and the line that it begins in."""

    page: Path
    line: int
    source: str


def blocks(page: Path) -> list[Block]:
    """The page's blocks marked ``python``; excerpts, which do not run, are marked ``py``."""
    text = page.read_text()
    found = (match for match in FENCED.finditer(text) if match[1] == "python")
    return [Block(page, text.count("\n", 0, match.start()) + 2, match[2]) for match in found]


BLOCKS = [block for page in PAGES for block in blocks(page)]


def prose(page: Path) -> str:
    """The page without fenced blocks."""
    return FENCED.sub("", page.read_text())


@functools.cache
def files() -> tuple[str, ...]:
    """Every file of the tree and every folder, as ``/folder/file``."""
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [f for f in folders if f not in NOT_SEARCHED and not f.startswith(".venv")]
        found += [f"/{(Path(folder) / name).relative_to(ROOT).as_posix()}" for name in (*folders, *names)]
    return tuple(found)


def anchors(page: Path) -> set[str]:
    """What headings are linked by, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """Relative links to files that do not exist, or to headings that they do not have."""
    found = []
    for link in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


def missing_paths(page: Path) -> list[str]:
    """Back-quoted paths, from the root or the end of one, that are nowhere in the tree."""
    quoted = {text for text in QUOTED.findall(prose(page)) if PATH.fullmatch(text)}
    return sorted(path for path in quoted if not path.startswith(GENERATED) and not _exists(path))


def _exists(path: str) -> bool:
    ending = re.compile(".*/" + re.escape(path.rstrip("/")).replace(r"\*", "[^/]*"))
    return any(ending.fullmatch(file) for file in files())


def missing_names(page: Path) -> list[str]:
    """Back-quoted names in ``fused_resnet`` that nothing has, and of tests that there are not."""
    quoted = set(QUOTED.findall(prose(page)))
    names = {match[1] for match in map(NAME.fullmatch, quoted) if match is not None}
    absent = [name for name in names if not _resolves(name)]
    return sorted(
        [*absent, *(name for name in quoted if TEST.fullmatch(name) and name not in defined_tests())]
    )


def _resolves(name: str) -> bool:
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        return _has(value, parts[count:])
    return False


def _has(value: object, attributes: list[str]) -> bool:
    for attribute in attributes:
        if not hasattr(value, attribute):
            return False
        value = getattr(value, attribute)
    return True


@functools.cache
def defined_tests() -> frozenset[str]:
    """Names of all test functions."""
    sources = (path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    return frozenset(
        name for source in sources for name in re.findall(r"^def (test_\w+)", source, re.MULTILINE)
    )


@every_page
def test_links(page: Path) -> None:
    assert not broken_links(page)


@every_page
def test_paths(page: Path) -> None:
    assert not missing_paths(page)


@every_page
def test_names(page: Path) -> None:
    assert not missing_names(page)


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    listed = {name.partition("#")[0] for name in LINK.findall(index)}
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} <= listed


def test_mistakes_are_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One heading\n[a](page.md#one-heading) [b](nowhere.md) [c](#another) [d](https://example.org)\n"
        "`tests/test_docs.py` `test_docs.py` `docs/*.md` `tests/no_such.py` `gone.h` `no/folder` `a / b`\n"
        "`fused_resnet.fuse(model)` `fused_resnet.backends.cpu.OPS`\n"
        "`fused_resnet.fuze` `test_links` `test_lynx`\n"
        "```python\nprint('`not/looked/at.py`')\n```\n```py\nexcerpt\n```\n"
    )
    assert broken_links(page) == ["nowhere.md", "#another"]
    assert missing_paths(page) == ["gone.h", "no/folder", "tests/no_such.py"]
    assert missing_names(page) == ["fused_resnet.fuze", "test_lynx"]
    assert blocks(page) == [Block(page, 7, "print('`not/looked/at.py`')\n")]


def test_there_are_programs() -> None:
    assert {block.page.name for block in BLOCKS} >= {"README.md", "memory.md", "numerics.md"}


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.page.stem}-{block.line}")
def test_program(block: Block, tmp_path: Path) -> None:
    """In a process and a folder of its own, on one thread."""
    for package in OPTIONAL:
        if re.search(rf"^\s*(import|from) (.*[\s,])?{package}\b", block.source, re.MULTILINE):
            pytest.importorskip(package)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", block.source]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{block.page.name}, line {block.line}:\n{done.stderr}"
