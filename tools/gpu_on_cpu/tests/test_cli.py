"""The command line: output as JSON and as tables, exit codes, errors."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

SUBJECTS = str(pathlib.Path(__file__).parent / "subjects.py")


def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "gpu_on_cpu", *arguments], capture_output=True, text=True)


def rows(done: subprocess.CompletedProcess[str]) -> list[dict]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_run() -> None:
    done = cli("run", SUBJECTS, "--arch", "80,90", "--dtype", "bf16", "--seeds", "2", "--jobs", "1", "--json")
    assert done.returncode == 1, done.stderr
    by_kernel = {(r["kernel"], r["arch"]): r for r in rows(done)}
    assert set(by_kernel) == {(k, a) for k in ("scale", "wrong") for a in ("sm_80", "sm_90a")}
    for (kernel, _), row in by_kernel.items():
        assert row["sizes"] == 5
        assert (row["worst error"] > 1) == (kernel == "wrong") == bool(row["problem"])


def test_run_exits_with_0_when_all_is_right() -> None:
    done = cli(
        "run",
        SUBJECTS,
        "--kernels",
        "scale",
        "--arch",
        "80",
        "--dtype",
        "fp32",
        "--seeds",
        "1",
        "--jobs",
        "1",
    )
    assert done.returncode == 0
    assert "1 of 1 right" in done.stdout
    assert "\x1b" not in done.stdout, "no colours on a pipe"


def test_resources() -> None:
    done = cli(
        "resources",
        SUBJECTS,
        "--kernels",
        "scale",
        "--dtype",
        "fp32",
        "--arch",
        "80,120",
        "--jobs",
        "1",
        "--json",
    )
    found = rows(done)
    assert {r["arch"] for r in found} == {"sm_80", "sm_120a"}
    assert all(
        0 < r["registers"] < 64 and r["spills"] == 0 and r["instructions"] > 10 and 0 < r["occupancy"] <= 1
        for r in found
    )


def test_traffic() -> None:
    done = cli("traffic", SUBJECTS, "--kernels", "scale", "--dtype", "fp32", "--jobs", "1", "--json")
    found = {(r["tensor"], r["kind"]): r for r in rows(done)}
    assert set(found) == {("x", "load"), ("y", "store")}
    assert all(r["requested"] == r["tensor_bytes"] == 1200 for r in found.values())


def test_mutate() -> None:
    done = cli(
        "mutate",
        SUBJECTS,
        "--kernels",
        "scale",
        "--dtype",
        "bf16",
        "--arch",
        "90",
        "--count",
        "6",
        "--seeds",
        "1",
        "--jobs",
        "1",
        "--json",
        "--least",
        "1.01",
    )
    first, *survivors = rows(done)
    assert first["broken"] == 6
    assert first["noticed"] + len(survivors) == 6
    assert done.returncode == 1, "more was asked for than can be"


def test_instructions() -> None:
    found = rows(cli("instructions", "--json"))
    assert len(found) > 80
    assert any(r["instruction"] == "tcgen05.mma" for r in found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "/no/such/file.py"), "is not a file"),
        (("run", __file__), "no dictionary CASES"),
        (("run", SUBJECTS, "--kernels", "nothing"), "nothing"),
    ],
)
def test_usage_errors(arguments: tuple[str, ...], message: str) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_kernel_that_cannot_be_mutated() -> None:
    done = cli("mutate", SUBJECTS, "--kernels", "wrong", "--dtype", "bf16", "--arch", "90", "--jobs", "1")
    assert done.returncode == 1
    assert "the kernel itself fails" in done.stderr
