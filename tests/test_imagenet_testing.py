"""The tests of a trained network in examples/train_imagenet.py, against loops written out by hand."""

from __future__ import annotations

import csv
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fused_resnet
from fused_resnet.study.recipes import IMAGENET
from tests.support import perturb
from tests.test_train_imagenet import (  # noqa: F401 (fixtures)
    ALONE,
    NET,
    VAL,
    _as_before,
    alone,
    digits,
    gloo,
    log,
    on_two,
    some_options,
    state,
)
from tests.tolerances import assert_close

# isort: split
from imagenet import model, results, testing, transforms
from PIL import Image
from rich.console import Console
from torch.nn.functional import softmax

SILENT = Console(quiet=True)
COLOURS = ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))  # mean and deviation


def trained(arch: str = "cifar_resnet20", classes: int = 10) -> nn.Module:
    """A stock network in fp64 whose batch norms matter."""
    net = model.build(some_options("", arch=arch, batch=1), classes)
    return perturb(net.double()).eval()


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Coarse noise, which resizing does not level."""
    values = random.Random(seed).randbytes(3 * 6 * 6)
    return Image.frombytes("RGB", (6, 6), values).resize((width, height), Image.Resampling.BICUBIC)


def pixels(image: Image.Image, width: int, height: int) -> Tensor:
    """Resized and normalised, fp64 ``[3, height, width]``."""
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    rows = torch.tensor(list(resized.tobytes()), dtype=torch.float64).view(height, width, 3)
    return torch.stack([(rows[..., i] / 255 - mean) / dev for i, (mean, dev) in enumerate(COLOURS)])


def way(test: str, net: nn.Module, **options: Any) -> testing.Way:
    given = {"arch": "cifar_resnet20", "dtype": "fp64", "batch": 4}
    with torch.no_grad():
        return testing.WAYS[test](net, some_options("", **given | options), ALONE)


def scores(way: testing.Way, views: Any) -> Tensor:
    with torch.no_grad():
        return way.scores(views)


# ---- tests of a trained network ------------------------------------------------------------------


def test_ten_crops_by_hand():
    """40x52 becomes 36x46 at size 32: corners, middle, and mirror images of the crops."""
    net, images = trained(), [picture(52, 40, seed) for seed in range(2)]
    ten = way("ten-crop", net)
    got = scores(ten, torch.stack([ten.transform(image) for image in images]))
    want = []
    for image in images:
        x, found = pixels(image, 46, 36), torch.zeros(10, dtype=torch.float64)
        for top, left in ((0, 0), (0, 14), (4, 0), (4, 14), (2, 7)):
            crop = x[:, top : top + 32, left : left + 32]
            for view in (crop, crop.flip(-1)):
                found += softmax(net(view[None])[0], 0).detach() / 10
        want.append(found)
    assert_close(got, torch.stack(want), dtype=torch.float32)  # pixels are loaded in fp32
    assert got.shape == (2, 10)
    assert (way("ten-crop", net, batch=256).images, ten.images) == (25, 1)


def test_centre_by_hand():
    net, image = trained(), picture(52, 40)
    centre = way("centre", net)
    want = net(pixels(image, 46, 36)[None, :, 2:34, 7:39])
    assert_close(scores(centre, centre.transform(image)[None]), want, dtype=torch.float32)
    assert centre.images == 4


@pytest.mark.parametrize("test", testing.WAYS)
@pytest.mark.parametrize("channels_last", [True, False])
def test_networks_run_as_in_validation(test, channels_last):
    """In autocast from the first to the last layer, with images in the network's dtype and layout."""
    net = trained().float()
    tested = way(test, net, dtype="fp32", amp="bf16", channels_last=channels_last)
    seen = []

    def look(module, inputs):
        autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
        layout = inputs[0].is_contiguous(memory_format=torch.channels_last)
        seen.append(
            (module, autocast, inputs[0].dtype, layout) if module is net.conv1 else (module, autocast)
        )

    for layer in (net.conv1, net.fc):
        layer.register_forward_pre_hook(look)
    views = tested.transform(picture(52, 40))
    found = scores(tested, views if test == "multi-scale" else torch.stack((views, views)))
    assert found.dtype == torch.float64
    assert set(seen) == {
        (net.conv1, torch.bfloat16, torch.float32, channels_last),
        (net.fc, torch.bfloat16),
    }


def test_multi_scale_at_the_size_of_training(monkeypatch):
    """One window fits: the network itself, and its mirror image."""
    monkeypatch.setattr(transforms, "IMAGENET", replace(IMAGENET, test_scales=(IMAGENET.crop,)))
    net, image = trained(), picture(48, 48)
    scales = way("multi-scale", net)
    views = scales.transform(image)
    x = pixels(image, 32, 32)[None]
    assert [tuple(view.shape) for view in views] == [(3, 32, 32)]
    want = (softmax(net(x), 1) + softmax(net(x.flip(-1)), 1)) / 2
    assert_close(scores(scales, views), want, dtype=torch.float32)


def by_windows(net: nn.Module, x: Tensor, window: int) -> Tensor:
    """The mean of ``fc(mean of the features under the window)`` over all its places, image by image."""
    *body, _, fc = net.children()
    maps = nn.Sequential(*body)(x)
    rows, columns = (side - window + 1 for side in maps.shape[-2:])
    assert rows * columns > 1, "a window that has one place is no test"
    found = torch.zeros(len(x), fc.out_features, dtype=x.dtype)
    for row in range(rows):
        for column in range(columns):
            under = maps[:, :, row : row + window, column : column + window]
            found += fc(under.mean((2, 3))) / (rows * columns)
    return found


@pytest.mark.parametrize(
    "arch, size, window", [("cifar_resnet20", 32, 8), ("resnet18", 64, 2), ("plain18", 64, 2)]
)
def test_fully_convolutional_by_hand(arch, size, window):
    net = trained(arch)
    options = some_options("", arch=arch, size=size, dtype="fp64", batch=4)
    x = torch.randn(2, 3, size + size // 2, 2 * size, dtype=torch.float64, generator=torch.manual_seed(0))
    with torch.no_grad():
        before = net(x)
        whole = testing.FullyConvolutional(net, options, ALONE)
        assert_close(whole(x), by_windows(net, x, window))
        assert torch.equal(net(x), before), "the network is as it was"
    assert whole.window == (window, window)
    assert not net.avgpool._forward_pre_hooks


def test_multi_scale_by_hand():
    """A 40x52 image at the five scales, which for a size of 32 are 32, 36, 54, 68 and 91 pixels."""
    net, image = trained(), picture(52, 40)
    scales = way("multi-scale", net)
    got = scores(scales, scales.transform(image))
    want = torch.zeros(1, 10, dtype=torch.float64)
    with torch.no_grad():
        for side in (32, 36, 54, 68, 91):
            x = pixels(image, side * 52 // 40, side)[None]
            for view in (x, x.flip(-1)):
                want += softmax(by_windows(net, view, 8), 1) / 10
    assert_close(got, want, dtype=torch.float32)


@pytest.mark.parametrize("test", testing.WAYS)
@pytest.mark.parametrize("arch, size", [("cifar_resnet20", 32), ("resnet18", 64)])
def test_fused_is_stock(test, arch, size):
    stock = trained(arch)
    fused = fused_resnet.fuse(trained(arch)).to(memory_format=torch.channels_last)
    assert fused_resnet.explain(fused).fused
    found = []
    for net in (fused, stock):
        tested = way(test, net, arch=arch, size=size)
        views = tested.transform(picture(90, 70))
        found.append(scores(tested, views if test == "multi-scale" else views[None]))
    assert_close(*found)


def test_hits():
    """Six classes, four images: first, second, fifth and sixth guess are right."""
    ranked = torch.tensor([6.0, 5.0, 4.0, 3.0, 2.0, 1.0]).repeat(4, 1)
    sums = results.hits(ranked, torch.tensor([0, 1, 4, 5]))
    assert sums.tolist() == [1, 3, 4] and sums.dtype == torch.float64
    want = {"top1": 25, "top5": 75, "error_top1": 75, "error_top5": 25}
    assert results.rates(sums, "") == want
    assert results.tally(ranked, torch.tensor([0, 1, 4, 5])).tolist()[1:] == [1, 3, 4]
    assert results.hits(ranked[:, :3], torch.tensor([0, 1, 2, 0])).tolist() == [2, 4, 4]


def test_a_network_without_pooling_is_refused(digits, tmp_path, monkeypatch):  # noqa: F811
    """Before a step is made."""

    def build(options, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, classes))

    monkeypatch.setattr(model, "build", build)
    common = (digits, *NET, "--stock", "--batch", 16, "--epochs", 1, "--output", tmp_path / "out")
    out = alone(*common, *every("multi-scale"), status=2)
    assert "--test multi-scale: the network must end in avgpool (nn.AdaptiveAvgPool2d) and fc" in out
    assert not list((tmp_path / "out").iterdir())
    alone(*common, *every("ten-crop"))


# ---- the script ----------------------------------------------------------------------------------


def table(output: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((output / "tests.csv").open()))


def every(*tests: str) -> tuple[str, ...]:
    return tuple(word for test in tests for word in ("--test", test))


def test_script(digits, tmp_path):  # noqa: F811
    """Trains, tests in three ways in bf16, and tests again what is trained."""
    common = (digits, *NET, "--recipe", "paper", "--batch", 16, "--epochs", 2, "--amp", "bf16", "--ema", 0.5)
    common += ("--output", tmp_path)
    alone(*common, *every("centre"), "--stop-after", 7, status=75)
    assert not (tmp_path / "tests.csv").exists()
    out = alone(*common, "--resume", *every("centre", "ten-crop", "multi-scale", "centre"))
    rows, last = table(tmp_path), log(tmp_path)[-1]
    assert [row["test"] for row in rows] == ["centre", "ten-crop", "multi-scale"]
    for row in rows:
        assert int(row["images"]) == VAL and f"test {row['test']}: images {VAL}, top1 " in out
        for prefix in ("", "ema_"):
            for top in ("top1", "top5"):
                hit, error = float(row[prefix + top]), float(row[f"{prefix}error_{top}"])
                assert 0 <= hit <= 100 and hit + error == pytest.approx(100)
    for name in ("top1", "top5"):
        assert rows[0][name] == last[f"val_{name}"] and rows[0][f"ema_{name}"] == last[f"ema_{name}"]
    before = (tmp_path / "checkpoint.pt").read_bytes()
    alone(*common, "--resume")
    assert table(tmp_path) == rows, "a resume of what is trained does nothing without --test"
    alone(*common, "--resume", *every("ten-crop"))
    assert table(tmp_path) == [rows[1]]
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


@gloo
def test_two_processes_test_as_one(digits, tmp_path):  # noqa: F811
    tests = ("centre", "ten-crop", "multi-scale")
    common = (*NET, "--dtype", "fp64", "--batch", 8, "--epochs", 1, "--size", 16)
    on_two(digits, *common, *every(*tests), "--output", tmp_path / "two")
    options = some_options(
        digits, arch="cifar_resnet20", dtype="fp64", batch=8, size=16, test=tests, output=tmp_path
    )
    one = model.prepare(options, ALONE, 10)
    one.net.load_state_dict(state(tmp_path / "two")["model"])
    testing.run(one, options, ALONE, SILENT)
    assert table(tmp_path) == table(tmp_path / "two")
    assert all(int(row["images"]) == VAL for row in table(tmp_path))
