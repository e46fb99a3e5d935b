"""A call without a backward that is done again reads no module, and sees whatever changed in them."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import fused_resnet
from fused_resnet import backends
from fused_resnet.autograd import replay
from fused_resnet.backends import cpu, observe, use_backend
from fused_resnet.nn import FusedUnit, again, record
from tests import test_blocks as blocks
from tests.cpu.problems import assert_same_bits

NHWC = torch.channels_last
# Those whose inference is ops alone.
REPEATED = [
    *("conv1x1 expanding", "conv3x3", "add", "stem", "basic identity stride 1", "basic projection stride 2"),
    *("bottleneck identity stride 1", "bottleneck projection stride 2"),
]

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason="needs the C++ extension")


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch):
    monkeypatch.setattr(replay, "_recordings", {})
    monkeypatch.setattr(again, "_calls", weakref.WeakKeyDictionary())


def make(case):
    """A fused module in eval mode, an equal stock one, and an input."""
    module = blocks.make(case, "eval", torch.float32).to(memory_format=NHWC)
    (x,) = blocks.data(module, torch.float32, (3, 14, 13), 4)[:1]
    stock = copy.deepcopy(module)
    return fused_resnet.fuse(module), stock, x.detach().to(memory_format=NHWC)


def forbid_looking(patch):
    """From now on no unit may read its modules."""
    patch.setattr(FusedUnit, "_look", lambda *args: pytest.fail("read the modules"))


@pytest.fixture
def looks(monkeypatch):
    """Counts the calls that read modules."""
    counted, look = [], FusedUnit._look

    def counting(self, *args):
        counted.append(self.kind)
        return look(self, *args)

    monkeypatch.setattr(FusedUnit, "_look", counting)
    return counted


@pytest.mark.parametrize("no_grad", (torch.no_grad, torch.inference_mode))
@pytest.mark.parametrize("case", REPEATED)
def test_same_bits(case, no_grad, monkeypatch):
    module, _, x = make(case)
    with no_grad():
        first = [module(x) for _ in range(4)]
        with monkeypatch.context() as patch:
            forbid_looking(patch)
            got = [module(x) for _ in range(3)]
            other = torch.randn_like(x)
            changed = module(other)
        monkeypatch.setattr(again, "run", lambda *args: None)
        assert_same_bits(first + got, [module(x)] * 7, case)
        assert_same_bits([changed], [module(other)], case)


@pytest.mark.skipif(not backends.settled(torch.bfloat16), reason="bf16 is contested on this processor")
@pytest.mark.parametrize("case", REPEATED)
def test_autocast(case, monkeypatch):
    module, _, x = make(case)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            narrow = [module(x) for _ in range(4)]
        wide = [module(x) for _ in range(4)]
        with monkeypatch.context() as patch:
            forbid_looking(patch)  # the last one was without
            assert_same_bits([module(x)], wide[:1], case)
        with torch.autocast("cpu", torch.bfloat16):
            again_narrow = module(x)
        assert again_narrow.dtype == narrow[0].dtype
        assert_same_bits([again_narrow], narrow[:1], case)


def _replace_weight(m):
    m.conv1.weight = nn.Parameter(m.conv1.weight.detach() * 2)


def _replace_data(m):
    m.conv1.weight.data = m.conv1.weight.data * 2


def _replace_convolution(m):
    m.conv1 = copy.deepcopy(m.conv1)
    m.conv1.weight.data.mul_(2)


def _hook(m):
    m.bn1.register_forward_hook(lambda module, args, out: out + 1)


def _pre_hook(m):
    m.conv2.register_forward_pre_hook(lambda module, args: (args[0] * 2,))


def _own_forward(m):
    m.conv1.forward = lambda x: nn.Conv2d.forward(m.conv1, x) * 2


class _Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


CHANGES = {
    "weight in place": lambda m: m.conv1.weight.data.mul_(2),
    "weight replaced": _replace_weight,
    "data replaced": _replace_data,
    "bias given": lambda m: m.conv1.register_parameter(
        "bias", nn.Parameter(torch.ones(m.conv1.out_channels))
    ),
    "statistics in place": lambda m: m.bn2.running_var.mul_(4),
    "statistics replaced": lambda m: setattr(m.bn2, "running_mean", torch.ones(m.bn2.num_features)),
    "statistics dropped": lambda m: (
        setattr(m.bn2, "running_mean", None) or setattr(m.bn2, "running_var", None)
    ),
    "eps": lambda m: setattr(m.bn1, "eps", 0.5),
    "training": lambda m: m.bn1.train(),
    "padding": lambda m: setattr(m.conv2, "padding", (2, 2)) or setattr(m.conv2, "dilation", (2, 2)),
    "padding as a list": lambda m: (
        setattr(m.conv2, "padding", [2, 2]) or setattr(m.conv2, "dilation", [2, 2])
    ),
    "padding mode": lambda m: setattr(m.conv2, "padding_mode", "circular"),
    "convolution replaced": _replace_convolution,
    "batch norm replaced": lambda m: setattr(m, "bn1", nn.Identity()),
    "hook": _hook,
    "hook before": _pre_hook,
    "a forward of its own": _own_forward,
    "parametrization": lambda m: parametrize.register_parametrization(m.conv1, "weight", _Doubled()),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_seen(change):
    """In place ones as well as those after which other code has to run."""
    module, stock, x = make("basic identity stride 1")
    with torch.no_grad():
        before = [module(x) for _ in range(4)][-1]
        for m in (module, stock):
            CHANGES[change](m)
        for _ in range(4):
            got, want = module(x), stock(x)
            assert not torch.allclose(want, before, rtol=1e-2, atol=1e-2)
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_window_that_changes():
    module, stock, x = make("stem")
    with torch.no_grad():
        for size in (3, 5, 3):
            for m in (module, stock):
                pool = next(p for p in m.modules() if isinstance(p, nn.MaxPool2d))
                pool.kernel_size, pool.padding = size, size // 2
            for _ in range(4):
                torch.testing.assert_close(module(x), stock(x), rtol=1e-4, atol=1e-4)


def test_sizes_that_alternate(looks):
    module, stock, x = make("bottleneck projection stride 2")
    images = [x, x[:1].contiguous(memory_format=NHWC), x[:, :, :9].contiguous(memory_format=NHWC)]
    with torch.no_grad():
        for _ in range(4):
            for image in images:
                torch.testing.assert_close(module(image), stock(image), rtol=1e-4, atol=1e-4)
        looks.clear()
        for image in images * 2:
            module(image)
    assert not looks


def test_layout_dtype_and_gradients_that_change(looks):
    module, stock, x = make("basic identity stride 1")
    with torch.no_grad():
        for _ in range(4):
            module(x)
        torch.testing.assert_close(module(x.contiguous()), stock(x), rtol=1e-4, atol=1e-4)
    looks.clear()
    module(x).sum().backward()
    assert looks and module.conv1.weight.grad is not None
    module.double(), stock.double()
    with torch.no_grad():
        torch.testing.assert_close(module(x.double()), stock(x.double()), rtol=1e-9, atol=1e-9)


def test_whoever_looks_sees():
    module, _, x = make("basic identity stride 1")
    with torch.no_grad():
        for _ in range(4):
            module(x)
        seen = []
        with observe(lambda op, name: seen.append(name)):
            module(x)
        with use_backend("reference"), observe(lambda op, name: seen.append(name)):
            module(x)
        assert {"cpu", "reference"} == set(seen)
        with record(lambda *args: seen.append("recorder")):
            module(x)
        assert seen[-1] == "recorder"
        with torch.profiler.profile() as profile:
            module(x)
        assert any("fused_resnet" in event.key for event in profile.key_averages())


def test_batches_are_counted():
    """A batch norm that trains is read in every call: it changes with each of them."""
    module, stock, x = make("basic identity stride 1")
    with torch.no_grad():
        for m in (module, stock):
            m.bn1.train()
            for _ in range(5):
                m(x)
    assert module.bn1.num_batches_tracked == stock.bn1.num_batches_tracked == 5
    torch.testing.assert_close(module.bn1.running_var, stock.bn1.running_var)


def test_nothing_is_kept_alive():
    module, _, x = make("basic identity stride 1")
    with torch.no_grad():
        for _ in range(4):
            module(x)
    assert len(again._calls) == 1
    gone = weakref.ref(module.conv1), weakref.ref(module.bn1.weight)
    module.conv1.weight.register_hook(lambda grad, whole=module: grad)  # a cycle through a tensor
    del module
    gc.collect()
    assert [ref() for ref in gone] == [None, None] and len(again._calls) == 0


def test_copies_are_their_own():
    module, stock, x = make("basic identity stride 1")
    with torch.no_grad():
        for _ in range(4):
            module(x)
        other = copy.deepcopy(module)
        other.conv1.weight.mul_(2)
        torch.testing.assert_close(module(x), stock(x), rtol=1e-4, atol=1e-4)
        stock.conv1.weight.mul_(2)
        torch.testing.assert_close(other(x), stock(x), rtol=1e-4, atol=1e-4)


def test_snapshot_refuses_what_it_cannot_see():
    names = (("weight", "bias"),)

    def possible(change):
        conv = nn.Conv2d(2, 2, 1)
        change(conv)
        return cpu.snapshot((conv,), names).possible()

    assert possible(lambda conv: None)
    assert not possible(lambda conv: setattr(conv, "stride", [1, 1]))
    assert not possible(lambda conv: setattr(conv, "note", object()))
    assert not possible(lambda conv: setattr(conv, "forward", print))
    assert not possible(lambda conv: conv.register_forward_hook(print))
    with pytest.raises(RuntimeError, match="one entry per module"):
        cpu.snapshot((nn.ReLU(),), ())
    with pytest.raises(RuntimeError, match=r"expected torch\.nn\.Modules or None, got 3"):
        cpu.snapshot((3,), ((),))
