"""What is measured (blocks and networks) and in which variants, for the comparer and the pytest suite."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fused_resnet
from fused_resnet.analysis import saved_activation_bytes

TRAINING, INFERENCE = "training", "inference"
DTYPES = ("fp32", "bf16")


@dataclass(frozen=True)
class Variant:
    """One way to run a model; memory None is stock. Fused code is measured in the layout its kernels take."""

    name: str
    memory_format: torch.memory_format = torch.channels_last
    memory: str | None = None

    @property
    def layout(self) -> str:
        return "NCHW" if self.memory_format == torch.contiguous_format else "channels_last"


BASELINE = Variant("stock channels_last")
STOCK = (Variant("stock NCHW", torch.contiguous_format), BASELINE)
FUSED = tuple(Variant(f"fused {memory}", memory=memory) for memory in ("speed", "balanced", "min"))
VARIANTS = {
    TRAINING: (*STOCK, *FUSED),
    # without gradients the memory modes are one and the same
    INFERENCE: (*STOCK, Variant("fused", memory="balanced")),
}


@dataclass(frozen=True)
class Setting:
    """Sizes and place of a measurement.

    size: height and width of the image that the whole network gets; dtype: "fp32", or "bf16" for autocast.
    """

    batch: int = 8
    size: int = 224
    dtype: str = "fp32"
    device: str = "cpu"

    def autocast(self) -> contextlib.AbstractContextManager:
        if self.dtype == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.device).type, torch.bfloat16)


def _network(name: str) -> Callable[[], nn.Module]:
    return lambda: fused_resnet.models.create(name, fused=False)


def _block(name: str, stage: str, index: int) -> Callable[[], nn.Module]:
    return lambda: getattr(_network(name)(), stage)[index]


@dataclass(frozen=True)
class Case:
    """A module and its input: `channels` at 1/`shrink` of the image's height and width."""

    name: str
    build: Callable[[], nn.Module]
    channels: int = 3
    shrink: int = 1

    @property
    def is_network(self) -> bool:
        return self.shrink == 1


BLOCKS = (
    Case("basic block, identity", _block("resnet18", "layer1", 1), 64, 4),
    Case("basic block, projection", _block("resnet18", "layer2", 0), 64, 4),
    Case("bottleneck, identity", _block("resnet50", "layer1", 1), 256, 4),
    Case("bottleneck, projection", _block("resnet50", "layer2", 0), 256, 4),
)
NETWORKS = (Case("ResNet-18", _network("resnet18")), Case("ResNet-50", _network("resnet50")))


class Work:
    """One case in one variant, ready to run: call it to run it once.

    Training is forward, loss and backward, without the optimizer, which fusion does not touch; a block gets a
    gradient for its output and gives one for its input, as inside a network.
    """

    def __init__(self, case: Case, variant: Variant, mode: str, setting: Setting) -> None:
        torch.manual_seed(0)  # every variant gets the same weights and images
        size = setting.size // case.shrink
        model, input = case.build(), torch.randn(setting.batch, case.channels, size, size)
        self._labels = torch.randint(1000, (setting.batch,)).to(setting.device)
        self._model: nn.Module = model.to(setting.device, memory_format=variant.memory_format)  # type: ignore[call-overload]
        self._input = input.to(setting.device, memory_format=variant.memory_format)
        if variant.memory is not None:
            fused_resnet.fuse(self._model, memory=variant.memory)
        self._case, self._mode, self._setting = case, mode, setting
        self._model.train(mode == TRAINING)
        self._input.requires_grad_(mode == TRAINING and not case.is_network)
        self._gradient: Tensor | None = None

    def __call__(self) -> Any:
        return self._train() if self._mode == TRAINING else self._infer()

    @torch.inference_mode()
    def _infer(self) -> Tensor:
        with self._setting.autocast():
            return self._model(self._input)

    def _train(self) -> None:
        self._model.zero_grad()
        self._input.grad = None
        with self._setting.autocast():
            output = self._model(self._input)
            loss = F.cross_entropy(output, self._labels) if self._case.is_network else None
        if loss is not None:
            loss.backward()
            return
        if self._gradient is None:  # made in the first run, which is never timed
            self._gradient = torch.randn_like(output)
        output.backward(self._gradient)

    def kept_bytes(self) -> int | None:
        """What the forward pass keeps for backward; None in inference."""
        if self._mode == INFERENCE:
            return None
        with self._setting.autocast():
            return saved_activation_bytes(self._model, self._input)
