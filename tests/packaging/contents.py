"""Checks what was packed: `python contents.py FOLDER`, which holds one source distribution and one wheel.

What has to be inside is told by the checkout that this file lies in.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PORTABLE = (
    "tools/gpu_on_cpu/src/gpu_on_cpu/cpp/cuda/portable.h"  # the one file of the tool that a build needs
)
TOP = {
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "MANIFEST.in",
    "Makefile",
    "README.md",
    "pyproject.toml",
    "setup.py",
}
METADATA = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}
BUILT = (".so", ".o", ".pyc", ".pyd")


def files(*folders: str) -> set[str]:
    """Paths of all files of the checkout's folders, from its root, without what was built there."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in found if path.suffix not in BUILT}


def differences(found: Iterable[str], expected: set[str]) -> list[str]:
    """What lacks and what should not be there, one per line."""
    found = set(found)
    lacking = [f"lacks {name}" for name in sorted(expected - found)]
    return lacking + [f"has {name}" for name in sorted(found - expected)]


def of_source(names: Iterable[str]) -> list[str]:
    """What is wrong with a source distribution of these files, their paths without its top folder."""
    names = {name for name in names if not name.startswith("fused_resnet.egg-info/")}
    tests = {name for name in files("tests") if name.endswith((".py", ".cpp"))}
    expected = files("fused_resnet", "csrc", "docs") | tests | TOP | {PORTABLE, "PKG-INFO", "setup.cfg"}
    return differences(names, expected)


def of_wheel(names: Iterable[str]) -> list[str]:
    """What is wrong with a wheel of these files: the package, one extension, metadata and nothing else."""
    names = set(names)
    extensions = {
        name for name in names if name.startswith("fused_resnet/_C_torch_") and name.endswith(".so")
    }
    wrong = [] if len(extensions) == 1 else [f"expected one extension, found {sorted(extensions)}"]
    about = {name for name in names if name.partition("/")[0].endswith(".dist-info")}
    wrong += differences({name.partition("/")[2] for name in about}, METADATA)
    return wrong + differences(names - extensions - about, files("fused_resnet"))


def packed(folder: Path) -> dict[str, list[str]]:
    """What is wrong, by file."""
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(source) as archive:
        names = [member.name.partition("/")[2] for member in archive if member.isfile()]
    with zipfile.ZipFile(wheel) as archive:
        return {source.name: of_source(names), wheel.name: of_wheel(archive.namelist())}


def main() -> None:
    found = packed(Path(sys.argv[1]))
    for name, wrong in found.items():
        print(f"{name}: {'; '.join(wrong) or 'complete, and nothing else in it'}")
    sys.exit(1 if any(found.values()) else 0)


if __name__ == "__main__":
    main()
