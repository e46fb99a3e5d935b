"""Choosing between candidates: what is measured, what is kept, what is never measured."""

import functools
import json
import warnings

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fused_resnet.backends import tuning

KEY = ("some kernel", (2, 3), torch.bfloat16)
CANDIDATES = ("first", "second", "third")


@pytest.fixture(autouse=True)
def gpu(monkeypatch, tmp_path):
    """A GPU to measure on, as far as `tuning` can tell."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tuning, "environment", lambda: "some GPU, torch 1.2")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    restart(monkeypatch)


def restart(monkeypatch):
    """Forget what a new process would not know."""
    monkeypatch.setattr(tuning, "_winners", functools.cache(tuning._Winners))
    monkeypatch.setattr(tuning, "_warn", functools.cache(tuning._warn.__wrapped__))


@pytest.fixture
def measured(monkeypatch):
    """The candidates of every measurement; the second one wins."""
    calls = []

    def fastest(candidates, run):
        calls.append(candidates)
        return 1

    monkeypatch.setattr(tuning, "fastest", fastest)
    return calls


@pytest.fixture
def never(monkeypatch):
    monkeypatch.setattr(tuning, "fastest", lambda candidates, run: pytest.fail("measured"))


def tuned(key=KEY, candidates=CANDIDATES):
    return tuning.tuned(key, candidates, lambda candidate: f"ran {candidate}")


def stored(tmp_path):
    (path,) = (tmp_path / "fused_resnet").glob("*.json")
    return path


# ---- winners -----------------------------------------------------------------------------------------------


def test_the_winner_is_measured_once_and_kept(measured):
    assert [tuned() for _ in range(3)] == ["ran second"] * 3
    assert tuned(("another", *KEY)) == "ran second"
    assert measured == [CANDIDATES] * 2


def test_the_next_process_knows_the_winner(measured, monkeypatch, tmp_path):
    tuned()
    restart(monkeypatch)
    assert tuned() == "ran second" and len(measured) == 1
    assert json.loads(stored(tmp_path).read_text())["winners"] == {repr(KEY): "'second'"}
    assert [p.suffix for p in stored(tmp_path).parent.iterdir()] == [".json"]


def test_a_winner_that_is_no_candidate_any_more(measured, monkeypatch):
    tuned()
    for _ in range(2):
        assert tuned(candidates=("x", "y")) == "ran y"
        restart(monkeypatch)
    assert measured == [CANDIDATES, ("x", "y")]


def test_every_environment_has_its_own_winners(measured, monkeypatch, tmp_path):
    tuned()
    monkeypatch.setattr(tuning, "environment", lambda: "another GPU")
    tuned()
    assert len(measured) == len(list((tmp_path / "fused_resnet").iterdir())) == 2


def test_processes_side_by_side(measured, monkeypatch):
    """Each keeps what the other wrote meanwhile."""
    tuned(("mine",))
    mine = tuning._winners
    restart(monkeypatch)
    tuned(("other's",))
    monkeypatch.setattr(tuning, "_winners", mine)
    tuned(("mine, too",))
    restart(monkeypatch)
    for name in ("mine", "other's", "mine, too"):
        tuned((name,))
    assert len(measured) == 3


BROKEN = {
    "no JSON": "{",
    "no object": "[1]",
    "no winners": '{"environment": "some GPU, torch 1.2"}',
    "no strings": '{"environment": "some GPU, torch 1.2", "winners": {"a": 1}}',
    "foreign": '{"environment": "another GPU", "winners": {}}',
    "no text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_replaced(content, measured, monkeypatch, tmp_path):
    tuned()
    stored(tmp_path).write_bytes(content if isinstance(content, bytes) else content.encode())
    restart(monkeypatch)
    with pytest.warns(RuntimeWarning, match="ignored .*winners of measurements") as caught:
        assert tuned() == tuned(("another",)) == "ran second"
    assert len(caught) == 1
    restart(monkeypatch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tuned() == tuned(("another",)) == "ran second"
    assert len(measured) == 3


def test_nowhere_to_write(measured, monkeypatch, tmp_path):
    (tmp_path / "fused_resnet").write_text("a file where the folder should be")
    with pytest.warns(RuntimeWarning, match="winners of measurements"):
        assert tuned() == tuned() == "ran second"
    assert len(measured) == 1


# ---- never measured ----------------------------------------------------------------------------------------


def test_not_without_a_gpu(never, monkeypatch):
    monkeypatch.undo()
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(tuning, "fastest", lambda candidates, run: pytest.fail("measured"))
    assert tuning.environment() is None
    assert tuned() == "ran first"


def test_not_one_candidate(never):
    assert tuned(candidates=("only",)) == "ran only"


def capturing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)


def compiling(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)


@pytest.mark.parametrize("circumstance", [capturing, compiling])
def test_not_while(circumstance, measured, monkeypatch):
    """The first candidate, or the winner if it is known."""
    with monkeypatch.context() as context:
        circumstance(context)
        assert tuned() == "ran first" and not measured
    assert tuned() == "ran second"
    circumstance(monkeypatch)
    assert tuned() == "ran second" and len(measured) == 1


def test_not_on_fake_tensors(never):
    with FakeTensorMode() as mode:
        assert tuned() == "ran first"
        fake = mode.from_tensor(torch.ones(2))
    assert tuning.choose(KEY, CANDIDATES, None, (torch.ones(2), fake)) == "first"


def test_policies(measured):
    with tuning.policy("cached"):
        assert tuned() == "ran first" and not measured
    assert tuned() == "ran second"
    with tuning.policy("cached"):
        assert tuned() == "ran second"
        with tuning.policy("off"):
            assert tuned() == "ran first"
        assert tuned(("another",)) == "ran first"
    assert tuned(("another",)) == "ran second" and len(measured) == 2


def test_policy_set_for_good(never):
    before = tuning.policy("off")
    try:
        assert tuned() == "ran first"
    finally:
        before.__exit__()
    with pytest.raises(ValueError, match=r"expected one of .*got 'always'"):
        tuning.policy("always")


# ---- measuring ---------------------------------------------------------------------------------------------


class Clock:
    """Stands for the GPU's time: a run of a candidate takes its value in milliseconds."""

    def __init__(self, monkeypatch):
        self.runs = []
        properties = type("Properties", (), {"L2_cache_size": 4})()
        empty = torch.empty
        monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: empty(8))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: self)

    def record(self):
        pass

    def synchronize(self):
        pass

    def elapsed_time(self, end):
        return self.runs[-1]

    def run(self, candidate):
        if candidate is None:
            raise torch.OutOfMemoryError("too large")
        self.runs.append(candidate)


def test_the_fastest(monkeypatch):
    clock = Clock(monkeypatch)
    assert tuning.fastest((3.0, 1.0, 2.0), clock.run) == 1
    assert clock.runs[-3:] == [3.0, 1.0, 2.0]  # in turn


def test_the_host_does_not_count(monkeypatch):
    """Before a run starts the GPU is kept busy for longer than the host takes to launch it."""
    clock, filled = Clock(monkeypatch), []
    monkeypatch.setattr(torch.Tensor, "zero_", lambda t: filled.append(len(clock.runs)))
    monkeypatch.setattr(tuning, "_launching", lambda candidate, run: 40.0)
    assert tuning.fastest((16.0, 32.0), clock.run) == 0
    assert filled.count(len(clock.runs) - 1) == 1 + 2 * 40 / (32 / tuning.FILLS)


def test_candidates_that_fail_do_not_count(monkeypatch):
    clock = Clock(monkeypatch)
    assert tuning.fastest((None, 3.0, None, 2.0), clock.run) == 3
    assert tuning.fastest((None, 3.0), clock.run) == 1
    with pytest.raises(torch.OutOfMemoryError):
        tuning.fastest((None, None), clock.run)


def test_without_measuring_another_candidate_stands_in(never):
    def run(candidate):
        if candidate == "first":
            raise torch.OutOfMemoryError("too large")
        return candidate

    with tuning.policy("off"):
        assert tuning.tuned(KEY, CANDIDATES, run) == "second"
        with pytest.raises(torch.OutOfMemoryError):
            tuning.tuned(KEY, ("first",), run)


def test_other_errors_are_errors(never):
    def run(candidate):
        raise RuntimeError("a bug")

    with tuning.policy("off"), pytest.raises(RuntimeError, match="a bug"):
        tuning.tuned(KEY, CANDIDATES, run)
