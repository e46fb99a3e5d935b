"""What is measured (blocks and networks) and how PyTorch runs it, stock and fused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fused_resnet
from fused_resnet.analysis import peak_activation_bytes, saved_activation_bytes
from fused_resnet.models import BasicBlock, Bottleneck

TRAINING, FORWARD, INFERENCE = "training", "training, forward alone", "inference"
DTYPES = ("fp32", "bf16")


@dataclass(frozen=True)
class Variant:
    """One way to run a model; memory None is stock. Fused code is measured in the layout its kernels take."""

    name: str
    memory_format: torch.memory_format = torch.channels_last
    memory: str | None = None
    compiled: bool = False

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


def problem(case: Case, setting: Setting) -> tuple[nn.Module, Tensor, Tensor]:
    """A stock model, its input and labels, the same at every call.

    Batch norms do something in eval, too, and the last one of a block is small, as in a network that trains:
    in others a rounding becomes another gradient, and what two implementations compute cannot be compared.
    """
    torch.manual_seed(0)
    size = setting.size // case.shrink
    model, input = case.build(), torch.randn(setting.batch, case.channels, size, size)
    labels = torch.randint(1000, (setting.batch,))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    for module in model.modules():
        if isinstance(module, BasicBlock | Bottleneck):
            last = module.bn3 if isinstance(module, Bottleneck) else module.bn2
            nn.init.uniform_(last.weight, 0.05, 0.15)
    return model, input, labels


class Work:
    """One case in one variant, ready to run: call it to run it once; what the model gives is the result.

    Training is forward, loss and backward, without the optimizer, which fusion does not touch; a block gets a
    gradient for its output and gives one for its input, as inside a network.
    """

    def __init__(self, case: Case, variant: Variant, mode: str, setting: Setting) -> None:
        self._case, self._mode, self._setting = case, mode, setting
        model, input, labels = problem(case, setting)
        self.model: nn.Module = model.to(setting.device, memory_format=variant.memory_format)  # type: ignore[call-overload]
        self._input = input.to(setting.device, memory_format=variant.memory_format)
        self._labels = labels.to(setting.device)
        self._output_gradient: Tensor | None = None
        if variant.memory is not None:
            fused_resnet.fuse(self.model, memory=variant.memory)
        self.model.train(mode != INFERENCE)
        self._input.requires_grad_(mode != INFERENCE and not case.is_network)
        self._called = torch.compile(self.model) if variant.compiled else self.model

    def __call__(self) -> Tensor:
        return {TRAINING: self._train, FORWARD: self._forward, INFERENCE: self._infer}[self._mode]()

    @torch.inference_mode()
    def _infer(self) -> Tensor:
        return self._forward()

    def _forward(self) -> Tensor:
        with self._setting.autocast():
            return self._called(self._input)

    def _train(self) -> Tensor:
        self.model.zero_grad()
        self._input.grad = None
        with self._setting.autocast():
            output = self._called(self._input)
            loss = F.cross_entropy(output, self._labels) if self._case.is_network else None
        if loss is not None:
            loss.backward()
            return output.detach()
        if self._output_gradient is None:  # made in the first run, which is never timed
            values = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
            self._output_gradient = torch.empty_like(output).copy_(values)
        output.backward(self._output_gradient)
        return output.detach()

    def gradients(self) -> Tensor | None:
        """Those of all parameters in one vector, after a training step; else None."""
        found = [p.grad.flatten() for p in self.model.parameters() if p.grad is not None]
        return torch.cat(found) if found else None

    def kept_bytes(self) -> int | None:
        """What the forward pass keeps for backward; None in inference."""
        if self._mode == INFERENCE:
            return None
        with self._setting.autocast():
            return saved_activation_bytes(self.model, self._input)

    def peak_bytes(self) -> int:
        """The most activation memory that a training step takes."""
        return peak_activation_bytes(self, self.model.parameters())
