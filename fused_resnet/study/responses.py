"""Standard deviations of layer responses (He et al. 2015, figure 7)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from fused_resnet import unfuse

from .curves import palette
from .data import Images, test_batches

__all__ = ["deviations", "draw", "responses"]


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


def responses(models: Mapping[tuple[str, int], nn.Module], images: Images) -> pandas.DataFrame:
    """A row per network, seed and layer, of the test images.

    Args: models: (network, seed) -> trained model. Layers are numbered from 1 in the order in which they run.
    """
    rows = []
    for (network, seed), model in models.items():
        found = deviations(model, (batch for batch, _ in test_batches(images)))
        rows += [
            {"network": network, "seed": seed, "layer": number, "name": name, "deviation": deviation}
            for number, (name, deviation) in enumerate(found.items(), start=1)
        ]
    return pandas.DataFrame(rows)


def draw(frame: pandas.DataFrame, networks: Sequence[str]) -> Figure:
    """Above in the order of the layers, below from the greatest to the least; lines are means over seeds."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1)
    for network, color in palette(networks).items():
        mean = frame[frame["network"] == network].groupby("layer")["deviation"].mean()
        style = {"color": color, "linewidth": 1.4, "linestyle": "--" if network.startswith("plain") else "-"}
        above.plot(mean.index, mean, label=network, **style)
        below.plot(mean.index, mean.sort_values(ascending=False), **style)
    _label(above, "layer, in the order in which they run")
    _label(below, "layer, sorted by magnitude")
    above.legend(frameon=False, fontsize=8)
    figure.suptitle(f"Responses of 3x3 layers after BN; mean of {frame['seed'].nunique()} seeds", fontsize=10)
    return figure


def _label(axes: Axes, what: str) -> None:
    axes.set(xlabel=what, ylabel="standard deviation")
    axes.grid(alpha=0.25)
