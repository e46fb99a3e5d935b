"""The paper's recipe in examples/train_imagenet.py: what crops show, when the rate falls, resumes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from tests.test_train_imagenet import (  # noqa: F401 (fixtures)
    NET,
    VAL,
    _as_before,
    alone,
    assert_same_bits,
    digits,
    log,
    some_options,
    state,
)

# isort: split
from imagenet import engine, model, transforms
from imagenet.schedule import schedule
from PIL import Image

# Published with fb.resnet.torch: of red, green and blue between 0 and 1.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
COLOURS = ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))  # mean and deviation


# ---- images --------------------------------------------------------------------------------------


def test_first_component_is_brightness():
    """Which a transposed matrix would not have."""
    first = torch.tensor(transforms.VECTORS)[:, 0]
    assert first.max() < 0 and first.std() < 0.01
    assert transforms.VALUES[0] == max(transforms.VALUES)


def test_principal_colours():
    generator = torch.manual_seed(3)
    a = torch.randn(3, generator=generator).tolist()
    torch.manual_seed(3)
    got = transforms.PrincipalColours()(torch.full((3, 2, 2), 0.5))
    for channel, vector in zip(got, EIGENVECTORS, strict=True):
        added = sum(v * 0.1 * n * value for v, n, value in zip(vector, a, EIGENVALUES, strict=True))
        assert channel.flatten().tolist() == pytest.approx([0.5 + added] * 4, abs=1e-7)


def test_shorter_side():
    draw, seen = transforms.ShorterSide(36, 68), set()
    torch.manual_seed(0)
    for _ in range(400):
        width, height = draw(Image.new("RGB", (60, 40))).size
        assert width == math.floor(height * 60 / 40)
        seen.add(height)
    assert seen == set(range(36, 69))


def test_augmentation_of_the_paper():
    """What crops of a ramp show: how large the image was made, whether it was flipped, and what was added."""
    ramp = Image.frombytes(
        "RGB", (64, 64), bytes(2 * column for _ in range(64) for column in range(64) for _ in "RGB")
    )
    augment = transforms.augmentation(some_options("", recipe="paper", batch=1))
    sides, draws = [], []
    torch.manual_seed(0)
    for _ in range(300):
        out = augment(ramp)
        assert out.shape == (3, 32, 32)
        plain = torch.stack([c * dev + mean for c, (mean, dev) in zip(out, COLOURS, strict=True)])
        steps = (plain[:, :, 24] - plain[:, :, 8]).mean() / 16 * 255  # 2 * 64 / side, or less than 0
        sides.append(128 / steps.item())
        difference = plain.mean((1, 2)) - plain.mean()
        draws.append(torch.tensor(EIGENVECTORS).T @ difference / torch.tensor(EIGENVALUES))
    assert 35 < min(map(abs, sides)) < 38 and 66 < max(map(abs, sides)) < 70
    assert 120 < sum(side < 0 for side in sides) < 180
    assert torch.stack(draws)[:, 1:].std(0).tolist() == pytest.approx([0.1, 0.1], rel=0.15)


def test_batch_of_the_recipe():
    def batch(processes: int, **given: Any) -> int:
        return some_options("", processes=processes, **given).batch

    assert [batch(n, recipe="paper") for n in (1, 8)] == [256, 32]
    assert batch(3, recipe="paper", batch=10) == 10 and batch(8) == 32
    assert some_options("").milestones == (30, 60)
    assert some_options("", recipe="paper").milestones == ()


@pytest.mark.parametrize("arch", ["resnet18", "plain18"])
def test_he_initialisation(arch):
    """Of torchvision's networks and of `fused_resnet.models`."""
    net = model.build(some_options("", arch=arch), 10)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    for m in convolutions:
        deviation = math.sqrt(2 / (m.out_channels * m.kernel_size[0] * m.kernel_size[1]))
        assert m.weight.std().item() == pytest.approx(deviation, rel=0.05)
    assert len(convolutions) >= 17


# ---- plateaus ------------------------------------------------------------------------------------


def test_plateau():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    falling = schedule(some_options("", recipe="paper"), optimizer)

    def rates(*errors: float) -> list[float]:
        found = []
        for error in errors:
            falling.step(error)
            found.append(round(falling.get_last_lr()[0], 9))
        return found

    assert rates(50, *[50] * 5) == [0.1] * 6  # the first is the best so far, and then patience
    assert rates(50, *[50] * 5, 50) == [0.01] * 6 + [0.001]
    assert rates(*[50] * 5, 49.999, *[50] * 5) == [0.001] * 11
    assert rates(49.999) == [0.0001]


def test_resume_within_a_plateau(digits, tmp_path, monkeypatch):  # noqa: F811
    """The error falls once, in the second of nine epochs, against nine that were interrupted in the fifth.

    Loss and top-5 get better all the time: no plateau.
    """

    def evaluate(self, net):
        sums = [70 - self.epoch, 3 + min(self.epoch, 1), 15 + self.epoch, VAL]
        return torch.tensor(sums, dtype=torch.float64)

    monkeypatch.setattr(engine.Training, "evaluate", evaluate)
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    common = (digits, *NET, "--size", 16, "--recipe", "paper", "--batch", 40, "--epochs", 9, "--ema", 0.9)
    alone(*common, "--output", straight)
    alone(*common, "--output", parts, "--stop-after", 9, status=75)
    assert state(parts)["schedule"]["num_bad_epochs"] == 2
    alone(*common, "--output", parts, "--resume")
    assert_same_bits(parts, straight)
    assert [row["lr"] for row in log(parts)] == ["0.01"] * 8 + ["0.001"]
