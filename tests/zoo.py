"""Networks of others, small, and what `fuse` should find in each: the cases of test_convert.py."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fused_resnet.models import BasicBlock as OurBasicBlock
from fused_resnet.models import Bottleneck as OurBottleneck
from fused_resnet.models import CifarResNet, PlainBasicBlock, ResNet, WideResNet


@dataclass(frozen=True)
class Case:
    """A network and what is to be found in it.

    make: builds it, in fp32; shape: of its input; kinds: how many units of each kind, "kind/shortcut";
    left: convolutions that stay, with a part of the reason.
    """

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    kinds: dict[str, int]
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def package(name: str):
    """A module, or the test is skipped."""
    pytest.importorskip(name.partition(".")[0])
    return importlib.import_module(name)


def initialise(model: nn.Module) -> nn.Module:
    """Give a network on the meta device storage and values that keep activations and gradients in range."""
    model = model.to_empty(device="cpu")
    for module in model.modules():
        for name, p in module.named_parameters(recurse=False):
            if name == "weight" and p.dim() > 1:
                nn.init.kaiming_normal_(p)
            else:
                nn.init.constant_(p, 1.0 if name == "weight" else 0.0)
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
    return model


# ---- written here --------------------------------------------------------------------------------


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2 = nn.Linear(16 * 5 * 5, 120), nn.Linear(120, 10)

    def forward(self, x):
        out = F.max_pool2d(F.relu(self.conv1(x)), 2)
        out = F.max_pool2d(F.relu(self.conv2(out)), 2)
        out = out.view(out.size(0), -1)
        return self.fc2(F.relu(self.fc1(out)))


class LambdaLayer(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def pad_8(x):
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))


class FunctionalBlock(nn.Module):
    """The block of the much copied CIFAR ResNets: F.relu, an empty nn.Sequential as identity shortcut."""

    def __init__(self, in_planes, planes, stride=1, option="B"):
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_planes != planes:
            if option == "A":
                self.shortcut = LambdaLayer(pad_8)
            else:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False), nn.BatchNorm2d(planes)
                )

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.shortcut(x)
        out = F.relu(out)
        return out


class FunctionalResNet(nn.Module):
    def __init__(self, option="B"):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layer1 = nn.Sequential(FunctionalBlock(8, 8), FunctionalBlock(8, 16, 2, option))
        self.linear = nn.Linear(16, 10)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer1(out)
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))


class SequentialBlock(nn.Module):
    """The residual function is one nn.Sequential."""

    def __init__(self, channels, out, stride=1):
        super().__init__()
        self.residual_function = nn.Sequential(
            nn.Conv2d(channels, out, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
            nn.Conv2d(out, out * 4, 1, bias=False),
            nn.BatchNorm2d(out * 4),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != out * 4:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out * 4, 1, stride=stride, bias=False), nn.BatchNorm2d(out * 4)
            )

    def forward(self, x):
        return nn.ReLU(inplace=True)(self.residual_function(x) + self.shortcut(x))


class OptionalResidual(nn.Module):
    """DLA's block: the residual is an argument that may be missing."""

    def __init__(self, channels=8):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x, residual=None):
        if residual is None:
            residual = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += residual
        return self.relu(out)


class TwoStreams(nn.Module):
    """An addition that makes no residual block: the networks on its sides are fused as ever."""

    def __init__(self):
        super().__init__()
        self.left = nn.Sequential(FunctionalBlock(3, 8), FunctionalBlock(8, 8))
        self.right = nn.Sequential(FunctionalBlock(3, 8), nn.Conv2d(8, 8, 1))
        self.mix = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        out = F.relu(self.left(x) + self.mix(self.right(x)))
        return self.head(out.mean((2, 3)))


class Listed(nn.Module):
    """Layers in an nn.ModuleList, called in a loop."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, stride=2), nn.Conv2d(8, 4, 1)])
        self.norms = nn.ModuleDict({"0": nn.BatchNorm2d(8), "1": nn.BatchNorm2d(8)})

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if str(i) in self.norms:
                x = self.norms[str(i)](x)
            x = F.relu_(x)
        return x.mean((2, 3))


class BottleneckNet(nn.Module):
    """Stem, a projection and an identity block that fold, head: every kind of unit in few layers."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu, self.maxpool = nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
        downsample = nn.Sequential(nn.Conv2d(8, 32, 1, stride=2, bias=False), nn.BatchNorm2d(32))
        self.layer1 = nn.Sequential(OurBottleneck(8, 8, 2, downsample), OurBottleneck(32, 8))
        self.fc = nn.Linear(32, 4)

    def forward(self, x):
        x = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))


def sequential_net():
    return nn.Sequential(
        SequentialBlock(3, 4),
        SequentialBlock(16, 4),
        SequentialBlock(16, 8, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


# ---- torchvision ---------------------------------------------------------------------------------


def tv_resnet(block: str, **kwargs) -> Callable[[], nn.Module]:
    def make():
        resnet = package("torchvision.models.resnet")
        model = resnet.ResNet(getattr(resnet, block), [1, 1, 1, 1], num_classes=4, **kwargs)
        return without_wide_stages(model, getattr(resnet, block).expansion)

    return make


def without_wide_stages(model: nn.Module, expansion: int) -> nn.Module:
    """The last two stages have most of the parameters and nothing new."""
    model.layer3, model.layer4, model.fc = nn.Identity(), nn.Identity(), nn.Linear(128 * expansion, 4)
    return model


def our_resnet(block, **kwargs) -> Callable[[], nn.Module]:
    def make():
        return without_wide_stages(ResNet(block, (1, 1, 1, 1), **kwargs), block.expansion)

    return make


def tv_vgg(batch_norm: bool):
    vgg = package("torchvision.models.vgg")
    with torch.device("meta"):
        model = vgg.VGG(vgg.make_layers(vgg.cfgs["A"], batch_norm), num_classes=4, init_weights=False)
        model.classifier = nn.Linear(512 * 7 * 7, 4)
    return initialise(model)


def tv_alexnet():
    models = package("torchvision.models")
    with torch.device("meta"):
        model = models.AlexNet(num_classes=4)
        model.classifier = nn.Sequential(nn.Dropout(), nn.Linear(256 * 6 * 6, 4))
    return initialise(model)


def tv_googlenet(aux_logits: bool):
    models = package("torchvision.models")
    with torch.device("meta"):
        model = models.GoogLeNet(
            num_classes=4, aux_logits=aux_logits, transform_input=True, init_weights=False
        )
    return initialise(model)


def tv_densenet():
    models = package("torchvision.models")
    return models.DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=4)


def tv_mobilenet():
    return package("torchvision.models").MobileNetV2(num_classes=4, width_mult=0.25)


def tv_detection():
    """A detection backbone: frozen batch norms, a ModuleDict that returns several maps."""
    package("torchvision")
    getter = package("torchvision.models._utils").IntermediateLayerGetter
    frozen = package("torchvision.ops.misc").FrozenBatchNorm2d
    backbone = tv_resnet("Bottleneck", norm_layer=frozen)()
    return getter(backbone, {"layer1": "0", "layer2": "1"})


def tv_regnet():
    """Its residual functions are sequentials of modules of convolution, batch norm and activation."""
    regnet = package("torchvision.models.regnet")
    params = regnet.BlockParams.from_init_params(
        depth=3, w_0=8, w_a=8.0, w_m=2.0, group_width=8, se_ratio=0.25
    )
    return regnet.RegNet(params, num_classes=4)


# ---- timm ----------------------------------------------------------------------------------------


def timm_resnet(block: str, aa: bool = False, **kwargs) -> Callable[[], nn.Module]:
    def make():
        resnet = package("timm.models.resnet")
        if aa:
            kwargs["aa_layer"] = package("timm.layers").BlurPool2d
        channels = (16, 32, 64, 128)
        kwargs.setdefault("stem_width", 16)
        return resnet.ResNet(getattr(resnet, block), (1, 1, 1, 1), num_classes=4, channels=channels, **kwargs)

    return make


def timm_legacy_se():
    senet = package("timm.models.senet")
    return senet.SENet(
        senet.SEResNetBlock,
        [1, 1, 1, 1],
        groups=1,
        reduction=16,
        inplanes=64,
        num_classes=4,
        downsample_kernel_size=1,
        downsample_padding=0,
    )


STEM = {"conv_bn_act_maxpool/": 1}
TWO_BASIC = {"basic_block/identity": 1, "basic_block/projection": 1}
SE_BLOCK = "se (SEModule) before the addition"

CASES = [
    Case("lenet", LeNet, (2, 3, 32, 32), {"conv_bn_act/": 2}),
    Case(
        "functional_b",
        FunctionalResNet,
        (2, 3, 16, 16),
        {"conv_bn_act/": 1, "basic_block/identity": 1, "basic_block/projection": 1},
    ),
    Case(
        "functional_a",
        lambda: FunctionalResNet("A"),
        (2, 3, 16, 16),
        {"conv_bn_act/": 1, "basic_block/identity": 1, "basic_block/tensor": 1},
    ),
    Case(
        "sequential", sequential_net, (2, 3, 16, 16), {"bottleneck/identity": 1, "bottleneck/projection": 2}
    ),
    Case("optional_residual", OptionalResidual, (2, 8, 8, 8), {"basic_block/identity": 1}),
    Case(
        "two_streams",
        TwoStreams,
        (2, 3, 8, 8),
        {"basic_block/projection": 2, "basic_block/identity": 1, "conv_bn_add_act/tensor": 1},
        {"right.1": "no activation behind it"},
    ),
    Case("listed", Listed, (2, 3, 16, 16), {"conv_bn_act/": 3}),
    *(
        Case(
            f"cifar_{s}",
            lambda s=s: CifarResNet(8, shortcut=s),
            (2, 3, 16, 16),
            {"conv_bn_act/": 1} | kinds,
        )
        for s, kinds in {
            "A": {"basic_block/identity": 1, "basic_block/pad": 2},
            "B": {"basic_block/identity": 1, "basic_block/projection": 2},
            "C": {"basic_block/projection": 3},
        }.items()
    ),
    Case("cifar_plain", lambda: CifarResNet(8, residual=False), (2, 3, 16, 16), {"conv_bn_act/": 7}),
    Case(
        "resnet_a",
        our_resnet(OurBasicBlock, shortcut="A"),
        (2, 3, 32, 32),
        STEM | {"basic_block/identity": 1, "basic_block/pad": 1},
    ),
    Case(
        "resnet_bottleneck",
        our_resnet(OurBottleneck, width_per_group=32),
        (2, 3, 32, 32),
        STEM | {"bottleneck/projection": 2},
    ),
    Case("plain", our_resnet(PlainBasicBlock), (2, 3, 32, 32), STEM | {"conv_bn_act/": 4}),
    Case(
        "wide",
        lambda: WideResNet(10, 1),
        (2, 3, 16, 16),
        {"conv_bn_act/": 3},
        {"conv1": "followed by layer1 (Sequential)", "layer1.0.conv2": "followed by an addition"},
    ),
    Case("tv_resnet18", tv_resnet("BasicBlock"), (2, 3, 32, 32), STEM | TWO_BASIC),
    Case("tv_resnet50", tv_resnet("Bottleneck"), (2, 3, 32, 32), STEM | {"bottleneck/projection": 2}),
    Case(
        "tv_resnext50",
        tv_resnet("Bottleneck", groups=32, width_per_group=4),
        (2, 3, 32, 32),
        STEM | {"bottleneck/projection": 2},
    ),
    Case(
        "tv_wide_resnet50_2",
        tv_resnet("Bottleneck", width_per_group=128),
        (2, 3, 32, 32),
        STEM | {"bottleneck/projection": 2},
    ),
    Case("tv_vgg", lambda: tv_vgg(False), (2, 3, 32, 32), {"conv_bn_act/": 8}),
    Case("tv_vgg_bn", lambda: tv_vgg(True), (2, 3, 32, 32), {"conv_bn_act/": 3, "conv_bn_act_maxpool/": 5}),
    Case("tv_alexnet", tv_alexnet, (2, 3, 64, 64), {"conv_bn_act/": 5}),
    Case("tv_googlenet", lambda: tv_googlenet(False), (4, 3, 32, 32), {"conv_bn_act/": 57}),
    Case("tv_googlenet_aux", lambda: tv_googlenet(True), (4, 3, 32, 32), {"conv_bn_act/": 59}),
    Case(
        "tv_densenet",
        tv_densenet,
        (2, 3, 32, 32),
        STEM,
        {"features.denseblock1.denselayer1.conv1": "uses isinstance"},
    ),
    Case("tv_mobilenet", tv_mobilenet, (2, 3, 32, 32), {}, {"features.0.0": "followed by 2 (ReLU6)"}),
    Case("tv_detection", tv_detection, (2, 3, 32, 32), STEM | {"bottleneck/projection": 2}),
    Case("tv_regnet_se", tv_regnet, (2, 3, 32, 32), {"conv_bn_act/": 1}, {}),
    Case("timm_resnet18", timm_resnet("BasicBlock"), (2, 3, 64, 64), STEM | {"basic_block/projection": 4}),
    Case(
        "timm_resnet50d",
        timm_resnet("Bottleneck", stem_type="deep", avg_down=True),
        (2, 3, 64, 64),
        {"conv_bn_act/": 2, "bottleneck/projection": 1, "bottleneck/tensor": 3},
        {"conv1.6": "no activation behind it", "layer2.0.downsample.1": "no activation behind it"},
    ),
    Case(
        "timm_resnext",
        timm_resnet("Bottleneck", cardinality=8, base_width=8),
        (2, 3, 64, 64),
        STEM | {"bottleneck/identity": 1, "bottleneck/projection": 3},
    ),
    Case(
        "timm_seresnet",
        timm_resnet("BasicBlock", block_args={"attn_layer": "se"}),
        (2, 3, 64, 64),
        STEM,
        {"layer1.0.conv1": SE_BLOCK, "layer2.0.downsample.0": SE_BLOCK, "layer3.0.se.fc1": SE_BLOCK},
    ),
    Case(
        "timm_legacy_se",
        timm_legacy_se,
        (2, 3, 64, 64),
        {"conv_bn_act/": 1},
        {
            "layer1.0.conv1": "se_module (SEModule) before the addition",
            "layer1.0.se_module.fc1": "se_module (SEModule)",
        },
    ),
    Case(
        "timm_blur",
        timm_resnet("BasicBlock", aa=True),
        (2, 3, 64, 64),
        {"conv_bn_act/": 1, "basic_block/projection": 1},
        {"layer2.0.conv1": "aa (BlurPool2d) inside the block", "layer2.0.downsample.0": "aa (BlurPool2d)"},
    ),
    Case(
        "timm_drop_path",
        timm_resnet("BasicBlock", drop_path_rate=0.5),
        (2, 3, 64, 64),
        STEM | {"basic_block/projection": 1},
        {"layer2.0.conv1": "drop_path (DropPath) before the addition"},
    ),
]
