"""The README's examples, as one file: the scripts run when it is imported, the test under pytest."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_examples(tmp_path: pathlib.Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert len(blocks) == 3
    (tmp_path / "test_examples.py").write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "test_examples.py"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "18 passed" in done.stdout
    assert done.stdout.startswith("4000\n")
    promised = re.search(r"print\(fault\)\s+# (.*? \[block .*?line )", README.read_text())
    assert promised and promised[1] in done.stdout, "the fault is what the README says"


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", README.read_text()))))
def test_links(link: str) -> None:
    assert (README.parent / link).exists()
