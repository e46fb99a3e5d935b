"""Trains a network on real images stock and fused side by side, then runs ResNet-50 both ways."""

from __future__ import annotations

import copy
import importlib.util
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.figure
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import fused_resnet
from fused_resnet.analysis import Timing, conditions, interleaved, saved_activation_bytes
from fused_resnet.analysis.digits import Digits, load
from fused_resnet.analysis.printing import Printer
from fused_resnet.analysis.progress import Ticker

SEED = 0
LEARNING_RATE = 0.1
FIRST_STEPS = 20  # rounding grows with every step: the curves are compared before it has
STOCK, FUSED = PAIR = "stock", "fused"
YARDSTICK = "stock, NCHW"  # the same network in the other layout: what rounding alone does to the curve


@dataclass
class Run:
    """One of the two trainings."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)


def channels_last(value: Any) -> Any:
    return value.to(memory_format=torch.channels_last)


def against(labels: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda output: F.cross_entropy(output, labels)


def learning_rate(step: int, steps: int) -> float:
    """Share of the full rate: linear warm-up over a tenth of the steps, then half a cosine."""
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def make_run(model: nn.Module, steps: int) -> Run:
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps))
    return Run(model, optimizer, schedule)


def train_step(run: Run, images: Tensor, labels: Tensor) -> None:
    start = time.perf_counter()
    run.optimizer.zero_grad()
    loss = F.cross_entropy(run.model(images), labels)
    loss.backward()
    run.optimizer.step()
    run.seconds.append(time.perf_counter() - start)
    run.schedule.step()
    run.losses.append(loss.item())


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    guesses = torch.cat([model(part).argmax(1) for part in images.split(128)])
    model.train()
    return (guesses == labels).float().mean().item()


def batches(labels: Tensor, size: int, epochs: int, limit: int | None) -> list[tuple[Tensor, bool]]:
    """(indices, last of its epoch?) of whole batches in a fixed order, at most `limit` an epoch."""
    generator = torch.Generator().manual_seed(SEED)
    found = []
    for _ in range(epochs):
        order = torch.randperm(len(labels), generator=generator).split(size)[: len(labels) // size][:limit]
        found += [(chosen, index == len(order) - 1) for index, chosen in enumerate(order)]
    return found


def train(console: Console, digits: Digits, epochs: int, batch: int, limit: int | None) -> dict[str, Run]:
    """Both trainings from the same weights on the same batches, in turn step by step; then the yardstick."""
    torch.manual_seed(SEED)
    stock = fused_resnet.models.create("cifar_resnet20", fused=False, shortcut="A")
    fused = fused_resnet.fuse(channels_last(copy.deepcopy(stock)))
    steps = batches(digits.train_labels, batch, epochs, limit)
    yardstick = make_run(copy.deepcopy(stock), len(steps))
    runs = {name: make_run(channels_last(m), len(steps)) for name, m in ((STOCK, stock), (FUSED, fused))}
    with Ticker(console, "training ResNet-20 twice", total=len(steps)) as ticker:
        for step, (chosen, epoch_ends) in enumerate(steps):
            for run in list(runs.values())[:: 1 if step % 2 else -1]:  # neither is always the first
                train_step(run, channels_last(digits.train_images[chosen]), digits.train_labels[chosen])
            if epoch_ends:
                for run in runs.values():
                    run.accuracies.append(accuracy(run.model, digits.test_images, digits.test_labels))
            ticker.advance(", ".join(f"{name} loss {run.losses[-1]:.4f}" for name, run in runs.items()))
    for chosen, _ in steps[:FIRST_STEPS]:
        images = digits.train_images[chosen].contiguous(memory_format=torch.contiguous_format)
        train_step(yardstick, images, digits.train_labels[chosen])
    return {**runs, YARDSTICK: yardstick}


def timing(taken: Timing) -> dict[str, float]:
    first, third = taken.quartiles
    return {"median_s": taken.median, "first_quartile_s": first, "third_quartile_s": third}


def milliseconds(taken: dict[str, float]) -> str:
    median, first, third = (value * 1e3 for value in taken.values())
    return f"{median:.1f} ({first:.1f}–{third:.1f})"


def mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f}"


def largest_gap(losses: list[float], others: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(losses, others, strict=True))


def training_result(runs: dict[str, Run], images: Tensor, labels: Tensor) -> dict[str, Any]:
    """What the table shows; times in seconds, without the first step, which makes what is made once."""
    stock, fused = runs[STOCK], runs[FUSED]
    first = len(runs[YARDSTICK].losses)
    gap, noise = (largest_gap(stock.losses[:first], runs[name].losses[:first]) for name in (FUSED, YARDSTICK))
    return {
        "batch": len(labels),
        "losses": {STOCK: stock.losses, FUSED: fused.losses},
        "compared steps": first,
        "largest gap of the losses": {FUSED: gap, YARDSTICK: noise},
        "test accuracy": {STOCK: stock.accuracies[-1], FUSED: fused.accuracies[-1]},
        "step": {name: timing(Timing(tuple(runs[name].seconds[1:] or runs[name].seconds))) for name in PAIR},
        "kept bytes": {
            name: saved_activation_bytes(runs[name].model, images, against(labels)) for name in PAIR
        },
    }


def training_table(result: dict[str, Any]) -> Table:
    losses, times, kept = result["losses"], result["step"], result["kept bytes"]
    gap, first = result["largest gap of the losses"], result["compared steps"]
    speed, memory = (
        values[FUSED] / values[STOCK] for values in ({n: t["median_s"] for n, t in times.items()}, kept)
    )
    steps = len(losses[STOCK])
    title = f"CIFAR ResNet-20 on handwritten digits, {steps} steps of batch {result['batch']}"
    table = Table("", STOCK, FUSED, "", title=title)
    table.add_row("loss, last step", *(f"{losses[name][-1]:.6f}" for name in PAIR), "")
    table.add_row(
        f"largest gap to stock's losses, first {first} steps",
        "",
        f"{gap[FUSED]:.1e}",
        f"{gap[YARDSTICK]:.1e} {YARDSTICK}",
    )
    table.add_row("test accuracy", *(f"{result['test accuracy'][name]:.2%}" for name in PAIR), "")
    table.add_row(
        "ms per step: median (quartiles)",
        *(milliseconds(times[name]) for name in PAIR),
        f"{speed:.2f}x the time",
    )
    table.add_row(
        "MiB kept for backward", *(mebibytes(kept[name]) for name in PAIR), f"{memory:.2f}x the memory"
    )
    return table


def plot(runs: dict[str, Run], path: Path) -> None:
    figure = matplotlib.figure.Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    wide, thin = {"linewidth": 4, "alpha": 0.4}, {"linewidth": 1.2, "color": "black", "linestyle": "--"}
    for name, style in ((STOCK, wide), (FUSED, thin)):
        run = runs[name]
        left.plot(range(1, len(run.losses) + 1), run.losses, label=name, **style)
        right.plot(range(1, len(run.accuracies) + 1), run.accuracies, label=name, marker="o", **style)
    left.set(title="Training loss", xlabel="step", ylabel="cross-entropy (nats)", yscale="log")
    right.set(title="Test accuracy", xlabel="epoch", ylabel="share of 360 digits")
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.suptitle("CIFAR ResNet-20 on scikit-learn's handwritten digits, stock and fused")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def stock_resnet50() -> tuple[str, nn.Module]:
    torch.manual_seed(SEED)
    if importlib.util.find_spec("torchvision") is not None:
        import torchvision

        return "torchvision's ResNet-50", torchvision.models.resnet50()
    model = fused_resnet.models.create("resnet50", fused=False)
    return "this package's ResNet-50 (torchvision is not installed)", model


def one_step(model: nn.Module, images: Tensor, labels: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


def predict(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(images)


def relative_gap(value: Tensor, expected: Tensor) -> float:
    return ((value - expected).abs().max() / expected.abs().max()).item()


def resnet50_result(console: Console, batch: int, size: int, rounds: int) -> dict[str, Any]:
    """Inference and one training step of ResNet-50: stock, and fused with each memory mode."""
    title, stock = stock_resnet50()
    models = {STOCK: channels_last(stock)}
    for memory in ("balanced", "min"):
        models[f'fused, memory="{memory}"'] = fused_resnet.fuse(copy.deepcopy(models[STOCK]), memory=memory)
    images, labels = channels_last(torch.randn(batch, 3, size, size)), torch.randint(1000, (batch,))

    with torch.no_grad():  # before anything is timed: training steps move the weights
        first = {name: model.train()(images) for name, model in models.items()}
    for model in models.values():  # the same running statistics to the last bit
        model.load_state_dict(models[STOCK].state_dict())
    kept = {name: saved_activation_bytes(model, images, against(labels)) for name, model in models.items()}
    outputs = {name: predict(model.eval(), images) for name, model in models.items()}

    with Ticker(console, "timing ResNet-50", total=2 * len(models) * (rounds + 1)) as ticker:
        # memory modes differ in training alone
        runs = {name: (lambda m=model: predict(m, images)) for name, model in models.items()}
        inference = interleaved(runs, rounds, after_run=ticker.advance)
        steps = {name: one_step(model.train(), images, labels) for name, model in models.items()}
        training = interleaved(steps, rounds, after_run=ticker.advance)
    return {
        "network": title,
        "batch": batch,
        "image size": size,
        "rounds": rounds,
        "variants": {
            name: {
                "inference": timing(inference[name]),
                "training step": timing(training[name]),
                "kept bytes": kept[name],
                "gap in eval": relative_gap(outputs[name], outputs[STOCK]),
                "gap in training": relative_gap(first[name], first[STOCK]),
            }
            for name in models
        },
    }


def resnet50_table(result: dict[str, Any]) -> Table:
    batch, size, variants = result["batch"], result["image size"], result["variants"]
    table = Table("", "inference: ms", "x stock", "training step: ms", "x stock", "MiB kept", "x stock")
    for column in ("gap, eval", "gap, train"):
        table.add_column(column)
    described = f"batch {batch} at {size}², fp32, channels_last: median (quartiles) of {result['rounds']}"
    table.title = f"{result['network']}, {described}"
    for name, found in variants.items():
        cells: list[str] = []
        for work in ("inference", "training step"):
            share = found[work]["median_s"] / variants[STOCK][work]["median_s"]
            cells += milliseconds(found[work]), f"{share:.2f}"
        share = found["kept bytes"] / variants[STOCK]["kept bytes"]
        cells += mebibytes(found["kept bytes"]), f"{share:.2f}"
        table.add_row(name, *cells, f"{found['gap in eval']:.0e}", f"{found['gap in training']:.0e}")
    return table


def show(printer: Printer, epochs: int, quick: bool, output: Path) -> dict[str, Any]:
    """Stock and fused, side by side: the same curves; times and memory as they are, losses included.

    Returns what was measured: times in seconds, memory in bytes.
    """
    found = conditions()
    printer.lines(found)
    size, batch, limit, resnet50 = (16, 32, 4, (2, 64, 1)) if quick else (32, 128, None, (8, 224, 5))
    digits = load(size)
    runs = train(printer.console, digits, 1 if quick else epochs, batch, limit)
    training = training_result(runs, channels_last(digits.train_images[:batch]), digits.train_labels[:batch])
    printer.console.print(training_table(training))
    large = resnet50_result(printer.console, *resnet50)
    printer.console.print(resnet50_table(large))
    printer.line("gap: largest difference of an output from stock's, as a share of stock's largest output")
    path = output / "demo_curves.png"
    plot(runs, path)
    printer.line(f"curves: {path}")
    return {"conditions": found, "ResNet-20": training, "ResNet-50": large, "curves": str(path)}
