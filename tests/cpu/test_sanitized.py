"""The ops under AddressSanitizer and UndefinedBehaviorSanitizer, and that these would see a mistake."""

import pytest

from tests.cpu import sanitized

if why := sanitized.why_not():
    pytest.skip(why, allow_module_level=True)

TESTS = (
    "tests/cpu/test_ops.py",
    "tests/cpu/test_threads.py",
    "tests/cpu/test_replay.py",
    "tests/test_cpu_backend.py",
)
# Python and torch run at a fraction of their speed: a few sizes of everything.
COMPACT = "nan or empty or right_with or reference or replayed or (Winograd and (odd or filters))"
EVERYTHING = "not training_step and not without_a_usable_extension and not long_sums"
FAULTS = {
    "read_past_the_end": "heap-buffer-overflow",
    "write_before_the_start": "heap-buffer-overflow",
    "overflow_a_size": "signed integer overflow",
    "load_misaligned": "misaligned address",
}
CALL = """
import ctypes
from pathlib import Path
(library,) = (Path.cwd() / "fused_resnet").glob("faults*.so")
values = {memory}
getattr(ctypes.CDLL(str(library)), "{fault}")(ctypes.c_void_p(values), ctypes.c_int64(510))
"""


@pytest.fixture(scope="module", autouse=True)
def _build():
    sanitized.build()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_mistake_is_seen(fault):
    memory = "ctypes.CDLL(None).malloc; values.restype = ctypes.c_void_p; values = values(4 * 510)"
    run = sanitized.run(["-c", CALL.format(memory=memory, fault=fault)])
    assert run.returncode != 0 and FAULTS[fault] in run.stdout, run.stdout


def test_a_mistake_in_a_tensor_is_seen():
    memory = "(tensor := __import__('torch').ones(2, 17, 3, 5)).data_ptr()"
    run = sanitized.run(["-c", CALL.format(memory=memory, fault="read_past_the_end")])
    assert run.returncode != 0 and "heap-buffer-overflow" in run.stdout, run.stdout


def test_ops(request):
    """A selection, or with --all-dtypes everything."""
    loaded = "from fused_resnet import _extension; print(_extension.load().__file__)"
    assert sanitized.run(["-c", loaded]).stdout.startswith(str(sanitized.FOLDER))
    selected = EVERYTHING if request.config.getoption("--all-dtypes") else COMPACT
    run = sanitized.run_pytest("-m", "not slow", "-k", selected, *TESTS)
    assert run.returncode == 0, run.stdout[-10_000:]
