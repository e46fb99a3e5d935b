"""With --all-forms the run fails if a form of the table of instructions was not executed by any test."""

from __future__ import annotations

import os
import pathlib
import tempfile

import pytest
from hypothesis import settings

from gpu_on_cpu.ptx import table, translate  # noqa: F401  (the translator fills the table)

settings.register_profile("fixed", max_examples=12, derandomize=True, deadline=None)
settings.register_profile("long", max_examples=1000, deadline=None)
settings.load_profile("fixed")  # --hypothesis-profile=long replaces it


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-forms",
        action="store_true",
        help="fail unless every form of every modelled instruction was executed",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--all-forms") and "GPU_ON_CPU_EXECUTED" not in os.environ:  # workers inherit the controller's
        os.environ["GPU_ON_CPU_EXECUTED"] = tempfile.mkdtemp(prefix="gpu_on_cpu_executed_")


def unexecuted() -> list[str]:
    folder = pathlib.Path(os.environ["GPU_ON_CPU_EXECUTED"])
    opcodes = {line for f in folder.glob("*.txt") for line in f.read_text().split("\n") if line}
    return [
        f"{e.name}: {form.pattern}"
        for e in table.ENTRIES
        for form in e.forms
        if not any(form.fullmatch(o) for o in opcodes)
    ]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if (
        session.config.getoption("--all-forms")
        and not hasattr(session.config, "workerinput")
        and (missing := unexecuted())
    ):
        session.config.get_terminal_writer().line(
            "\nforms of the table that no test executed:\n  " + "\n  ".join(missing), red=True
        )
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
