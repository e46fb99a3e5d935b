"""Standard deviations of layer responses (He et al. 2015, figure 7), and the gradients at the start."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from fused_resnet import unfuse

from .curves import palette
from .data import Images, test_batches

__all__ = ["deviations", "draw", "first_gradients", "responses"]


@torch.no_grad()
def deviations(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, float]:
    """Of the output of every batch norm behind a 3x3 convolution: after BN, before ReLU or addition.

    Over all images, channels and pixels, in eval mode. Equivalent to ``output.double().std(correction=0)`` of
    the layer's output over all batches at once. The model stays as it is.

    Args: model: stock or fused. batches: images as it takes them.

    Returns:
        Name of the batch norm -> deviation, in the order in which the layers run.
    """
    twin = unfuse(copy.deepcopy(model)).eval()
    sums: dict[str, Tensor] = {}
    last: list[nn.Conv2d] = []

    def convolved(module: nn.Module, inputs: Any, output: Tensor) -> None:
        last[:] = [module]  # type: ignore[list-item]

    def normalised(name: str, output: Tensor) -> None:
        if last and last[0].kernel_size == (3, 3):
            values = output.double()
            count = torch.tensor(values.numel(), dtype=torch.float64, device=values.device)
            sums[name] = sums.get(name, 0) + torch.stack((count, values.sum(), values.square().sum()))
        last.clear()

    for name, module in twin.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(convolved)
        elif isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda module, inputs, output, name=name: normalised(name, output))
    for images in batches:
        twin(images)
    found = {}
    for name, total in sums.items():
        count, first, second = total.tolist()
        found[name] = (second / count - (first / count) ** 2) ** 0.5
    return found


def first_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Norms of the gradients of all 3x3 weights, relative to the weights' norms, of a batch in training mode.

    Returns:
        Name of the convolution -> ``(weight.grad.norm() / weight.norm())``, in the order of the modules. The
        model stays as it is.
    """
    twin = copy.deepcopy(model).train()
    F.cross_entropy(twin(images), labels).backward()
    layers = ((name, module) for name, module in twin.named_modules() if isinstance(module, nn.Conv2d))
    return {
        name: (layer.weight.grad.norm() / layer.weight.norm()).item()  # type: ignore[union-attr]
        for name, layer in layers
        if layer.kernel_size == (3, 3)
    }


def responses(
    models: Mapping[tuple[str, int], tuple[nn.Module, nn.Module]], images: Images, batch: int
) -> pandas.DataFrame:
    """A row per network, seed and layer.

    Args:
        models: (network, seed) -> trained and untrained model. Layers run in the order of their modules.
        images: deviations are of the test images, gradients of the first `batch` training images.
    """
    rows = []
    for (network, seed), (trained, untrained) in models.items():
        found = deviations(trained, (part for part, _ in test_batches(images)))
        gradients = first_gradients(untrained, images.train[:batch], images.train_labels[:batch])
        layers = zip(found.items(), gradients.values(), strict=True)
        rows += [
            {
                **{"network": network, "seed": seed, "layer": number, "name": name},
                **{"deviation": deviation, "first_gradient": gradient},
            }
            for number, ((name, deviation), gradient) in enumerate(layers, start=1)
        ]
    return pandas.DataFrame(rows)


def draw(frame: pandas.DataFrame, networks: Sequence[str]) -> Figure:
    """Deviations in the order of the layers, and from the greatest to the least; below, the first gradients.

    Lines are means over seeds.
    """
    figure = Figure(figsize=(8, 8.5), layout="constrained")
    ordered, ranked, gradients = figure.subplots(3, 1)
    for network, color in palette(networks).items():
        mean = frame[frame["network"] == network].groupby("layer")[["deviation", "first_gradient"]].mean()
        style = {"color": color, "linewidth": 1.4, "linestyle": "--" if network.startswith("plain") else "-"}
        ordered.plot(mean.index, mean["deviation"], label=network, **style)
        ranked.plot(mean.index, mean["deviation"].sort_values(ascending=False), **style)
        gradients.plot(mean.index, mean["first_gradient"], **style)
    _label(ordered, "layer, in the order in which they run", "response: standard deviation")
    _label(ranked, "layer, sorted by magnitude", "response: standard deviation")
    _label(gradients, "layer, in the order in which they run", "first gradient / weight")
    ordered.legend(frameon=False, fontsize=8)
    figure.suptitle(f"3x3 layers, responses after BN; means of {frame['seed'].nunique()} seeds", fontsize=10)
    return figure


def _label(axes: Axes, layers: str, values: str) -> None:
    axes.set(xlabel=layers, ylabel=values, yscale="log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    axes.grid(alpha=0.25)
