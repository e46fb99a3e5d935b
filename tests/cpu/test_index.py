"""Offsets beyond 2^31 elements: the helpers alone, and ops on tensors whose pages are never written."""

import ctypes
import itertools
import mmap
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from fused_resnet import _extension
from fused_resnet.analysis.kernel_arguments import Conv
from fused_resnet.backends import cpu

ROOT = Path(__file__).resolve().parents[2]
# 1x1 products are one long line of pixels; the others go by image, row and column.
HUGE = (
    Conv(3, 40_001, 50_003, 5, 7),
    Conv(3, 40_001, 50_003, 5, 7, (3, 3), padding=(1, 1)),
    Conv(2, 60_001, 50_003, 5, 70, (3, 5), (2, 3), (1, 2), (2, 1)),
    Conv(2**31 + 3, 2, 3, 4, 5, (2, 2), (1, 1), (1, 0)),
    Conv(1, 3, 2**31 + 5, 3, 2, (1, 3), padding=(0, 1)),
    Conv(70_000, 200, 200, 3, 1, (7, 7), (2, 2), (3, 3)),
)


def test_partition_of_passes():
    module = _extension.load()
    for channels in (1, 3, 64, 2048):
        pixels = 2**33 + 5
        offsets = module.chunk_offsets(pixels, channels)
        row = channels if channels >= 64 else -(-64 // channels) * channels
        assert (offsets[0], offsets[-1]) == (0, pixels * channels)
        steps = [b - a for a, b in itertools.pairwise(offsets)]
        assert all(o % row == 0 for o in offsets[:-1]) and max(steps[:-1]) - min(steps[:-1]) <= row


@pytest.fixture(scope="module")
def helpers(tmp_path_factory):
    """The helpers of convolutions, compiled so that an overflow ends the process."""
    if shutil.which("g++") is None:
        pytest.skip("g++ was not found")
    library = tmp_path_factory.mktemp("index") / "index.so"
    sources = [ROOT / "tests/cpu/index.cpp", ROOT / "csrc/cpu/gather.cpp"]
    flags = [
        "-std=c++17",
        "-O1",
        "-shared",
        "-fPIC",
        "-fsanitize=undefined",
        "-fsanitize-undefined-trap-on-error",
    ]
    subprocess.run(["g++", *flags, "-I", ROOT / "csrc/cpu", *sources, "-o", library], check=True)
    loaded = ctypes.CDLL(str(library))

    def call(name, conv, *more):
        sizes = (conv.n, conv.c, conv.h, conv.w, conv.k, *conv.y_size[2:], *conv.kernel, *conv.stride)
        sizes = (*sizes, *conv.padding, *conv.dilation)
        function = getattr(loaded, name)
        function.restype = ctypes.c_int64
        return function((ctypes.c_int64 * len(sizes))(*sizes), *map(ctypes.c_int64, more))

    return call


@pytest.mark.parametrize("conv", HUGE, ids=str)
def test_forward(helpers, conv):
    n, k, p, q = conv.y_size
    assert max(n * p * q * k, n * conv.h * conv.w * conv.c) > 2**31
    for i, row, col in itertools.product((0, n // 2, n - 1), (0, p - 1), (0, q - 1)):
        assert helpers("output_offset", conv, i, row, col) == ((i * p + row) * q + col) * k
    assert helpers("lines", conv) == (n * p * q if conv.kernel == (1, 1) else n * p)


@pytest.mark.parametrize("conv", [c for c in HUGE if c.kernel != (1, 1)], ids=str)
def test_strips(helpers, conv):
    """What all lines of one image read, padding included."""
    p, q = conv.y_size[2:]
    reach = [d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel, strict=True)]
    reach = [r if k > 1 else 1 for r, k in zip(reach, conv.kernel, strict=True)]
    steps = [s if k > 1 else 1 for s, k in zip(conv.stride, conv.kernel, strict=True)]
    read = [(out - 1) * s + r for out, s, r in zip((p, q), steps, reach, strict=True)]
    assert helpers("strip_size", conv) == read[0] * read[1] * conv.c


@pytest.mark.parametrize("conv", HUGE, ids=str)
def test_input_gradient(helpers, conv):
    """Each lattice ends on the last pixel of its residue of the stride."""
    found = {helpers("last_of_lattice", conv, i) for i in range(helpers("lattices", conv))}

    def last(size, stride):
        return [size - 1 - (size - 1 - first) % stride for first in range(min(size, stride))]

    rows, cols = last(conv.h, conv.stride[0]), last(conv.w, conv.stride[1])
    pixels = itertools.product(rows, cols)
    assert found == {(((conv.n - 1) * conv.h + row) * conv.w + col) * conv.c for row, col in pixels}


def unwritten(channels, height, width):
    """A bf16 activation of zeros; pages that are only read are all the same one."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_NORESERVE
    memory = torch.frombuffer(mmap.mmap(-1, 2 * channels * height * width, flags=flags), dtype=torch.bfloat16)
    y = memory.view(1, height, width, channels).permute(0, 3, 1, 2)
    assert y.numel() > 2**31 and y.is_contiguous(memory_format=torch.channels_last)
    return y


needs_linux = pytest.mark.skipif(not hasattr(mmap, "MAP_NORESERVE"), reason="needs pages without memory")
CHANNELS, HEIGHT, WIDTH = 64, 256, 2**17 + 16


@pytest.mark.slow
@needs_linux
def test_passes():
    y = unwritten(CHANNELS, HEIGHT, WIDTH)
    y[0, 5, -1, -1], y[0, 6, -1, -3:] = 1, 2
    mean, _ = cpu.OPS["bn_stats"](y)
    torch.testing.assert_close(mean[4:8] * (HEIGHT * WIDTH), torch.tensor([0.0, 1.0, 6.0, 0.0]))
    norm = torch.tensor([[0.0], [1.0], [1.0], [0.0]]).repeat(1, CHANNELS)
    out, argmax = cpu.OPS["bn_act_maxpool"](y, norm, "relu", (16, 16), (16, 16), (0, 0))
    assert out.nonzero().tolist() == [[0, 5, 15, 2**13], [0, 6, 15, 2**13]]
    assert argmax[0, 4:8, 15, 2**13].tolist() == [0, 255, 253, 0]


@needs_linux
@pytest.mark.skipif("conv_fprop" not in cpu.OPS, reason="this backend has no convolutions")
def test_products_of_an_input():
    """At a stride, so that few of the pixels are read: those of the last row lie beyond 2^31 elements."""
    x, stride = unwritten(CHANNELS, HEIGHT, WIDTH), (51, 16)
    row, col = HEIGHT - 1, WIDTH - 16
    x[0, 5, row, col], x[0, 6, row, col] = 1, 2
    weight = torch.arange(8.0 * CHANNELS).view(8, CHANNELS, 1, 1).remainder(7).bfloat16()
    want = weight[:, 5, 0, 0] + 2 * weight[:, 6, 0, 0]
    geometry = stride, (0, 0), (1, 1), 1
    y = cpu.OPS["conv_fprop"](x, weight, None, None, "identity", *geometry, None, None, "identity")
    assert torch.equal(y[0, :, -1, -1], want) and y.count_nonzero() == want.count_nonzero()
    dw = cpu.OPS["conv_wgrad"](torch.ones_like(y), x, None, "identity", weight.shape, *geometry, None, None)
    assert torch.equal(dw[:, 4:8, 0, 0], torch.tensor([0.0, 1.0, 2.0, 0.0]).expand(8, 4))
    mean, gram = cpu.OPS["gram"](x, None, "identity", stride)
    torch.testing.assert_close(mean[4:8] * y[0, 0].numel(), torch.tensor([0.0, 1.0, 2.0, 0.0]))
    torch.testing.assert_close(gram[5:7, 5:7], torch.tensor([[1.0, 2.0], [2.0, 4.0]]), rtol=1e-3, atol=1e-3)
