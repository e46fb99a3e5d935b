"""Bad input: an error that names the argument and what was expected, before anything has run or changed."""

import copy

import pytest
import torch
from torch import nn

import fused_resnet
from fused_resnet import backends, ops
from fused_resnet.models.blocks import BasicBlock, Bottleneck
from tests.op_samples import SAMPLES, Make


def no_kernels():
    return backends.observe(lambda op, backend: pytest.fail(f"{op} ran on {backend}"))


# ---- ops ---------------------------------------------------------------------------------------------------


def arguments(op, sample=0):
    """A valid call of the op, by argument name."""
    names = [a.name for a in getattr(torch.ops.fused_resnet, op).default._schema.arguments]
    return dict(zip(names, list(SAMPLES[op](Make()))[sample], strict=True))


def message(op, args, expected):
    """The error that the op raises on these arguments, without asking any backend for a kernel."""
    with no_kernels(), pytest.raises(expected) as caught:
        getattr(ops, op)(**args)
    return str(caught.value)


def names_an_argument(text, args):
    """Messages read "name: expected ..., got ...", of one of a list "name[0]: ..."."""
    name, _, rest = text.partition(": ")
    return name.partition("[")[0] in args and rest.startswith("expected ") and ", got " in rest


WRONG = {
    "device": (lambda t: t.to("meta"), ValueError),
    "integer": (lambda t: t.to(torch.int32), TypeError),
    "complex": (lambda t: t.to(torch.complex64), TypeError),
    "rank": (lambda t: t[None], ValueError),
    "channels": (lambda t: torch.cat((t, t), min(1, t.dim() - 1)), ValueError),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("op", sorted(SAMPLES))
def test_every_tensor_of_every_op(op, wrong):
    """Each tensor in turn on another device, of another kind of number, with more dimensions or channels."""
    change, expected = WRONG[wrong]
    for sample in range(len(list(SAMPLES[op](Make())))):
        args = arguments(op, sample)
        tensors = [n for n, t in args.items() if isinstance(t, torch.Tensor)]
        if len(tensors) == 1 and wrong in ("device", "channels"):
            continue  # nothing that it could differ from
        for name in tensors:
            text = message(op, args | {name: change(args[name])}, expected)
            assert names_an_argument(text, args), f"{name}: {text}"


OTHER_DTYPES = (
    ("conv_fprop", "weight"),
    ("conv_fprop", "norm"),
    ("conv_fprop", "residual"),
    ("conv_dgrad", "weight"),
    ("conv_dgrad", "dnorm"),
    ("conv_wgrad", "x"),
    ("bn_act", "norm"),
    ("bn_add_act", "residual"),
    ("bn_act_bwd_reduce", "y"),
    ("bn_act_bwd_apply", "dnorm"),
    ("bn_bwd_finalize", "sums"),
    ("folded_dgrad", "weight_x"),
    ("folded_stats", "gram"),
    ("folded_wgrad", "dnorm"),
    ("bn_act_maxpool_bwd_reduce", "dout"),
)


@pytest.mark.parametrize(("op", "name"), OTHER_DTYPES)
def test_mixed_floating_dtypes(op, name):
    args = arguments(op)
    for dtype in (torch.float64, torch.bfloat16):
        text = message(op, args | {name: args[name].to(dtype)}, TypeError)
        assert text.startswith(f"{name}: expected dtype torch.float32") and str(dtype) in text


BAD_VALUES = (
    ("conv_fprop", {"stride": [0, 1]}, "stride: expected two integers >= 1"),
    ("conv_fprop", {"padding": [1, -1]}, "padding: expected two integers >= 0"),
    ("conv_fprop", {"dilation": [0, 0]}, "dilation: expected two integers >= 1"),
    ("conv_fprop", {"groups": 0}, "groups: expected an integer >= 1"),
    ("conv_fprop", {"groups": 2}, "x: expected 8 channels"),
    ("conv_fprop", {"stride": [1, 1, 1]}, "stride: expected two integers"),
    ("conv_fprop", {"dilation": [9, 9]}, "x: expected height and width to fit"),
    ("conv_fprop", {"act": "gelu"}, "act: expected one of"),
    ("conv_fprop", {"x_act": "tanh"}, "x_act: expected one of"),
    ("conv_fprop_stats", {"padding": [-1, 0]}, "padding: expected two integers >= 0"),
    ("conv_dgrad", {"input_size": [2, 4, 6]}, "input_size: expected 4 dimensions"),
    ("conv_dgrad", {"input_size": [2, 4, 9, 9]}, "g: expected shape"),
    ("conv_dgrad", {"stride": [2, 2]}, "g: expected shape"),
    ("conv_dgrad_reduce", {"stride": [0, 2]}, "stride: expected"),
    ("conv_wgrad", {"weight_size": [6, 4, 5, 5]}, "g: expected shape"),
    ("conv_wgrad", {"weight_size": [6, 3, 3, 3]}, "x: expected 3 channels"),
    ("conv_wgrad", {"groups": -1}, "groups: expected"),
    ("conv_wgrad_masked", {"stride": [2, 2]}, "dout: expected shape"),
    ("gram", {"stride": [0, 1]}, "stride: expected"),
    ("folded_dgrad", {"stride": [2, 2]}, "g: expected shape"),
    ("folded_stats", {"weight": torch.zeros(6, 4, 3, 3)}, "weight: expected a 1x1 kernel"),
    ("bn_act", {"act": ""}, "act: expected one of"),
    ("bn_act_bwd_reduce", {"norm": None}, "norm: expected"),
    ("bn_act_bwd_reduce", {"y": None, "norm": None}, "out: expected a tensor"),
    ("bn_act_maxpool", {"kernel_size": [17, 17]}, "kernel_size: expected at most 256"),
    ("bn_act_maxpool", {"padding": [2, 2]}, "padding: expected at most half"),
    ("bn_act_maxpool", {"stride": [0, 0]}, "stride: expected"),
    ("bn_act_maxpool", {"kernel_size": [16, 16], "padding": [0, 0]}, "y: expected height and width"),
    ("bn_act_maxpool_bwd_reduce", {"stride": [1, 1]}, "dout: expected shape"),
)


@pytest.mark.parametrize(("op", "changes", "expected"), BAD_VALUES)
def test_bad_values(op, changes, expected):
    text = message(op, arguments(op) | changes, ValueError)
    assert text.startswith(expected) and ", got " in text


def test_fake_tensors_are_checked_alike():
    """What torch.compile traces fails as early as what runs."""
    args = arguments("conv_fprop")
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = {n: mode.from_tensor(t) if isinstance(t, torch.Tensor) else t for n, t in args.items()}
        with pytest.raises(ValueError, match="padding: expected"):
            ops.conv_fprop(**(fake | {"padding": [-1, 0]}))


# ---- fused models ------------------------------------------------------------------------------------------


def conv_bn_relu(channels=3, out=4, kernel=3, **kwargs):
    return nn.Sequential(nn.Conv2d(channels, out, kernel, **kwargs), nn.BatchNorm2d(out), nn.ReLU())


def stem():
    return nn.Sequential(*conv_bn_relu(padding=1, bias=False), nn.MaxPool2d(3, 2, 1))


class Add(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()

    def forward(self, x, residual):
        return self.relu(self.bn(self.conv(x)) + residual)


MODELS = {
    "unit": conv_bn_relu,
    "stem": stem,
    "basic": lambda: BasicBlock(3, 3),
    "bottleneck": lambda: Bottleneck(3, 8),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def fuse(model):
    fused = fused_resnet.fuse(model)
    assert fused_resnet.explain(fused).fused, "nothing was fused: the test would prove nothing"
    return fused


def refused(model, inputs, expected, match):
    """The fused model raises this, runs nothing, and is as it was before."""
    fused = fuse(model)
    before = copy.deepcopy(fused.state_dict())
    with no_kernels(), pytest.raises(expected, match=match):
        fused(*inputs)
    for name, value in fused.state_dict().items():
        assert torch.equal(value, before[name]), name


BAD_INPUTS = {
    "rank": (torch.randn(2, 3, 8), ValueError, "^x: expected"),
    "rank 5": (torch.randn(2, 3, 8, 8, 1), ValueError, "^x: expected a 4-dimensional"),
    "channels": (torch.randn(2, 5, 8, 8), ValueError, "^x: expected 3 channels"),
    "device": (torch.empty(2, 3, 8, 8, device="meta"), ValueError, "^x: expected device cpu"),
    "dtype": (torch.randn(2, 3, 8, 8, dtype=torch.float64), TypeError, "^x: expected dtype torch.float32"),
    "bf16": (torch.randn(2, 3, 8, 8, dtype=torch.bfloat16), TypeError, "^x: expected dtype torch.float32"),
    "integer": (torch.ones(2, 3, 8, 8, dtype=torch.int64), TypeError, "^x: expected one of fp32"),
    "complex": (torch.ones(2, 3, 8, 8, dtype=torch.complex64), TypeError, "^x: expected one of fp32"),
}


@every_model
@pytest.mark.parametrize("bad", BAD_INPUTS)
def test_bad_input(make, bad):
    x, expected, match = BAD_INPUTS[bad]
    if bad == "rank":
        x = x[0]  # two dimensions: three would be an unbatched image to stock modules
    refused(make(), (x,), expected, match)


@pytest.mark.parametrize("size", [(1, 3, 1, 1)])
def test_one_value_per_channel(size):
    """As stock: ValueError in training, no statistics touched; fine in eval."""
    model, x = conv_bn_relu(kernel=1), torch.randn(size)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        copy.deepcopy(model)(x)
    refused(model, (x,), ValueError, "more than 1 value per channel")
    want = model.eval()(x)
    assert torch.allclose(fuse(model)(x), want)


def test_one_value_per_channel_further_down():
    """The first unit alone could run; nothing must have changed when the second cannot."""
    block = BasicBlock(3, 4, stride=2, downsample=nn.Sequential(nn.Conv2d(3, 4, 1, 2), nn.BatchNorm2d(4)))
    refused(block, (torch.randn(1, 3, 2, 2),), ValueError, "more than 1 value per channel")


def test_kernel_larger_than_input():
    refused(
        conv_bn_relu(kernel=5), (torch.randn(2, 3, 4, 9),), ValueError, "^x: expected height and width to fit"
    )


def test_wrong_residual():
    x = torch.randn(2, 3, 8, 8)
    for shape in ((2, 4, 8, 8), (2, 3, 4, 4), (3, 3, 8, 8)):
        refused(Add(), (x, torch.randn(shape)), ValueError, "^residual: expected shape")
    refused(Add(), (x, torch.empty(2, 3, 8, 8, device="meta")), ValueError, "^residual: expected device cpu")


def test_identity_shortcut_that_does_not_fit():
    refused(BasicBlock(3, 4), (torch.randn(2, 3, 8, 8),), ValueError, "identity shortcut.*expected shape")


@pytest.mark.parametrize("field", ["weight", "running_mean"])
def test_batch_norm_on_another_device(field):
    model = conv_bn_relu()
    value = getattr(model[1], field).detach().to("meta")
    setattr(model[1], field, nn.Parameter(value) if field == "weight" else value)
    with pytest.raises(ValueError, match=f"{field}: expected device cpu"):
        fuse(model)(torch.randn(2, 3, 8, 8))


def test_not_a_tensor():
    with pytest.raises((TypeError, AttributeError)):
        fuse(conv_bn_relu())([1.0])


# ---- empty batches -----------------------------------------------------------------------------------------


def outcome(model, x):
    """Shape of the output and of the gradient, or the type of the error; and the buffers afterwards."""
    x = x.clone().requires_grad_()
    try:
        out = model(x)
        out.sum().backward()
        result = tuple(out.shape), tuple(x.grad.shape)
    except (RuntimeError, ValueError) as error:
        result = type(error)
    return result, {n: b.clone() for n, b in model.named_buffers()}


@every_model
@pytest.mark.parametrize("training", [True, False])
def test_empty_batch(make, training):
    """Whatever stock modules make of it."""
    model = make().train(training)
    fused = fuse(copy.deepcopy(model))
    want, buffers = outcome(model, torch.empty(0, 3, 8, 8))
    got, mine = outcome(fused, torch.empty(0, 3, 8, 8))
    assert got == want
    for name, buffer in buffers.items():
        assert torch.equal(mine[name].nan_to_num(7.0), buffer.nan_to_num(7.0)), name
