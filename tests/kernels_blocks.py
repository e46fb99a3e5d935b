"""Whole blocks, forward and backward, by the kernels of one backend, against the stock modules."""

import torch
from torch import nn

import fused_resnet
from fused_resnet import use_backend
from fused_resnet.backends import observe, signatures
from fused_resnet.models.blocks import BasicBlock, Bottleneck
from fused_resnet.nn import ZeroPadShortcut
from tests.support import away_from_kinks, compare, perturb

NHWC = torch.channels_last


def shortcut(kind, channels, out_channels, stride):
    if kind == "identity":
        return None
    if kind == "pad":
        return ZeroPadShortcut(channels, out_channels, stride)
    conv = nn.Conv2d(channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


def basic(kind):
    wide, stride = (32, 1) if kind == "identity" else (48, 2)
    return BasicBlock(32, wide, stride, shortcut(kind, 32, wide, stride))


def bottleneck(kind):
    """The expanding convolutions fold: C <= K/2, and enough rows."""
    channels, inner, stride = (64, 16, 1) if kind == "identity" else (48, 32, 2)
    return Bottleneck(channels, inner, stride, shortcut(kind, channels, 4 * inner, stride))


def stem(_):
    conv = nn.Conv2d(3, 32, 7, 2, 3, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(32), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))


CASES = {
    **{f"basic {kind}": (basic, kind, 32) for kind in ("identity", "projection", "pad")},
    **{f"bottleneck {kind}": (bottleneck, kind, 64) for kind in ("identity",)},
    **{f"bottleneck {kind}": (bottleneck, kind, 48) for kind in ("projection", "pad")},
    "stem": (stem, "", 3),
}


def check(case, backend, emulation, dtype, memory="balanced", training=True):
    """A block in `dtype` on an emulated GPU, where every op but those on vectors must run on `backend`.

    emulation: a context manager that gives the records of launches. Returns the ops that ran.
    """
    make, kind, channels = CASES[case]
    torch.manual_seed(1)  # of this one, no pre-activation is 4 standard deviations off, at ReLU's kink
    x = torch.randn(3, channels, 11, 10).contiguous(memory_format=NHWC)
    stock = perturb(make(kind))
    tf32 = dtype == torch.float32 and torch.backends.cudnn.allow_tf32
    if dtype != torch.float32 or tf32:
        away_from_kinks(stock, x)
    stock = stock.to(dtype).to(memory_format=NHWC).train(training)
    taken = []
    with emulation as records, use_backend(backend), observe(lambda op, name: taken.append((op, name))):
        compare(stock, [x.to(dtype)], memory=memory, bound="parity in tf32" if tf32 else "parity")
    taken = [(op, name) for op, name in taken if op not in signatures.FOLDED]  # a few of PyTorch's operations
    assert {name for _, name in taken} == {backend}, "nothing fell back"
    assert records
    assert not any(record.launch.collisions for record in records)
    return {op for op, _ in taken}


def training_step(emulation, backend):
    """Output and gradients of a bottleneck's training step, the same for the same emulation."""
    torch.manual_seed(0)
    block = fused_resnet.fuse(perturb(bottleneck("projection"))).to(torch.bfloat16).to(memory_format=NHWC)
    x = torch.randn(3, 48, 11, 10).to(torch.bfloat16).contiguous(memory_format=NHWC).requires_grad_()
    with emulation, use_backend(backend):
        out = block(x)
        return out, *torch.autograd.grad(out.float().square().sum(), (x, *block.parameters()))
