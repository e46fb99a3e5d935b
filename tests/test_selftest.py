"""The self-test as far as no kernel runs: what is asked of it, what it says, and how it reads a profile."""

import json
import stat
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from typer.testing import CliRunner

from fused_resnet import ops
from fused_resnet.analysis import profiling, selftest
from fused_resnet.analysis.kernel_problems import PROBLEMS
from fused_resnet.backends import cuda
from fused_resnet.cli import app


def run(*options):
    return CliRunner().invoke(app, ["selftest", *options])


def test_options_are_checked():
    if not torch.cuda.is_available():
        result = run("--device", "cuda")
        assert result.exit_code == 2 and "no CUDA device" in result.output
    for option, values in (("device", "auto, cuda or cpu"), ("backend", "'triton', 'cuda', ")):
        result = run(f"--{option}", "abacus")
        assert result.exit_code == 2 and values in result.output.replace("\n", " ")


def test_where_nothing_can_run_it_says_why(monkeypatch):
    monkeypatch.setattr(selftest, "why_not", lambda backend, device: f"no {backend} on {device}")
    result = run("--device", "cpu")
    assert result.exit_code == 1
    for backend in ("triton", "cuda"):
        assert f"The kernels of {backend} cannot run here: no {backend} on cpu." in result.output


def test_an_absent_backend_is_not_checked(monkeypatch, tmp_path):
    """And the others are."""
    monkeypatch.setattr(selftest, "why_not", lambda backend, _: "not built" if backend == "cuda" else None)
    finding = selftest.Finding("parity", "an op", True, "")
    monkeypatch.setattr(selftest, "_on_cpu", lambda backend, problems: [lambda: iter([finding])])
    path = tmp_path / "report.json"
    assert run("--device", "cpu", "--report", str(path)).exit_code == 0
    found = {(f["check"], f["subject"]): f for f in json.loads(path.read_text())["findings"]}
    assert found["triton parity", "an op"]["passed"] is True
    absent = found["cuda", "everything"]
    assert absent["passed"] is None and absent["detail"] == "not built"


@pytest.mark.parametrize("tool", ["compute-sanitizer", "ncu"])
def test_tools_that_are_not_there(tool, monkeypatch):
    monkeypatch.setattr(selftest.shutil, "which", lambda name: None)
    check = {"compute-sanitizer": selftest.sanitized, "ncu": selftest.profiled}[tool]
    findings = list(check("cuda"))
    assert findings and all(f.passed is None and f"{tool} is not on the PATH" in f.detail for f in findings)


# ---- the profiler ------------------------------------------------------------------------------------------

LOG = """==PROF== Connected to process 1
"ID","Kernel Name","CC","dram__bytes.sum","gpu__time_duration.sum","launch__registers_per_thread"
"","","","byte","nsecond","register/thread"
"0","void at::native::vectorized_elementwise_kernel<4>(int)","9.0","4096","2,000","32"
"1","void fused_resnet::cuda::fprop<__half>(Params)","9.0","12,345,678","45,600","128"
"2","merge_sums(float *)","9.0","n/a","1000","40"
"""


def program(path, text):
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_the_profile_is_read(tmp_path):
    text = f"import sys; open(sys.argv[sys.argv.index('--log-file') + 1], 'w').write({LOG!r})"
    found = profiling.profile(program(tmp_path / "ncu", text), "cuda")
    rest = "? % occupancy, {} registers, ? bank conflicts, ? tensor instructions"
    assert found == {
        "1 void fused_resnet::cuda::fprop<__half>": f"45.6 us, 12.35 MB of DRAM, {rest.format(128)}",
        "2 merge_sums": f"1 us, ? MB of DRAM, {rest.format(40)}",
    }


def test_a_profiler_that_may_not_count_is_no_failure(tmp_path, monkeypatch):
    text = "print('==ERROR== ERR_NVGPUCTRPERM: no permission'); raise SystemExit(1)"
    ncu = program(tmp_path / "ncu", text)
    monkeypatch.setattr(selftest.shutil, "which", lambda name: ncu)
    (finding,) = selftest.profiled("cuda")
    assert finding.passed is None and "ERR_NVGPUCTRPERM" in finding.detail


def test_what_is_profiled_is_the_brief_set(monkeypatch):
    assert set(profiling.CALLS) == {PROBLEMS[name].op for name in selftest.BRIEF}
    ran = []
    for op in profiling.CALLS:
        monkeypatch.setitem(cuda.OPS, op, lambda *args, op=op: ran.append(op))
        monkeypatch.setitem(profiling.BUILDERS, op, lambda make, size, **variant: (torch.ones(1),))
    profiling.calls("cuda", "cpu")
    assert ran == list(profiling.CALLS)


@pytest.mark.parametrize("op", profiling.CALLS)
def test_what_is_profiled_are_calls_of_ops(op):
    size, variant = profiling.CALLS[op]
    with FakeTensorMode():
        getattr(ops, op)(*profiling.BUILDERS[op](profiling.Make(torch.bfloat16), size, **variant))
