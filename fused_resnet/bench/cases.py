"""What is measured: blocks and networks, and how PyTorch runs them, stock and fused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fused_resnet
from fused_resnet.analysis import peak_activation_bytes, saved_activation_bytes
from fused_resnet.analysis.counting import Operations, operations
from fused_resnet.models import BasicBlock, Bottleneck

TRAINING, FORWARD, INFERENCE = "training", "training, forward alone", "inference"
OP = "op"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Variant:
    """One way to run a model; memory None is stock; compiled: torch.compile's mode, if it is to compile."""

    memory_format: torch.memory_format = torch.channels_last
    memory: str | None = None
    compiled: str | None = None


@dataclass(frozen=True)
class Setting:
    """Sizes and place of a measurement.

    size: height and width of the image that the whole network gets; dtype: "fp32", or what autocast takes.
    """

    batch: int = 8
    size: int = 224
    dtype: str = "fp32"
    device: str = "cpu"

    def autocast(self) -> contextlib.AbstractContextManager:
        if self.dtype == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(torch.device(self.device).type, DTYPES[self.dtype])

    @property
    def device_type(self) -> str:
        return torch.device(self.device).type


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

    @property
    def level(self) -> str:
        return "network" if self.is_network else "block"


C = TypeVar("C")


@dataclass(frozen=True)
class Task(Generic[C]):
    """What everyone who is compared does. case: a `Case`, or of ops an `OpCase`."""

    case: C
    mode: str
    setting: Setting


class Ready(Protocol):
    """Prepared: call it to run the task once; what the model gives is the result."""

    def __call__(self) -> Tensor | tuple[Tensor, ...]: ...

    def gradients(self) -> Tensor | None:
        """Those of the last call for all parameters, in one vector; None without backward."""
        ...


BLOCKS = (
    Case("basic block, identity", _block("resnet18", "layer1", 1), 64, 4),
    Case("basic block, projection", _block("resnet18", "layer2", 0), 64, 4),
    Case("bottleneck, identity", _block("resnet50", "layer1", 1), 256, 4),
    Case("bottleneck, projection", _block("resnet50", "layer2", 0), 256, 4),
)
NETWORKS = (Case("ResNet-18", _network("resnet18")), Case("ResNet-50", _network("resnet50")))


def problem(task: Task[Case]) -> tuple[nn.Module, Tensor, Tensor]:
    """A stock model, its input and labels, the same at every call.

    Batch norms do something in eval, too, and the last one of a block is small, as in a network that trains:
    in others a rounding becomes another gradient, and what two implementations compute cannot be compared.
    """
    torch.manual_seed(0)
    case, setting = task.case, task.setting
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
    """One task in one variant, ready to run.

    Training is forward, loss and backward, without the optimizer, which fusion does not touch; a block gets a
    gradient for its output and gives one for its input, as inside a network.
    """

    def __init__(
        self, task: Task[Case], variant: Variant, change: Callable[[nn.Module], nn.Module] | None = None
    ) -> None:
        """change: what is done to the stock model, on its device, before it runs."""
        self.task = task
        setting, layout = task.setting, variant.memory_format
        model, input, labels = problem(task)
        model = model.to(setting.device, memory_format=layout)  # type: ignore[call-overload]
        self.model: nn.Module = change(model) if change is not None else model
        # of others' layers and of compiled code it is not known what they read and write
        self.shows_operators = change is None and variant.compiled is None
        self.input = input.to(setting.device, memory_format=layout)
        self._labels = labels.to(setting.device)
        self._output_gradient: Tensor | None = None
        if variant.memory is not None:
            fused_resnet.fuse(self.model, memory=variant.memory)
        self.model.train(task.mode != INFERENCE)
        self.input.requires_grad_(task.mode != INFERENCE and not task.case.is_network)
        self._called = self.model
        if variant.compiled is not None:
            self._called = torch.compile(self.model, mode=variant.compiled)

    def __call__(self) -> Tensor:
        mode = self.task.mode
        return {TRAINING: self._train, FORWARD: self._forward, INFERENCE: self._infer}[mode]()

    @torch.inference_mode()
    def _infer(self) -> Tensor:
        return self._forward()

    def _forward(self) -> Tensor:
        with self.task.setting.autocast():
            return self._called(self.input)

    def _train(self) -> Tensor:
        self.model.zero_grad()
        self.input.grad = None
        with self.task.setting.autocast():
            output = self._called(self.input)
            loss = F.cross_entropy(output, self._labels) if self.task.case.is_network else None
        if loss is not None:
            loss.backward()
            return output.detach()
        if self._output_gradient is None:  # made in the first run, which is never timed
            values = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
            self._output_gradient = torch.empty_like(output).copy_(values)
        output.backward(self._output_gradient)
        return output.detach()

    def gradients(self) -> Tensor | None:
        found = [p.grad.flatten() for p in self.model.parameters() if p.grad is not None]
        return torch.cat(found) if found else None

    def kept_bytes(self) -> int | None:
        """What the forward pass keeps for backward; None in inference, and of compiled code."""
        if self.task.mode == INFERENCE or self._called is not self.model:
            return None
        with self.task.setting.autocast():
            return saved_activation_bytes(self.model, self.input)

    def peak_bytes(self) -> int:
        """The most activation memory that a run takes."""
        return peak_activation_bytes(self, self.model.parameters(), self.task.setting.device)

    def operations(self) -> Operations:
        """What a run does, operator by operator, counted from shapes."""
        setting, training = self.task.setting, self.task.mode == TRAINING

        def loss(output: Tensor) -> Tensor:
            return F.cross_entropy(output, output.new_zeros(len(output), dtype=torch.long))

        with setting.autocast():
            if not training:
                return operations(self.model, self.input)
            return operations(self.model, self.input, loss if self.task.case.is_network else torch.sum)
