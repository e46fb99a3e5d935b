"""The experiments that train: recipes, resumes, tables, drawings, commands."""

from __future__ import annotations

import copy
import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from typer.testing import CliRunner

from fused_resnet import unfuse
from fused_resnet.models import BasicBlock, CifarResNet
from tests.tolerances import assert_close, tolerance

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

import pandas

from fused_resnet.study import app as commands
from fused_resnet.study import curves, data, experiments, responses, tables
from fused_resnet.study.networks import NETWORKS
from fused_resnet.study.recipes import CIFAR, CIFAR_110, IMAGENET, WarmUp
from fused_resnet.study.training import Run, Training
from tests.study_support import SHORT, some_images


@pytest.fixture(scope="module")
def images():
    return some_images()


def train(run: Run, images: data.Images, folder: Path) -> Training:
    training = Training(run, images, folder)
    for _ in training.epochs():
        pass
    return training


# ---- recipes -------------------------------------------------------------------------------------


def test_recipes_are_the_papers():
    assert (CIFAR.batch, CIFAR.lr, CIFAR.momentum, CIFAR.weight_decay) == (128, 0.1, 0.9, 1e-4)
    assert (CIFAR.steps, CIFAR.milestones, CIFAR.padding, CIFAR.flips) == (64_000, (32_000, 48_000), 4, True)
    assert CIFAR.warm_up is None and CIFAR_110.warm_up == WarmUp(0.01, 0.8)
    assert (IMAGENET.batch, IMAGENET.lr, IMAGENET.epochs, IMAGENET.plateau_factor) == (256, 0.1, 90, 0.1)
    assert IMAGENET.test_scales == (224, 256, 384, 480, 640) and IMAGENET.shorter_side == (256, 480)


@pytest.mark.parametrize("name", ("cifar10", "digits"))
def test_only_the_deepest_are_warmed_up(name, images):
    of_data = replace(images, name=name)
    for network in NETWORKS:
        recipe = experiments.recipe_of(network, of_data)
        assert recipe.name.startswith(name.removesuffix("10"))
        assert (recipe.warm_up is not None) == ("-110" in network)


def test_networks_start_as_he_says():
    """Variances of 2 / fan-out, biases 0, scales 1."""
    for name, build in NETWORKS.items():
        if "110" in name or "28-10" in name:
            continue
        for module in build().modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
                fan_out = module.weight[:, 0].numel()  # of groups' together, as PyTorch counts it
                assert module.weight.var().item() == pytest.approx(2 / fan_out, rel=0.15), name
            elif isinstance(module, nn.BatchNorm2d):
                assert (module.weight == 1).all() and (module.bias == 0).all(), name


def test_relatives_cost_the_same():
    alone = [experiments.counts(name, 32) for name in experiments.CARDINALITY["cardinality (ResNeXt)"]]
    for key in ("parameters", "multiply_adds"):
        values = [counted[key] for counted in alone]
        assert max(values) / min(values) < 1.02


def test_rate_is_that_of_torchs_schedule(images, tmp_path):
    training = Training(Run("resnet-8", SHORT, 0), images, tmp_path)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=SHORT.lr)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, list(SHORT.milestones), 0.1)
    for step in range(SHORT.steps):
        training.step = step
        assert training.lr == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(("until", "rates"), ((1.1, [0.01, 0.1]), (0.0, [0.01, 0.01])))
def test_warm_up_ends_with_the_error(until, rates, images, tmp_path):
    recipe = replace(SHORT, steps=8, milestones=(100,), warm_up=WarmUp(0.01, until))
    run = Run("resnet-8", recipe, 0)
    Training(run, images, tmp_path).epoch()
    history = train(run, images, tmp_path).history  # goes on with what the checkpoint says
    assert [row["lr"] for row in history] == rates


def test_warm_up_never_raises_the_rate(images, tmp_path):
    recipe = replace(SHORT, warm_up=WarmUp(0.01, 0.0))
    training = Training(Run("resnet-8", recipe, 0), images, tmp_path)
    training.step = SHORT.steps - 1
    assert training.lr == pytest.approx(0.001)


def test_shortened():
    short = CIFAR.shortened(640)
    assert (short.steps, short.milestones) == (640, (320, 480))
    with pytest.raises(ValueError, match="steps: expected at least 1, got 0"):
        CIFAR.shortened(0)


# ---- training ------------------------------------------------------------------------------------


def same(a, b) -> bool:
    state, other = a.model.state_dict(), b.model.state_dict()
    return a.history == b.history and all(torch.equal(state[key], other[key]) for key in other)


@pytest.mark.parametrize("network", ("resnet-8", "wrn-16-2-dropout"))
def test_a_resume_is_the_same_bit_for_bit(network, images, tmp_path, monkeypatch):
    """Broken off between two steps of the second epoch, with whatever random numbers were drawn since."""
    run = Run(network, SHORT, 3)
    whole = train(run, images, tmp_path / "whole")
    assert [row["step"] for row in whole.history] == [4, 8, 9]
    broken = Training(run, images, tmp_path / "broken")
    broken.epoch()
    steps, step = [], broken._train_step

    def breaks(*args):
        if steps:
            raise KeyboardInterrupt
        steps.append(args)
        return step(*args)

    monkeypatch.setattr(broken, "_train_step", breaks)
    with pytest.raises(KeyboardInterrupt):
        broken.epoch()
    torch.randn(7)
    resumed = Training(run, images, tmp_path / "broken")
    assert resumed.step == 4
    assert same(train(run, images, tmp_path / "broken"), whole)


def test_every_epoch_has_an_order_of_its_own(images, tmp_path, monkeypatch):
    training = Training(Run("resnet-8", SHORT, 0), images, tmp_path)
    seen, step = [], training._train_step
    monkeypatch.setattr(training, "_train_step", lambda x, labels: (seen.append(labels), step(x, labels))[1])
    training.epoch()
    training.epoch()
    first, second = torch.cat(seen[:4]), torch.cat(seen[4:])
    assert not torch.equal(first, second) and torch.equal(first.sort().values, second.sort().values)


def test_seeds_differ(images, tmp_path):
    histories = [train(Run("resnet-8", SHORT, seed), images, tmp_path).history for seed in (0, 1)]
    assert histories[0] != histories[1]


def test_fused_and_stock_train_alike(images, tmp_path):
    runs = [Run("resnet-8", SHORT, 0, fused) for fused in (True, False)]
    fused, stock = (Training(run, images, tmp_path).epoch()["train_loss"] for run in runs)
    assert fused == pytest.approx(stock, rel=tolerance("training curve", torch.float32).relative)


def test_rows_tell_what_happened(images, tmp_path, monkeypatch):
    """Errors and losses by another way: what the network answered, and stock modules in the end."""
    training = Training(Run("plain-8", SHORT, 0), images, tmp_path)
    answers, step = [], training._train_step

    def listens(batch, labels):
        hook = training.model.register_forward_hook(lambda m, i, out: answers.append((out.detach(), labels)))
        sums = step(batch, labels)
        hook.remove()
        return sums

    monkeypatch.setattr(training, "_train_step", listens)
    row = training.epoch()
    assert len(answers) == 4 == row["step"] and row["epoch"] == 1
    wrong = sum((logits.argmax(1) != labels).sum().item() for logits, labels in answers)
    assert row["train_error"] == wrong / 64
    losses = [F.cross_entropy(*pair).item() for pair in answers]
    assert row["train_loss"] == pytest.approx(np.mean(losses))
    stock = unfuse(copy.deepcopy(training.model)).eval()
    with torch.no_grad():
        logits = stock(images.test)
    assert row["test_error"] == pytest.approx((logits.argmax(1) != images.test_labels).double().mean().item())
    relative = tolerance("parity", torch.float32).relative
    assert row["test_loss"] == pytest.approx(F.cross_entropy(logits, images.test_labels).item(), rel=relative)


def test_another_training_is_refused(images, tmp_path):
    train(Run("resnet-8", SHORT, 0), images, tmp_path)
    (path,) = tmp_path.glob("*.pt")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"output: .*lr was 0.1, is 0.2"):
        Training(Run("resnet-8", replace(SHORT, lr=0.2), 0), images, tmp_path)
    with pytest.raises(ValueError, match="images was"):
        Training(Run("resnet-8", SHORT, 0), some_images(80), tmp_path)
    assert path.read_bytes() == before


def test_a_loss_that_is_no_number(images, tmp_path):
    run = Run("resnet-8", SHORT, 0)
    training = Training(run, images, tmp_path)
    training.epoch()
    with torch.no_grad():
        training.model.fc.bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"resnet-8\.seed0, epoch 2: the loss is nan"):
        training.epoch()
    assert len(Training(run, images, tmp_path).history) == 1


# ---- tables and drawings -------------------------------------------------------------------------


def frame_of(errors: dict[tuple[str, int], list[tuple[float, float]]]):
    return pandas.DataFrame(
        {"network": network, "seed": seed, "epoch": epoch, "train_error": trained, "test_error": tested}
        for (network, seed), values in errors.items()
        for epoch, (trained, tested) in enumerate(values, start=1)
    )


ERRORS = {
    ("resnet-8", 0): [(0.5, 0.01), (0.1, 0.2)],
    ("resnet-8", 1): [(0.4, 0.02), (0.3, 0.4)],
    ("plain-8", 0): [(0.9, 0.8), (0.7, 0.6)],
}


def test_errors_are_of_the_last_epoch():
    found = tables.errors(frame_of(ERRORS), 16).set_index("network")
    assert list(found.index) == ["resnet-8", "plain-8"] and list(found["seeds"]) == [2, 1]
    row = found.loc["resnet-8"]
    assert (row["test_error_mean"], row["test_error_least"]) == pytest.approx((30.0, 20.0))
    assert row["test_error_deviation"] == pytest.approx(np.std([20, 40], ddof=1))
    assert row["parameters"] == sum(p.numel() for p in CifarResNet(8).parameters())
    assert tables.percent(row, "test_error") == "30.00 ± 14.14 (20.00 to 40.00)"
    assert tables.percent(found.loc["plain-8"], "test_error") == "60.00"


def test_curves_are_medians():
    figure = curves.draw(frame_of(ERRORS), {"residual": ("resnet-8",), "plain": ("plain-8",)}, "some")
    residual, plain = figure.axes
    lines = [line.get_ydata().tolist() for line in residual.get_lines()]
    assert lines == [pytest.approx([45.0, 20.0]), pytest.approx([1.5, 30.0])]
    assert [line.get_linestyle() for line in residual.get_lines()] == ["--", "-"]
    assert plain.get_title(loc="left") == "plain" and len(plain.get_lines()) == 2


def test_large_networks_are_counted():
    from fused_resnet.study.family import large_networks

    found = large_networks().set_index("network")
    assert found.loc["cifar_resnet1202", "parameters"] == 19_421_274  # "19.4M" in the paper
    assert found.loc["cifar_resnet1202", "parameters_per_image"] == pytest.approx(388.4, abs=0.1)
    assert found.loc["resnext50_32x4d", "parameters"] == 25_028_904  # torchvision's


# ---- responses -----------------------------------------------------------------------------------


def by_hand(model: nn.Module, x: torch.Tensor) -> list[float]:
    """Of the batch norms behind 3x3 convolutions, layer by layer."""
    found = []

    def norm(bn, y):
        y = F.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
        found.append(y.double().std(correction=0).item())
        return y

    with torch.no_grad():
        x = F.relu(norm(model.bn1, model.conv1(x)))
        for stage in (model.layer1, model.layer2, model.layer3):
            for block in stage:
                assert isinstance(block, BasicBlock)
                y = F.relu(norm(block.bn1, block.conv1(x)))
                y = norm(block.bn2, block.conv2(y))
                x = F.relu(y + (x if block.downsample is None else block.downsample(x)))
    return found


def test_responses(images, tmp_path):
    training = train(Run("resnet-8-C", SHORT, 0), images, tmp_path)
    before = copy.deepcopy(training.model.train().state_dict())
    kinds = [type(module) for module in training.model.modules()]
    found = responses.deviations(training.model, images.test.split(7))
    assert list(found)[:3] == ["bn1", "layer1.0.bn1", "layer1.0.bn2"] and len(found) == 7
    stock = unfuse(copy.deepcopy(training.model)).eval()
    expected = torch.tensor(by_hand(stock, images.test))
    assert_close(torch.tensor(list(found.values())), expected, "parity", torch.float32)
    assert all(torch.equal(before[key], value) for key, value in training.model.state_dict().items())
    assert [type(module) for module in training.model.modules()] == kinds and training.model.training


def test_responses_are_drawn_in_order_and_sorted():
    rows = [
        {
            **{"network": "resnet-8", "seed": seed, "layer": layer},
            **{"deviation": deviation + seed, "first_gradient": 10 * deviation},
        }
        for seed in (0, 2)
        for layer, deviation in enumerate((3.0, 1.0, 2.0), start=1)
    ]
    drawn = [
        axes.get_lines()[0].get_ydata().tolist()
        for axes in responses.draw(pandas.DataFrame(rows), ("resnet-8",)).axes
    ]
    assert drawn == [[4.0, 2.0, 3.0], [4.0, 3.0, 2.0], [30.0, 10.0, 20.0]]


def test_first_gradients(images):
    """By autograd.grad, on a stock network; a projection's 1x1 convolution is none of them."""
    model = CifarResNet(8, shortcut="B")
    found = responses.first_gradients(model, images.train, images.train_labels)
    assert list(found)[:3] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"] and len(found) == 7
    assert all(p.grad is None for p in model.parameters()) and (model.bn1.running_mean == 0).all()
    weights = [module.weight for module in model.modules() if getattr(module, "kernel_size", None) == (3, 3)]
    loss = F.cross_entropy(model(images.train), images.train_labels)
    expected = [
        (g.norm() / w.norm()).item() for g, w in zip(torch.autograd.grad(loss, weights), weights, strict=True)
    ]
    assert list(found.values()) == pytest.approx(expected, rel=tolerance("parity", torch.float32).relative)


# ---- commands ------------------------------------------------------------------------------------


def call(*arguments: object):
    return CliRunner().invoke(commands.app, [str(a) for a in arguments], env={"COLUMNS": "300"})


@pytest.fixture
def few_digits(monkeypatch):
    """Networks of 8 layers in place of the deeper ones, on few images, which count as digits."""
    small = replace(some_images(), name="digits")
    monkeypatch.setattr(commands, "handwritten_digits", lambda: small)
    monkeypatch.setattr(experiments, "DIGITS", SHORT)
    for name in ("plain-20", "plain-56", "resnet-20", "resnet-56"):
        monkeypatch.setitem(NETWORKS, name, NETWORKS[f"{name.split('-')[0]}-8"])


def test_degradation(few_digits, tmp_path):
    done = call("degradation", "--output", tmp_path, "--seed", 0, "--seed", 1, "--epochs", 2, "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)["errors"]
    assert [row["network"] for row in summary] == ["plain-20", "plain-56", "resnet-20", "resnet-56"]
    folder = tmp_path / "digits"
    frame = pandas.read_csv(folder / "degradation.csv")
    assert len(frame) == 4 * 2 * 2 and set(frame["seed"]) == {0, 1}
    last = frame[(frame["network"] == "plain-56") & (frame["epoch"] == 2)]
    assert summary[1]["test_error_mean"] == pytest.approx(100 * last["test_error"].mean(), abs=1e-3)
    origin = json.loads((folder / "degradation.json").read_text())
    assert origin["settings"]["recipes"]["digits"]["steps"] == 8 and origin["conditions"]["torch"]
    assert "<svg" in (folder / "degradation.svg").read_text()


def test_what_is_done_is_not_done_again(few_digits, tmp_path, monkeypatch):
    arguments = ("--output", tmp_path, "--seed", 0, "--epochs", 1)
    assert call("degradation", *arguments).exit_code == 0
    before = (tmp_path / "digits" / "degradation.csv").read_text()
    monkeypatch.setattr(Training, "epoch", lambda self: pytest.fail("trained again"))
    assert call("degradation", *arguments).exit_code == 0
    assert (tmp_path / "digits" / "degradation.csv").read_text() == before
    done = call("responses", *arguments)
    assert done.exit_code == 0, done.output
    frame = pandas.read_csv(tmp_path / "digits" / "responses.csv")
    assert len(frame) == 4 * 7 and (frame["deviation"] > 0).all()


def test_a_training_that_fails(few_digits, tmp_path, monkeypatch):
    monkeypatch.setattr(Training, "_train_step", lambda self, *_: torch.full((3,), torch.nan))
    done = call("degradation", "--output", tmp_path, "--seed", 0)
    assert done.exit_code == 1 and "the loss is nan" in done.output
    assert isinstance(done.exception, SystemExit)  # and nothing else that went wrong
    assert not list(tmp_path.rglob("*.csv"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    (
        (("--memory", "much"), "memory: expected one of"),
        (("--device", "abacus"), "device: expected cpu, cuda or cuda:N"),
        (("--device", "meta"), "device: expected cpu, cuda or cuda:N"),
        (("--seed", 1, "--seed", 1), "seed: expected different ones"),
        (("--data", "nowhere"), "data: expected a folder with CIFAR-10"),
        (("--epochs", 0), "epochs"),
    ),
)
def test_wrong_options(arguments, message, tmp_path):
    if "--data" in arguments:
        pytest.importorskip("torchvision")
    done = call("degradation", "--output", tmp_path / "new", *arguments)
    assert done.exit_code == 2 and message in done.output
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ("cost", "bottleneck"))
def test_wrong_sizes(command, tmp_path):
    done = call(command, "--size", 16, "--output", tmp_path / "new")
    assert done.exit_code == 2 and "size" in done.output and not (tmp_path / "new").exists()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    for name in [name for name in sys.modules if name.startswith("fused_resnet.study.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SystemExit, match=r"pandas is not installed: pip install 'fused_resnet\[study\]'"):
        runpy.run_module("fused_resnet.study", run_name="__main__")
