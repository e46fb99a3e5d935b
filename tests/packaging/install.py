"""Installs a package as a user would and tries it: `python install.py FILE REQUIREMENT...`.

FILE is a wheel or a source distribution, the requirements are what is there before (torch, pinned). All of it
happens in a virtual environment of its own, outside of the checkout, which is removed in the end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

SMOKE = Path(__file__).resolve().with_name("smoke.py")
TO_BUILD = ("setuptools>=77", "wheel", "ninja", "pybind11")


def install_and_try(package: Path, requirements: list[str]) -> None:
    """Raises: CalledProcessError where the installation or the trial fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as folder:
        venv.create(Path(folder, "venv"), with_pip=True)
        scripts = Path(folder, "venv", "bin")
        environment["PATH"] = f"{scripts}:{environment['PATH']}"  # as if activated: builds look for ninja
        python = str(scripts / "python")

        def run(*arguments: str) -> None:
            subprocess.run([python, "-I", *arguments], cwd=folder, env=environment, check=True)

        def pip_install(*arguments: str) -> None:
            run("-m", "pip", "--disable-pip-version-check", "install", "--quiet", *arguments)

        pip_install(*requirements)
        pip_install(*TO_BUILD)
        pip_install("--no-build-isolation", str(package))
        run(str(SMOKE), "--require-extension")


if __name__ == "__main__":
    install_and_try(Path(sys.argv[1]).resolve(strict=True), sys.argv[2:])
