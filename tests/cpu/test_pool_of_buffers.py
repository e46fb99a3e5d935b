"""Memory of large activations goes from one tensor to the next, and nobody can tell but by the time."""

import gc
import threading

import pytest
import torch

from fused_resnet import _extension
from fused_resnet.analysis.memory import peak_activation_bytes
from fused_resnet.backends import cpu

NHWC = torch.channels_last
MOST_IDLE = 512 << 20
MIB = 1 << 20

pytestmark = pytest.mark.skipif(cpu.unavailable() is not None, reason="needs the C++ extension")


def idle():
    gc.collect()
    return _extension.load().idle_bytes()


def large(mib=8, dtype=torch.float32):
    pixels = mib * MIB // dtype.itemsize // 64 // 64
    return torch.randn(1, 64, 64, pixels).to(dtype).to(memory_format=NHWC)


def relu(x):
    channels = x.shape[1]
    norm = torch.tensor([[0.0], [1.0], [1.0], [0.0]]).expand(4, channels).contiguous()
    return cpu.OPS["bn_act"](x, norm, "relu")


@pytest.fixture(autouse=True)
def _empty():
    cpu.empty_cache()
    assert idle() == 0
    yield
    cpu.empty_cache()


def test_memory_comes_back():
    x = large()
    out = relu(x)
    address = out.data_ptr()
    assert idle() == 0
    del out
    assert idle() == 8 * MIB
    assert relu(x).data_ptr() == address
    cpu.empty_cache()
    assert idle() == 0


def test_what_lives_is_left_alone():
    x = large()
    kept = [relu(x * factor) for factor in (1, 2, 3)]
    view = kept.pop()[:, :1]
    del kept[0]
    fresh = relu(x * 5)
    torch.testing.assert_close(kept[0], (x * 2).relu())
    torch.testing.assert_close(view, (x * 3).relu()[:, :1])
    torch.testing.assert_close(fresh, (x * 5).relu())


def test_small_ones_are_torchs_own():
    out = relu(large(mib=1))
    del out
    assert idle() == 0


def test_a_much_larger_buffer_is_left_for_others():
    out = relu(large(mib=64))
    del out
    small = relu(large(mib=8))
    assert idle() == 64 * MIB
    del small
    assert idle() == 72 * MIB


def test_old_ones_go_first():
    large_ones = [relu(large(mib=200)) for _ in range(3)]
    addresses = [out.data_ptr() for out in large_ones]
    while large_ones:
        del large_ones[0]
    assert idle() == 400 * MIB <= MOST_IDLE
    assert relu(large(mib=200)).data_ptr() in addresses[1:]


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float64))
def test_a_tensor_as_any_other(dtype):
    x = large(dtype=dtype)
    out = relu(x)
    assert out.is_contiguous(memory_format=NHWC) and out.dtype == dtype and not out.is_contiguous()
    torch.testing.assert_close(out, x.relu())
    assert out.untyped_storage().resizable()
    out.resize_((2, *x.shape[1:]), memory_format=NHWC)
    torch.testing.assert_close(out[:1], x.relu())
    shared = relu(x).share_memory_()
    torch.testing.assert_close(shared, x.relu())


def test_inference_tensors():
    with torch.inference_mode():
        assert relu(large()).is_inference()
    assert not relu(large()).is_inference()


def test_profilers_see_it():
    x = large(mib=16)
    size = x.numel() * 4

    def step():
        out = relu(relu(x))
        del out

    assert 2 * size <= peak_activation_bytes(step, []) <= 2 * size + MIB


def test_threads():
    x = large(mib=4)
    want = [(x * i).relu() for i in range(4)]
    wrong = []

    def work(index):
        for _ in range(20):
            if not torch.equal(relu(x * index), want[index]):
                wrong.append(index)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
