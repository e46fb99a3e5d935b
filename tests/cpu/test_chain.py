"""Blocks in one op on the CPU backend: every cut of them against fp64, and when networks take it."""

import copy

import pytest
import torch

from fused_resnet import _extension, backends, fuse, models, ops, use_backend
from tests import op_truth
from tests.cpu.problems import threads
from tests.op_samples import Conv, Make, chain
from tests.tolerances import assert_close

FP32, BF16 = torch.float32, torch.bfloat16
CHANNELS_LAST = torch.channels_last
every_dtype = pytest.mark.parametrize("dtype", [FP32, BF16], ids=["fp32", "bf16"])


def conv(c, k, kernel, stride=1, padding=0, dilation=1):
    pairs = [v if isinstance(v, tuple) else (v, v) for v in (kernel, stride, padding, dilation)]
    return Conv(0, c, 0, 0, k, *pairs)


def bottleneck(c, width, k, stride=1):
    return conv(c, width, 1), conv(width, width, 3, stride, 1), conv(width, k, 1)


# Size of x, the main path, and the shortcut: "x", "tensor", "none" or a projection's stride.
BLOCKS = {
    "basic": ((2, 20, 9, 7), (conv(20, 24, 3, 1, 1), conv(24, 20, 3, 1, 1)), "x"),
    "basic, of Winograd's sizes": ((3, 64, 22, 21), (conv(64, 64, 3, 1, 1), conv(64, 64, 3, 1, 1)), "x"),
    "basic, strided": ((3, 40, 46, 41), (conv(40, 40, 3, 2, 1), conv(40, 36, 3, 1, 1)), 2),
    "bottleneck": ((2, 40, 11, 13), bottleneck(40, 17, 40), "x"),
    "bottleneck, of Winograd's sizes": ((3, 80, 23, 21), bottleneck(80, 36, 80), "x"),
    "bottleneck, projected": ((3, 40, 23, 21), bottleneck(40, 36, 80), 1),
    "bottleneck, strided": ((2, 20, 11, 13), bottleneck(20, 17, 40, 2), 2),
    "bottleneck, strided in front": (
        (2, 20, 12, 14),
        (conv(20, 24, 1, 2), conv(24, 24, 3, 1, 1), conv(24, 33, 1)),
        2,
    ),
    "dilated": ((1, 8, 12, 14), (conv(8, 16, 3, 1, 2, 2), conv(16, 16, 3, 1, 2, 2)), "tensor"),
    "oblong": ((2, 8, 13, 17), (conv(8, 16, 3, 1, 1), conv(16, 16, 5, 3), conv(16, 9, (2, 3), 1, 1)), "none"),
    "rows that nobody reads": (
        (2, 8, 13, 17),
        (conv(8, 16, 3, 1, 1), conv(16, 16, 2, 3, 1), conv(16, 9, 1, 1, 1)),
        "none",
    ),
    "one convolution": ((2, 8, 12, 14), (conv(8, 16, 3, 1, 1),), "none"),
    "one row": ((3, 24, 1, 30), bottleneck(24, 16, 24), "x"),
    "one column": ((3, 24, 30, 1), bottleneck(24, 16, 24), "x"),
}


def arguments(name, dtype, bias=False):
    torch.manual_seed(0)
    size, convs, shortcut = BLOCKS[name]
    make = Make(dtype)
    x = make.activation(*size)
    stride = [shortcut] * 2 if isinstance(shortcut, int) else None
    args = list(chain(make, x, convs, stride, bias=bias))
    # weights that keep every convolution's output of order 1
    args[1] = [(w * 2 * w[0].numel() ** -0.5).to(dtype) for w in args[1]]
    if shortcut == "x":
        args[11] = x
    elif shortcut == "tensor":
        args[11] = make.activation(*truth(args).shape)
    return tuple(args)


def truth(args):
    def widen(value):
        if isinstance(value, list):
            return list(map(widen, value))
        return value.double() if isinstance(value, torch.Tensor) else value

    return op_truth.conv_chain_fprop(*map(widen, args))


def cut(args, rows, parts=1):
    """The op cut as told; rows 0: unit by unit."""
    return _extension.load().conv_chain_fprop_cut(*args, rows, parts)


@every_dtype
@pytest.mark.parametrize("name", BLOCKS)
def test_every_cut_is_right(name, dtype):
    """Strips of every height, images in one piece and in several."""
    args = arguments(name, dtype, bias="of" not in name)
    want = truth(args)
    for rows in (0, 1, 2, 3, 4, 1000):
        for parts in (1, 3):
            got = cut(args, rows, parts)
            assert got.is_contiguous(memory_format=CHANNELS_LAST)
            assert_close(got, want, "op", dtype, f"{rows} rows, {parts} parts")


@every_dtype
@pytest.mark.parametrize("name", BLOCKS)
def test_the_op_is_right(name, dtype):
    args = arguments(name, dtype)
    with use_backend("cpu"):
        assert_close(ops.conv_chain_fprop(*args), truth(args), "op", dtype)


@pytest.mark.parametrize("name", ["basic", "bottleneck", "bottleneck, strided", "dilated", "one convolution"])
def test_fp32_as_unit_by_unit(name):
    """Where no transform depends on where a strip begins, every cut sums the same products in one order."""
    args = arguments(name, FP32)
    want = cut(args, 0)
    for rows in (1, 2, 5):
        assert torch.equal(cut(args, rows, 2), want)


@every_dtype
@pytest.mark.parametrize("name", BLOCKS)
def test_repeatable_at_any_number_of_threads(name, dtype):
    args = arguments(name, dtype)
    want = cut(args, 2, 2)
    for count in (1, 2, 4):
        with threads(count):
            assert torch.equal(cut(args, 2, 2), want)
            assert torch.equal(cut(args, 2, 2), want)


def test_nan_spreads_as_far_as_windows_do():
    args = arguments("bottleneck", FP32)
    args[0][1, 3, 5, 6] = float("nan")
    want = truth(args).isnan()
    assert want.any() and not want.all()
    assert torch.equal(cut(args, 2).isnan(), want)


def test_arguments_that_no_cut_fits():
    """The extension itself, which nobody but these tests asks for a cut."""
    strided = arguments("bottleneck, strided in front", FP32)
    inner = list(strided)
    inner[4] = [1, 1, 1, 1, 2, 2]
    with pytest.raises(RuntimeError, match="cannot be cut"):
        cut((*inner[:8], None, None, (1, 1), None, "relu"), 2)
    with pytest.raises(RuntimeError, match="cannot be cut"):
        cut(strided, 2, 0)


@pytest.mark.parametrize(
    ("position", "value", "match"),
    [
        (1, [], "weights"),
        (2, [None], "biases"),
        (4, [1, 1], "strides"),
        (7, [1], "groups"),
        (9, torch.ones(4, 20), "projection_norm"),
        (11, torch.ones(2, 20, 9, 8), "residual"),
        (12, "gelu", "act"),
    ],
)
def test_wrong_arguments_are_named(position, value, match):
    args = list(arguments("basic", FP32))
    args[position] = value
    with pytest.raises(ValueError, match=match):
        ops.conv_chain_fprop(*args)


# ---- networks ----------------------------------------------------------------------------------------------


def ops_of(function):
    ran = []
    with backends.observe(lambda op, backend: ran.append((op, backend))):
        result = function()
    return result, ran


NETWORKS = {"basic": "resnet18", "bottleneck": "resnet50"}


def network(name):
    torch.manual_seed(0)
    net = getattr(models, NETWORKS[name])(num_classes=10)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    return net.to(memory_format=CHANNELS_LAST)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_inference_takes_whole_blocks(name, guard):
    """In eval mode and without gradients, with the result that a path with gradients gives."""
    net = fuse(network(name)).eval()
    x = torch.randn(2, 3, 64, 64).contiguous(memory_format=CHANNELS_LAST)
    want, with_gradients = ops_of(lambda: net(x))
    with guard():
        got, without = ops_of(lambda: net(x))
    assert "conv_chain_fprop" not in dict(with_gradients)
    assert dict(without)["conv_chain_fprop"] == "cpu"
    assert_close(got, want.detach(), "op", FP32)


def test_training_takes_batch_statistics():
    net = fuse(network("basic")).train()
    x = torch.randn(2, 3, 64, 64).contiguous(memory_format=CHANNELS_LAST)
    with torch.no_grad():
        _, ran = ops_of(lambda: net(x))
    assert "conv_chain_fprop" not in dict(ran)


@pytest.mark.parametrize("backend", ["library", "reference"])
def test_another_backend_goes_unit_by_unit(backend):
    net = fuse(network("basic")).eval()
    x = torch.randn(2, 3, 64, 64).contiguous(memory_format=CHANNELS_LAST)
    with torch.no_grad(), use_backend(backend):
        _, ran = ops_of(lambda: net(x))
    assert "conv_chain_fprop" not in dict(ran)


def test_changed_weights_are_seen():
    """Packed weights are kept between calls, as long as nobody changes the weights."""
    net = fuse(network("basic")).eval()
    x = torch.randn(2, 3, 64, 64).contiguous(memory_format=CHANNELS_LAST)
    with torch.no_grad():
        for _ in range(4):
            before = net(x)
        for parameter in net.parameters():
            parameter.mul_(0.9)
        stock = copy.deepcopy(net)
        with use_backend("reference"):
            want = stock(x)
        got = net(x)
    assert not torch.allclose(got, before)
    assert_close(got, want, "op", FP32)
