"""What packages hold, and what they are built for. `make test-packages` builds and installs them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.packaging import contents

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def project() -> dict[str, Any]:
    """pyproject.toml."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def good_wheel() -> set[str]:
    about = {f"fused_resnet-0.1.0.dist-info/{name}" for name in contents.METADATA}
    return contents.files("fused_resnet") | about | {"fused_resnet/_C_torch_2_14_1.cpython-311.so"}


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (set(), []),
        ({"fused_resnet/py.typed"}, ["lacks fused_resnet/py.typed"]),
        ({"fused_resnet-0.1.0.dist-info/licenses/LICENSE"}, ["lacks licenses/LICENSE"]),
        ({"fused_resnet/removed.py", "tests/zoo.py"}, ["has fused_resnet/removed.py", "has tests/zoo.py"]),
        ({"fused_resnet/__pycache__/fuse.pyc"}, ["has fused_resnet/__pycache__/fuse.pyc"]),
    ],
)
def test_what_is_wrong_with_a_wheel(change, wrong):
    assert contents.of_wheel(good_wheel() ^ change) == wrong


@pytest.mark.parametrize("others", [0, 2])
def test_a_wheel_has_one_extension(others):
    """Not those of other torches that lie in the checkout."""
    found = [f"fused_resnet/_C_torch_2_1{i}_0.cpython-311.so" for i in range(others)]
    names = {name for name in good_wheel() if not name.endswith(".so")}
    assert contents.of_wheel(names.union(found)) == [f"expected one extension, found {found}"]


def test_what_is_wrong_with_a_source_distribution():
    good = contents.files("fused_resnet", "csrc", "docs") | contents.TOP
    good |= {name for name in contents.files("tests") if name.endswith((".py", ".cpp"))}
    good |= {contents.PORTABLE, "PKG-INFO", "setup.cfg", "fused_resnet.egg-info/SOURCES.txt"}
    assert contents.of_source(good) == []
    change = {"csrc/bind.h", "README.md", "build/lib/fused_resnet/fuse.py", "fused_resnet/_C_torch_2_14_1.so"}
    assert contents.of_source(good ^ change) == [
        *("lacks README.md", "lacks csrc/bind.h"),
        *("has build/lib/fused_resnet/fuse.py", "has fused_resnet/_C_torch_2_14_1.so"),
    ]


def test_wheels_are_built_for_every_python_that_is_named():
    """The configuration is valid, too; building needs containers."""
    if shutil.which("cibuildwheel") is None:
        pytest.skip("needs cibuildwheel")
    command = ["cibuildwheel", "--print-build-identifiers", "--platform", "linux", str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pythons = [f"cp{python.replace('.', '')}" for python in PYTHONS]
    expected = {f"{python}-manylinux_{cpu}" for python in pythons for cpu in ("x86_64", "aarch64")}
    assert set(done.stdout.split()) == expected
    named = {c.rpartition(" ")[2] for c in project()["project"]["classifiers"] if " :: 3." in c}
    assert named == set(PYTHONS)


def test_wheels_are_built_and_tried_with_the_torch_that_the_suite_runs_on():
    settings = project()["tool"]["cibuildwheel"]
    wanted = re.search(r"^TORCH \?= (torch==\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert wanted is not None
    for key in ("before-build", "before-test"):
        assert re.findall(r"torch==\S+", settings[key]) == [wanted[1]]
