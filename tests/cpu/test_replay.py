"""Replayed ops give the bits that Python's calls of them give, and are replayed only where these would be."""

import copy
import threading
import weakref

import pytest
import torch

import fused_resnet
from fused_resnet import backends
from fused_resnet.autograd import ChainSpec, Geometry, UnitSpec, chain, replay, stem
from fused_resnet.backends import cpu, observe, use_backend
from fused_resnet.nn import again
from fused_resnet.ops.registry import unchecked as ops
from tests import test_blocks as blocks
from tests.cpu.problems import assert_same_bits, threads
from tests.parity import step

NHWC = torch.channels_last
MEMORY = "speed", "balanced", "min"
SPEC = ChainSpec((UnitSpec(Geometry((1, 1), (0, 0), (1, 1), 1), "none", "relu"),))
# Those whose training is ops alone; others pad, convolve in groups, or add a convolution's bias to a mean.
REPLAYED = [
    *("conv3x3", "conv1x1 expanding", "add", "stem", "basic identity stride 1", "basic projection stride 1"),
    *("basic projection stride 2", "bottleneck identity stride 1", "bottleneck projection stride 1"),
    "bottleneck projection stride 2",
]


@pytest.fixture(autouse=True)
def _nothing_recorded(monkeypatch):
    monkeypatch.setattr(replay, "_recordings", {})


def forbid_replay(monkeypatch):
    """From now on Python calls every op."""
    monkeypatch.setattr(replay, "run", lambda function, spec, inputs, *facts: function(spec, inputs, *facts))
    monkeypatch.setattr(again, "run", lambda *args: None)


def make(case, memory="balanced", mode="train"):
    module = blocks.make(case, mode, torch.float32)
    for m in module.modules():
        if isinstance(m, torch.nn.Conv2d) and case in REPLAYED:
            m.register_parameter("bias", None)
    module.to(memory_format=NHWC)
    (x,) = blocks.data(module, torch.float32, (3, 14, 13), 4)[:1]
    return fused_resnet.fuse(module, memory=memory), x.to(memory_format=NHWC)


def steps(module, x, count=4):
    """What every step gives: outputs, gradients and buffers, which move on."""
    return [step(module, x) for _ in range(count)]


def assert_same_steps(got, want):
    for g, w in zip(got, want, strict=True):
        assert g.keys() == w.keys()
        for name in w:
            assert g[name].stride() == w[name].stride(), name
            assert_same_bits([g[name]], [w[name]], name)


def forbid_python(patch):
    """From now on only what is replayed can run."""
    for owner in (chain, stem):
        for name in ("forward", "backward"):
            patch.setattr(owner, name, lambda *args: pytest.fail("ran in Python"))


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("case", blocks.CASES)
def test_training(case, memory, monkeypatch):
    module, x = make(case, memory)
    other = copy.deepcopy(module)
    got = steps(module, x)
    with monkeypatch.context() as patch:
        if case in REPLAYED:
            forbid_python(patch)
        got += steps(module, x)
    forbid_replay(monkeypatch)
    assert_same_steps(got, steps(other, x, 8))


@pytest.mark.parametrize("case", [case for case in REPLAYED if case != "add"])
def test_autocast(case, monkeypatch):
    """Weights are cast in every call; in inference what was cast is kept."""
    module, x = make(case)
    other = copy.deepcopy(module)
    with torch.autocast("cpu", torch.bfloat16), monkeypatch.context() as patch:
        got = steps(module, x)
        if backends.settled(torch.bfloat16):
            forbid_python(patch)
        got += steps(module, x)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        images = [module.eval()(x) for _ in range(4)]
        forbid_replay(monkeypatch)
        assert_same_bits(images, [module(x)] * 4, case)
    with torch.autocast("cpu", torch.bfloat16):
        assert_same_steps(got, steps(other, x, 8))


@pytest.mark.parametrize("mode", ("eval", "half frozen"))
@pytest.mark.parametrize("case", blocks.CASES)
def test_modes(case, mode, monkeypatch):
    module, x = make(case, mode=mode)
    other = copy.deepcopy(module)
    got = steps(module, x)
    forbid_replay(monkeypatch)
    assert_same_steps(got, steps(other, x))


@pytest.mark.parametrize("no_grad", (torch.no_grad, torch.inference_mode))
@pytest.mark.parametrize("case", blocks.CASES)
def test_inference(case, no_grad, monkeypatch):
    module, x = make(case, mode="eval")
    with no_grad():
        got = [module(x) for _ in range(4)]
        forbid_replay(monkeypatch)
        assert_same_bits(got, [module(x)] * 4, case)


def test_parameters_that_change():
    """What is replayed reads the tensors of this call: other values, tensors and sizes of the input."""
    module, x = make("bottleneck projection stride 2")

    def change(m):
        for p in m.parameters():
            p.data.mul_(0.5)
        m.conv2.weight = torch.nn.Parameter(m.conv2.weight.detach() * 2)
        m.bn1.running_mean.fill_(3.0)

    stock = fused_resnet.unfuse(copy.deepcopy(module))
    for size in ((3, 14, 13), (3, 14, 13), (1, 9, 8), (3, 14, 13), (1, 9, 8)):
        images = torch.randn(size[0], x.shape[1], *size[1:]).to(memory_format=NHWC)
        for _ in range(3):
            got, want = step(module, images), step(stock, images)
            for name in want:
                torch.testing.assert_close(got[name], want[name], rtol=1e-3, atol=1e-3)
        for m in (module, stock):
            change(m)


def test_what_needs_gradients_may_change():
    module, x = make("bottleneck identity stride 1")
    steps(module, x)
    module.conv1.weight.requires_grad_(False)
    module.bn3.requires_grad_(False)
    for _ in range(4):
        got = step(module, x)
        assert not {"conv1.weight.grad", "bn3.weight.grad", "bn3.bias.grad"} & got.keys()
        assert {"conv2.weight.grad", "conv3.weight.grad"} < got.keys()


def test_layouts_and_dtypes_that_change():
    module, x = make("basic identity stride 1")
    steps(module, x)
    want = step(copy.deepcopy(module), x)
    got = step(module, x.contiguous())
    for name in ("out0", "x.grad", "conv1.weight.grad"):
        torch.testing.assert_close(got[name], want[name], rtol=1e-4, atol=1e-4)
    assert step(module.double(), x.double())["out0"].dtype == torch.float64
    assert step(module.bfloat16(), x.bfloat16())["out0"].dtype == torch.bfloat16


def test_whoever_looks_at_ops_sees_them():
    module, x = make("basic identity stride 1")
    steps(module, x)
    seen = []
    with observe(lambda op, name: seen.append((op, name))):
        step(module, x)
    assert ("conv_fprop_stats", "cpu") in seen and ("conv_dgrad_reduce", "cpu") in seen
    with use_backend("reference"), observe(lambda op, name: seen.append((op, name))):
        step(module, x)
    assert ("conv_fprop_stats", "reference") in seen
    with torch.profiler.profile() as profile:
        step(module, x)
    assert any("conv_fprop_stats" in event.key for event in profile.key_averages())


def test_threads_replay_side_by_side():
    module, x = make("bottleneck identity stride 1")
    other = copy.deepcopy(module)
    results = {}
    with threads(1):
        want = steps(other, x, 6)
        steps(module, x, 6)

        def train(index):
            own = copy.deepcopy(other)
            results[index] = steps(own, x, 6)[-1]["out0"]

        workers = [threading.Thread(target=train, args=(i,)) for i in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert_same_bits([results[i] for i in range(4)], [steps(other, x, 6)[-1]["out0"]] * 4, "threads")
    assert want


# ---- what is noticed ---------------------------------------------------------------------------------------


def activation(*size):
    return torch.randn(size).to(memory_format=NHWC)


def norm(channels=4):
    return torch.rand(4, channels) + 0.5


def assert_right(function, make_inputs, replayed: bool):
    """In five calls on other values each; `replayed`: was it recorded?"""
    for _ in range(5):
        inputs = make_inputs()
        want = function(SPEC, tuple(t.clone() for t in inputs))
        got = replay.run(function, SPEC, inputs)
        assert_same_bits(got, want, function.__name__)
    assert bool(replay._recordings[(function, SPEC, ())]) == replayed


def only_ops(spec, inputs):
    y = ops.bn_act(*inputs, "relu")
    return (ops.bn_act(y, inputs[1], "relu"),)


def views_of_results(spec, inputs):
    _, sums = ops.bn_act_bwd_reduce(inputs[0], *inputs, None, None, None, "relu")
    return sums[1], sums[:1], sums.t()


def views_of_inputs(spec, inputs):
    mean, var = inputs[1][0], inputs[1][1]
    return (ops.bn_finalize(mean, var, None, None, 1e-5),)


def by_other_means(spec, inputs):
    return (ops.bn_act(inputs[0] * 2, inputs[1], "relu"),)


def result_by_other_means(spec, inputs):
    return (ops.bn_act(*inputs, "relu") + 1,)


def in_place(spec, inputs):
    return (ops.bn_act(*inputs, "relu").mul_(2),)


def in_place_between(spec, inputs):
    y = ops.bn_act(*inputs, "relu")
    y[:, 0] += 1
    return (ops.bn_act(y, inputs[1], "relu"),)


def running_statistics(spec, inputs):
    mean, var = inputs[1][0], inputs[1][1]
    ops.bn_update_running(inputs[2], inputs[3], mean, var, 0.1, 1.0)
    return (ops.bn_act(inputs[0], inputs[1], "relu"),)


def running_statistics_twice(spec, inputs):
    inputs[3].add_(1)
    return running_statistics(spec, inputs)


def on_an_input(spec, inputs):
    y = ops.bn_act(*inputs, "relu")
    inputs[1].add_(1)
    return (y,)


def by_the_library(spec, inputs):
    weight = inputs[0][:1].reshape(4, 1, 3, 3)
    return (ops.conv_fprop_stats(inputs[0], weight, None, "identity", (1, 1), (1, 1), (1, 1), 4)[0],)


@pytest.mark.parametrize("function", (only_ops, views_of_results, views_of_inputs))
def test_ops_and_views_are_replayed(function):
    assert_right(function, lambda: (activation(2, 4, 3, 5), norm()), True)


@pytest.mark.parametrize(
    "function", (by_other_means, result_by_other_means, in_place, in_place_between, on_an_input)
)
def test_other_means_are_noticed(function):
    assert_right(function, lambda: (activation(2, 4, 3, 5), norm()), False)


@pytest.mark.parametrize("function", (running_statistics, running_statistics_twice))
def test_what_ops_write_to(function):
    """The running statistics, once: what somebody else writes to them is noticed."""
    running = torch.zeros(4), torch.ones(4)
    expected = torch.zeros(4), torch.ones(4)
    for _ in range(5):
        inputs = activation(2, 4, 3, 5), norm()
        replay.run(function, SPEC, (*inputs, *running))
        function(SPEC, (*inputs, *expected))
        assert_same_bits(running, expected, function.__name__)
    assert running[0]._version == 5
    assert bool(replay._recordings[(function, SPEC, ())]) == (function is running_statistics)


def test_other_backends_are_noticed():
    assert_right(by_the_library, lambda: (activation(2, 4, 3, 3),), False)


def add(spec, inputs):
    y, residual, vectors = inputs
    return (ops.bn_add_act(y, vectors, residual, None, "relu"),)


def test_one_tensor_given_twice():
    y, other, vectors = activation(2, 4, 3, 5), activation(2, 4, 3, 5), norm()
    for _ in range(3):
        replay.run(add, SPEC, (y, y, vectors))
    for inputs in ((y, other, vectors), (other, y, vectors), (y, y, vectors)):
        for _ in range(3):
            assert_same_bits(replay.run(add, SPEC, inputs), add(SPEC, inputs), "aliases")


def of_the_second(spec, inputs):
    return views_of_inputs(spec, inputs[1:])


def test_views_of_memory_that_inputs_share():
    """A view of one of two such inputs could be one of either, which on others is not the same."""
    assert_right(of_the_second, lambda: (activation(2, 4, 3, 5), norm(), norm()), True)
    replay._recordings.clear()

    def halves():
        both = norm(8)
        return activation(2, 4, 3, 5), both[:, :4], both[:, 4:]

    assert_right(of_the_second, halves, False)


def test_little_is_kept(monkeypatch):
    """Of sizes, or of facts, that are always others."""
    monkeypatch.setattr(replay, "_MOST_KEYS", 5)
    inputs = activation(2, 4, 3, 5), norm()
    for i in range(12):
        replay.run(lambda spec, inputs, i: only_ops(spec, inputs), SPEC, inputs, i)
    assert len(replay._recordings) <= 5
    for width in range(2, 20):
        sized = activation(1, 4, 3, width), norm()
        for _ in range(2):
            assert_same_bits(replay.run(only_ops, SPEC, sized), only_ops(SPEC, sized), "sizes")
    assert len(replay._recordings[(only_ops, SPEC, ())]) == replay._MOST_KINDS


def test_recordings_keep_no_tensors():
    recording = cpu.recording(inputs := (activation(2, 4, 3, 5), norm()))
    y = ops.bn_act(*inputs, "relu")
    recording.add("bn_act", (*inputs, "relu"), y, ())
    gone = weakref.ref(y)
    assert recording.finish((y,))
    del y
    assert gone() is None
    assert recording.replay((activation(2, 4, 3, 6), norm())) is None
    assert recording.replay(inputs[:1]) is None
    assert recording.replay((inputs[0], None)) is None
    assert_same_bits(recording.replay(inputs), (ops.bn_act(*inputs, "relu"),), "replayed")


def test_large_activations_stay_with_python(monkeypatch):
    monkeypatch.setattr(replay, "_MOST_ELEMENTS", 10)
    inputs = activation(2, 4, 3, 5), norm()
    for _ in range(4):
        replay.run(only_ops, SPEC, inputs)
    assert not replay._recordings


def test_momentum_that_changes_with_every_batch():
    """The cumulative average of running statistics is another spec in every step."""
    module, x = make("basic identity stride 1")
    for m in module.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.momentum = None
            m.reset_running_stats()
    stock = fused_resnet.unfuse(copy.deepcopy(module))
    for _ in range(5):
        images = x + torch.randn_like(x)
        got, want = step(module, images), step(stock, images)
        torch.testing.assert_close(got["bn1.running_var"], want["bn1.running_var"])
    recorded = [k for k, found in replay._recordings.items() if found and k[0].__name__ == "_train"]
    assert not recorded
