"""Every block kind x shortcut x stride x BN mode, fused against the stock modules."""

import copy

import pytest
import torch
from torch import nn

import fused_resnet
from fused_resnet.models.blocks import BasicBlock, Bottleneck
from fused_resnet.nn import ZeroPadShortcut
from tests.support import away_from_kinks, compare, perturb

NHWC = torch.channels_last


def conv_bn_relu(in_channels, channels, kernel=3, stride=1, **kwargs):
    conv = nn.Conv2d(in_channels, channels, kernel, stride, kernel // 2, **kwargs)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class AddUnit(nn.Module):
    """One convolution with a residual that comes from somewhere else: ConvBNAddAct."""

    def __init__(self, channels, stride):
        super().__init__()
        self.conv, self.bn, self.relu = (
            nn.Conv2d(channels, channels, 3, stride, 1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        )
        self.pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Hardtanh()

    def forward(self, x):
        return self.relu(self.bn(self.conv(x)) + self.pool(x))


class Stem(nn.Module):
    def __init__(self, in_channels):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 7, 2, 3, bias=False)
        self.bn1, self.relu, self.maxpool = nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)

    def forward(self, x):
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))


def shortcut(kind, in_channels, out_channels, stride):
    if kind == "identity":
        return None
    if kind == "pad":
        return ZeroPadShortcut(in_channels, out_channels, stride)
    conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


def basic(kind, stride):
    wide = 12 if kind != "identity" else 8
    return BasicBlock(8, wide, stride, shortcut(kind, 8, wide, stride))


def bottleneck(kind, stride, groups=1):
    return Bottleneck(
        16, 8, stride, None if kind == "identity" else shortcut(kind, 16, 32, stride), groups, 64 // groups
    )


CASES = {
    "conv3x3": lambda: conv_bn_relu(16, 12),
    "conv3x3 stride 2, bias": lambda: conv_bn_relu(16, 12, stride=2, bias=True),
    "conv1x1 expanding": lambda: conv_bn_relu(16, 40, kernel=1, bias=False),
    "conv1x1 stride 2": lambda: conv_bn_relu(16, 40, kernel=1, stride=2),
    "conv3x3 dilated, grouped": lambda: conv_bn_relu(16, 12, dilation=2, groups=4),
    "add": lambda: AddUnit(16, 1),
    "add stride 2": lambda: AddUnit(16, 2),
    "stem": lambda: Stem(16),
    **{
        f"{name} {kind} stride {stride}": lambda make=make, kind=kind, stride=stride: make(kind, stride)
        for name, make in (("basic", basic), ("bottleneck", bottleneck))
        for kind in ("identity", "projection", "pad")
        for stride in (1, 2)
        if not (kind == "identity" and stride == 2)
    },
    "bottleneck grouped": lambda: bottleneck("projection", 2, groups=4),
}
CASES["bottleneck identity stride 1"] = lambda: Bottleneck(32, 8)


def batch_norms(module):
    return [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]


def replace_batch_norms(module, make):
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, make(child.num_features))
    return perturb(module)


def frozen_torchvision(module):
    misc = pytest.importorskip("torchvision.ops.misc")
    return replace_batch_norms(module, misc.FrozenBatchNorm2d)


def frozen(module):
    for bn in batch_norms(module):
        bn.eval()
    return module


def half_frozen(module):
    """Some layers of a block frozen, others not."""
    batch_norms(module)[0].eval()
    return module


def cumulative(module):
    for bn in batch_norms(module):
        bn.momentum = None
        bn.num_batches_tracked.fill_(3)
    return module


MODES = {
    "train": lambda m: m,
    "eval": lambda m: m.eval(),
    "frozen": frozen,
    "half frozen": half_frozen,
    "FrozenBatchNorm2d": frozen_torchvision,
    "momentum=None": cumulative,
    "affine=False": lambda m: replace_batch_norms(m, lambda c: nn.BatchNorm2d(c, affine=False)),
    "untracked": lambda m: replace_batch_norms(m, lambda c: nn.BatchNorm2d(c, track_running_stats=False)),
    "untracked eval": lambda m: replace_batch_norms(
        m, lambda c: nn.BatchNorm2d(c, track_running_stats=False)
    ).eval(),
    "eps, momentum": lambda m: replace_batch_norms(m, lambda c: nn.BatchNorm2d(c, eps=1e-3, momentum=0.3)),
}


def channels(module):
    return next(m.in_channels for m in module.modules() if isinstance(m, nn.Conv2d))


def make(case, mode, dtype=torch.float64):
    torch.manual_seed(0)
    module = MODES[mode](perturb(CASES[case]()).train())
    return module.to(dtype).to(memory_format=NHWC)


def data(module, dtype=torch.float64, size=(3, 9, 10), count=1, layout=NHWC):
    """`count` inputs of N, H, W = size."""
    generator = torch.Generator().manual_seed(2)
    n, h, w = size
    shape = (n, channels(module), h, w)
    xs = [torch.randn(shape, dtype=torch.float64, generator=generator) for _ in range(count)]
    return [x.to(dtype).contiguous(memory_format=layout) for x in xs]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_fp64_parity(case, mode):
    module = make(case, mode)
    compare(module, data(module))


@pytest.mark.parametrize("memory", ["speed", "min"])
@pytest.mark.parametrize("mode", ["train", "half frozen"])
@pytest.mark.parametrize("case", CASES)
def test_memory_modes(case, mode, memory):
    module = make(case, mode)
    compare(module, data(module), memory=memory)


@pytest.mark.parametrize("case", CASES)
def test_contiguous_layout(case):
    module = make(case, "train").to(memory_format=torch.contiguous_format)
    compare(module, data(module, layout=torch.contiguous_format))


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("case", CASES)
def test_fp32(case, mode):
    module = make(case, mode, torch.float32)
    compare(module, data(module, torch.float32, (3, 14, 13), 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("case", CASES)
def test_autocast(case, mode, dtype):
    module = make(case, mode, torch.float32)
    inputs = data(module, torch.float32, (2, 12, 11), 3)
    compare(away_from_kinks(module, inputs[0]), inputs, autocast=dtype)


@pytest.mark.parametrize("case", ["stem", "basic projection stride 2", "bottleneck identity stride 1"])
def test_frozen_batch_norm_under_autocast_keeps_its_wider_dtype(case):
    module = make(case, "FrozenBatchNorm2d", torch.float32)
    compare(module, data(module, torch.float32), autocast=torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_model(dtype):
    """A model cast as a whole, batch norm parameters included."""
    module = make("bottleneck projection stride 2", "train", dtype)
    x = data(module, dtype)[0]
    fused = fused_resnet.fuse(copy.deepcopy(module))
    got, want = fused(x), module(x)
    assert got.dtype == want.dtype == dtype
    torch.testing.assert_close(got.float(), want.float(), rtol=0.05, atol=0.05)
    got.sum().backward()
    assert all(p.grad.dtype == dtype for p in fused.parameters())


def test_inference_without_grad_keeps_nothing():
    module = make("bottleneck projection stride 2", "eval")
    fused = fused_resnet.fuse(copy.deepcopy(module))
    x = data(module)[0]
    with torch.no_grad():
        out = fused(x)
    assert not out.requires_grad
    torch.testing.assert_close(out, module(x), rtol=1e-10, atol=1e-10)
