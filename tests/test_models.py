"""The networks: counts against the papers and torchvision, weights and outputs against torchvision."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fused_resnet import models
from fused_resnet.models import (
    BasicBlock,
    Bottleneck,
    CifarResNet,
    PlainBasicBlock,
    PreActBasicBlock,
    ResNet,
    cifar,
    imagenet,
    multiply_adds,
    parameter_count,
    wide_resnet,
)
from fused_resnet.nn.shortcut import ZeroPadShortcut

# name: parameters, multiply-adds at 224x224 (rounded as torchvision documents them, in 1e9)
IMAGENET = {
    "resnet18": (11689512, 1.814),
    "resnet34": (21797672, 3.664),
    "resnet50": (25557032, 4.089),
    "resnet101": (44549160, 7.801),
    "resnet152": (60192808, 11.514),
    "wide_resnet50_2": (68883240, 11.398),
    "resnext50_32x4d": (25028904, 4.23),
}
# depth: parameters exactly, and in millions as table 6 of the paper prints them
CIFAR = {
    20: (269722, "0.27"),
    32: (464154, "0.46"),
    44: (658586, "0.66"),
    56: (853018, "0.85"),
    110: (1727962, "1.7"),
    1202: (19421274, "19.4"),
}
IMAGE = (1, 3, 224, 224)
SMALL_IMAGE = (1, 3, 32, 32)
SHORTCUTS = ("A", "B", "C")


def build(name: str, **kwargs: Any) -> nn.Module:
    """A stock-form network without storage."""
    with torch.device("meta"):
        return models.create(name, fused=False, **kwargs)


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in model.state_dict().items()}


def stage_shapes(model: nn.Module, x: Tensor) -> list[tuple[int, ...]]:
    """Output shapes of ``layer1``, ``layer2``, ... and of the whole model."""
    seen: list[tuple[int, ...]] = []
    for name, child in model.named_children():
        if name.startswith("layer"):
            child.register_forward_hook(lambda _module, _args, out: seen.append(tuple(out.shape)))
    seen.append(tuple(model(x).shape))
    return seen


# --- counts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_counts(name: str) -> None:
    parameters, giga = IMAGENET[name]
    model = build(name)
    assert parameter_count(model) == parameters
    assert round(multiply_adds(model, IMAGE) / 1e9, 3) == giga


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_matches_torchvision(name: str) -> None:
    tv = pytest.importorskip("torchvision.models")
    model = build(name)
    with torch.device("meta"):
        theirs = tv.get_model(name)
    assert parameter_count(model) == parameter_count(theirs)
    assert list(shapes(model).items()) == list(shapes(theirs).items())
    documented = tv.get_model_weights(name).IMAGENET1K_V1.meta["_ops"]
    assert round(multiply_adds(model, IMAGE) / 1e9, 3) == pytest.approx(documented, abs=1e-9)
    assert multiply_adds(theirs, IMAGE) == multiply_adds(model, IMAGE)


@pytest.mark.parametrize(("name", "giga"), [("resnet18", 1.8), ("resnet34", 3.6)])
def test_basic_block_multiply_adds_match_table_1(name: str, giga: float) -> None:
    # The paper's 18- and 34-layer rows are option A: no multiply-adds on the shortcuts.
    assert round(multiply_adds(build(name, shortcut="A"), IMAGE) / 1e9, 1) == giga


@pytest.mark.parametrize(("name", "giga"), [("resnet50", 3.8), ("resnet101", 7.6), ("resnet152", 11.3)])
def test_bottleneck_multiply_adds_match_table_1_with_its_stride(name: str, giga: float) -> None:
    # The paper strides in the first 1x1, the library (as torchvision) in the 3x3: 4.09, 7.80, 11.51.
    model = build(name)
    for block in model.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    # Within one unit of the last printed digit: ResNet-50 is 3.858, which the paper prints as 3.8.
    assert abs(multiply_adds(model, IMAGE) / 1e9 - giga) < 0.1


@pytest.mark.parametrize("depth", CIFAR)
def test_cifar_parameters_match_table_6(depth: int) -> None:
    parameters, millions = CIFAR[depth]
    count = parameter_count(build(f"cifar_resnet{depth}"))
    assert count == parameters
    digits = len(millions.partition(".")[2])
    assert f"{count / 1e6:.{digits}f}" == millions


@pytest.mark.parametrize(
    ("plain", "residual", "size"),
    [(f"cifar_plain{d}", f"cifar_resnet{d}", SMALL_IMAGE) for d in CIFAR]
    + [("plain18", "resnet18", IMAGE), ("plain34", "resnet34", IMAGE)],
)
def test_plain_twin_costs_what_option_a_costs(plain: str, residual: str, size: Sequence[int]) -> None:
    bare, twin = build(plain), build(residual, shortcut="A")
    assert shapes(bare) == shapes(twin)
    assert parameter_count(bare) == parameter_count(twin)
    assert multiply_adds(bare, size) == multiply_adds(twin, size)


def test_wrn_28_10_counts() -> None:
    model = build("wrn_28_10")
    assert parameter_count(model) == 36479194
    assert round(multiply_adds(model, SMALL_IMAGE) / 1e9, 1) == 5.2
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.3] * 12


def test_multiply_adds_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),  # 6 x 4 x 4 outputs, 2 x 9 each
        nn.BatchNorm2d(6),
        nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2, bias=False),  # 6 x 4 x 4 inputs, 2 x 4 each
        nn.Flatten(),
        nn.Linear(4 * 8 * 8, 5),
        nn.Linear(5, 3, bias=False),
    )
    by_hand = 96 * 18 + 96 * 8 + 256 * 5 + 5 * 3
    assert multiply_adds(model, (1, 4, 8, 8)) == by_hand
    assert multiply_adds(model, (3, 4, 8, 8)) == 3 * by_hand
    with torch.inference_mode():
        assert multiply_adds(model, (1, 4, 8, 8)) == by_hand


def test_counting_leaves_the_model_alone() -> None:
    model = models.cifar_resnet20(fused=False).double()
    before = copy.deepcopy(model.state_dict())
    multiply_adds(model, (2, 3, 32, 32))
    assert model.training
    assert all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_parameter_count_takes_a_shared_parameter_once() -> None:
    layer = nn.Linear(3, 2)
    assert parameter_count(nn.Sequential(layer, nn.ReLU(), layer)) == 8


# --- torchvision's weights ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_torchvision_weights_give_equal_outputs(name: str) -> None:
    tv = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    theirs = tv.get_model(name).eval()
    # Running statistics away from their initial values, so that a mixed-up batch norm would show.
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    ours = models.create(name, fused=False).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


def test_one_seed_gives_torchvisions_initial_weights() -> None:
    tv = pytest.importorskip("torchvision.models")
    torch.manual_seed(1)
    theirs = tv.resnet18().state_dict()
    torch.manual_seed(1)
    ours = models.resnet18(fused=False).state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


# --- shortcuts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_imagenet_shortcuts_change_shape(block: Any, shortcut: Any) -> None:
    model = ResNet(block, (2, 1, 1, 1), shortcut=shortcut, num_classes=7)
    e = block.expansion
    expected = [(2, 64 * e, 16, 16), (2, 128 * e, 8, 8), (2, 256 * e, 4, 4), (2, 512 * e, 2, 2), (2, 7)]
    assert stage_shapes(model, torch.randn(2, 3, 64, 64)) == expected


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_cifar_shortcuts_change_shape(shortcut: Any) -> None:
    model = models.cifar_resnet20(fused=False, shortcut=shortcut, num_classes=7, in_channels=1)
    expected = [(2, 16, 12, 12), (2, 32, 6, 6), (2, 64, 3, 3), (2, 7)]
    assert stage_shapes(model, torch.randn(2, 1, 12, 12)) == expected


@pytest.mark.parametrize(("groups", "width"), ((1, 16), (2, 10), (4, 6)))
def test_cifar_bottlenecks(groups: int, width: int) -> None:
    """Shapes, depth, and parameters in closed form."""
    model = CifarResNet(29, block=Bottleneck, shortcut="B", groups=groups, width_per_group=width)
    expected = [(2, 64, 8, 8), (2, 128, 4, 4), (2, 256, 2, 2), (2, 10)]
    assert stage_shapes(model, torch.randn(2, 3, 8, 8)) == expected
    weighted = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(weighted) == 29 + 3  # the projections are not counted
    parameters, source = 9 * 3 * 16 + 2 * 16 + 256 * 10 + 10, 16
    for stage in range(3):
        inner, out = groups * width * 2**stage, 64 * 2**stage
        for _ in range(3):
            projection = source * out + 2 * out if source != out else 0
            parameters += source * inner + 9 * inner * inner // groups + inner * out + projection
            parameters += 2 * (2 * inner + out)
            source = out
    assert parameter_count(model) == parameters


@pytest.mark.parametrize(
    ("shortcut", "kinds"),
    [
        ("A", [type(None), type(None), ZeroPadShortcut, type(None)]),
        ("B", [type(None), type(None), nn.Sequential, type(None)]),
        ("C", [nn.Sequential] * 4),
    ],
)
def test_shortcut_kinds(shortcut: Any, kinds: list[type]) -> None:
    model = CifarResNet(14, shortcut=shortcut)
    blocks = [b for b in model.modules() if isinstance(b, BasicBlock)]
    assert [type(b.downsample) for b in blocks[:4]] == kinds


def test_other_networks_change_shape() -> None:
    plain = ResNet(PlainBasicBlock, (1, 1, 1, 1), num_classes=7)
    assert stage_shapes(plain, torch.randn(2, 3, 64, 64))[2:] == [(2, 256, 4, 4), (2, 512, 2, 2), (2, 7)]
    plain20 = models.cifar_plain20(fused=False)
    assert stage_shapes(plain20, torch.randn(2, 3, 8, 8)) == [
        (2, 16, 8, 8),
        (2, 32, 4, 4),
        (2, 64, 2, 2),
        (2, 10),
    ]
    wide = models.wide_resnet_cifar(10, 2, dropout=0.5, num_classes=7, fused=False)
    assert stage_shapes(wide, torch.randn(2, 3, 8, 8)) == [
        (2, 32, 8, 8),
        (2, 64, 4, 4),
        (2, 128, 2, 2),
        (2, 7),
    ]


def test_zero_pad_shortcut() -> None:
    x = torch.randn(2, 3, 5, 4)
    module = ZeroPadShortcut(3, 8, 2)
    out = module(x)
    assert out.shape == (2, 8, 3, 2)
    assert torch.equal(out[:, :3], x[:, :, ::2, ::2])
    assert not out[:, 3:].any()
    assert not module.state_dict()
    assert repr(module) == "ZeroPadShortcut(3, 8, stride=2)"
    assert torch.equal(ZeroPadShortcut(3, 3, 1)(x), x)


@pytest.mark.parametrize("stride", [1, 2])
def test_preact_block_by_formula(stride: int) -> None:
    block = PreActBasicBlock(4, 4, stride).double().eval()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    first = block.bn1(x).clamp(min=0)
    second = block.conv2(block.bn2(block.conv1(first)).clamp(min=0))
    source = x.clone() if block.downsample is None else block.downsample(first)
    assert (block.downsample is None) == (stride == 1)
    torch.testing.assert_close(block(x), second + source, rtol=0, atol=1e-12)


def test_he_initialisation() -> None:
    torch.manual_seed(0)
    model = models.cifar_resnet20(fused=False)
    conv = model.get_submodule("layer3.1.conv1")
    assert isinstance(conv, nn.Conv2d)
    assert conv.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.03)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


# --- registry and arguments -----------------------------------------------------------------------


def test_registry() -> None:
    assert len(models.names()) == len(set(models.names())) == 22
    for name in models.names():
        assert name in models.__all__
    model = build("cifar_resnet32", num_classes=100)
    assert isinstance(model, CifarResNet)
    assert model.fc.out_features == 100


@pytest.mark.parametrize(
    ("argument", "call"),
    [
        ("name", lambda: models.create("resnet19")),
        ("shortcut", lambda: models.resnet18(fused=False, shortcut="D")),  # type: ignore[arg-type]
        ("shortcut", lambda: models.cifar_resnet20(fused=False, shortcut="b")),  # type: ignore[arg-type]
        ("num_classes", lambda: models.resnet50(fused=False, num_classes=0)),
        ("num_classes", lambda: models.cifar_plain20(fused=False, num_classes=0)),
        ("num_classes", lambda: models.wrn_28_10(fused=False, num_classes=-1)),
        ("in_channels", lambda: models.cifar_resnet20(fused=False, in_channels=0)),
        ("in_channels", lambda: models.wrn_28_10(fused=False, in_channels=0)),
        ("depth", lambda: CifarResNet(21)),
        ("depth", lambda: CifarResNet(2)),
        ("depth", lambda: CifarResNet(14, block=Bottleneck)),
        ("residual", lambda: CifarResNet(29, block=Bottleneck, residual=False)),
        ("groups", lambda: CifarResNet(20, groups=2)),
        ("groups", lambda: CifarResNet(29, block=Bottleneck, groups=0)),
        ("width_per_group", lambda: CifarResNet(20, width_per_group=8)),
        ("depth", lambda: models.wide_resnet_cifar(27, 1, fused=False)),
        ("depth", lambda: models.wide_resnet_cifar(4, 1, fused=False)),
        ("width", lambda: models.wide_resnet_cifar(10, 0, fused=False)),
        ("dropout", lambda: models.wrn_28_10(fused=False, dropout=1.0)),
        ("dropout", lambda: PreActBasicBlock(4, 4, dropout=-0.1)),
        ("layers", lambda: ResNet(BasicBlock, (1, 1, 1))),
        ("layers", lambda: ResNet(BasicBlock, (1, 0, 1, 1))),
        ("groups", lambda: ResNet(BasicBlock, (1, 1, 1, 1), groups=2)),
        ("groups", lambda: ResNet(Bottleneck, (1, 1, 1, 1), groups=0)),
        ("width_per_group", lambda: ResNet(PlainBasicBlock, (1, 1, 1, 1), width_per_group=128)),
        ("groups", lambda: BasicBlock(4, 4, groups=2)),
        ("base_width", lambda: BasicBlock(4, 4, base_width=32)),
        ("in_channels", lambda: ZeroPadShortcut(0, 4, 1)),
        ("out_channels", lambda: ZeroPadShortcut(4, 3, 1)),
        ("stride", lambda: ZeroPadShortcut(4, 4, 0)),
        ("input_size", lambda: multiply_adds(nn.Linear(2, 2), ())),
        ("input_size", lambda: multiply_adds(nn.Linear(2, 2), (0, 2))),
    ],
)
def test_bad_arguments_are_named(argument: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=rf"^{argument} must be"):
        call()


# --- fused against stock --------------------------------------------------------------------------


def compare_in_training(stock: nn.Module, converted: nn.Module, x: Tensor) -> None:
    """Equal keys, then equal outputs, gradients and running statistics after one step in train mode."""
    assert list(shapes(converted).items()) == list(shapes(stock).items())
    converted.load_state_dict(stock.state_dict())
    outputs = [model.double().train()(x) for model in (stock, converted)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-10)
    for out in outputs:
        out.square().sum().backward()
    for (name, ours), theirs in zip(converted.named_parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-9, msg=name)
    for (name, mine), other in zip(converted.named_buffers(), stock.buffers(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_plain20"])
def test_fused_cifar_network_equals_stock(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    compare_in_training(models.create(name, fused=False), models.create(name), x)


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_fused_tiny_resnet_equals_stock(block: Any, shortcut: Any) -> None:
    from fused_resnet import fuse

    torch.manual_seed(0)
    stock = ResNet(block, (2, 1, 1, 1), shortcut=shortcut, num_classes=5)
    converted = copy.deepcopy(stock)
    fuse(converted)
    compare_in_training(stock, converted, torch.randn(4, 3, 64, 64, dtype=torch.float64))


def test_fused_wide_resnet_equals_stock() -> None:
    torch.manual_seed(0)
    stock, converted = (
        models.wide_resnet_cifar(10, 1, num_classes=5, fused=fused) for fused in (False, True)
    )
    compare_in_training(stock, converted, torch.randn(4, 3, 16, 16, dtype=torch.float64))


@pytest.mark.parametrize("name", models.names())
def test_fused_state_dict_and_counts_equal_stock(name: str) -> None:
    stock = build(name)
    with torch.device("meta"):
        converted = models.create(name)
    assert list(shapes(converted).items()) == list(shapes(stock).items())
    if "1202" in name:
        return  # the passes of two such networks take ten seconds and show nothing that 110 does not
    size = SMALL_IMAGE if name in cifar.__all__ + wide_resnet.__all__ else (1, 3, 64, 64)
    assert multiply_adds(converted, size) == multiply_adds(stock, size)


@pytest.mark.parametrize("name", ["resnet18", "plain18", "cifar_resnet20", "cifar_plain20", "wrn_28_10"])
def test_memory_goes_to_fuse(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fused_resnet

    calls: list[tuple[nn.Module, str]] = []
    monkeypatch.setattr(
        fused_resnet, "fuse", lambda model, *, memory: calls.append((model, memory)), raising=False
    )
    with torch.device("meta"):
        model = models.create(name, memory="low")
        models.create(name, memory="low", fused=False)
    assert [(id(m), memory) for m, memory in calls] == [(id(model), "low")]


def test_public_names_are_exported() -> None:
    for module in (cifar, imagenet, wide_resnet):
        assert set(module.__all__) <= set(models.__all__)
