"""Bytes of memory that a training step moves: counted by running it, not timed.

Two counters. `eager_bytes` is for PyTorch's own operators: every activation that an operator reads or writes
counts once per operator, as if it came from memory and went there. `kernel_bytes` is for this package's
kernels, which are executed while every access is noted (Triton's by an interpreter, those in CUDA C++ as the
code that nvcc generates): each 32-byte sector counts once per kernel and direction, what an unlimited cache
inside one kernel would leave. Everything counts: weights, statistics and partial sums too.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..backends import use_backend
from ..convert import fuse

__all__ = ["StepBytes", "Unit", "compare", "eager_bytes", "kernel_bytes", "model", "training_step"]


@dataclass
class StepBytes:
    """Bytes by direction ("forward", "backward") and name of the operator or kernel."""

    by_name: dict[tuple[str, str], int] = field(default_factory=dict)

    def add(self, direction: str, name: str, count: int) -> None:
        if not direction:
            return
        self.by_name[direction, name] = self.by_name.get((direction, name), 0) + count

    def total(self, direction: str | None = None) -> int:
        """Of one direction or of both."""
        return sum(n for (d, _), n in self.by_name.items() if direction in (None, d))


class Unit(NamedTuple):
    """What bytes are counted in."""

    name: str
    size: float


def model(network: str, batch: int, size: int) -> tuple[nn.Module, Tensor, Unit]:
    """A stock model in bf16 and NHWC, an input, and the unit of its traffic.

    Args: network: "bottleneck" (256 channels, 64 inside, identity shortcut) or one of torchvision's ResNets.
    """
    from torchvision.models import resnet

    if network == "bottleneck":
        made, channels = resnet.Bottleneck(256, 64), 256
        unit = Unit("units of M*C elements", batch * size * size * 64 * 2)
    else:
        made, channels = getattr(resnet, network)(), 3
        unit = Unit("MB", 1e6)
    x = torch.randn(batch, channels, size, size, dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    return made.to(torch.bfloat16).to(memory_format=torch.channels_last), x, unit


def training_step(model: nn.Module, x: Tensor) -> Iterator[str]:
    """Forward, then backward, with x needing a gradient; yields before each what comes."""
    yield "forward"
    x = x.detach().requires_grad_()
    out = model(x)
    yield ""  # what follows belongs to no direction
    gradient = torch.ones_like(out)
    yield "backward"
    torch.autograd.grad(out, (x, *model.parameters()), gradient)


class _Operators(TorchDispatchMode):
    """Adds up what operators read and write. `counts`: whether a tensor is to be counted."""

    def __init__(self, record: Callable[[str, int], None], counts: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.record, self.counts = record, counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.namespace == "aten" and not func.is_view and func not in _FREE:
            read = {id(t): t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
            written = {id(t): t for t in tree_leaves(out) if isinstance(t, Tensor)}
            tensors = [t for t in (*read.values(), *written.values()) if self.counts(t)]
            self.record(func.overloadpacket.__name__, sum(t.numel() * t.itemsize for t in tensors))
        return out


# Operators that touch no memory of their arguments.
_FREE = frozenset((torch.ops.aten.detach.default, torch.ops.aten.empty_like.default))


def _is_activation(t: Tensor) -> bool:
    return t.dim() == 4


def eager_bytes(model: nn.Module, x: Tensor) -> StepBytes:
    """What PyTorch's operators move in a training step of `model`, activations only.

    Args: model, x ``[N, C, H, W]``: also on the meta device, where nothing is computed.
    """
    found, direction = StepBytes(), ""
    weights = {p.shape for p in model.parameters()}
    with _Operators(
        lambda name, n: found.add(direction, name, n), lambda t: _is_activation(t) and t.shape not in weights
    ):
        for direction in training_step(model, x):  # noqa: B007
            pass
    return found


def kernel_bytes(model: nn.Module, x: Tensor, backend: str = "triton") -> StepBytes:
    """What a backend's kernels, and the operators between them, move in a training step of `model`.

    Args: model: fused; x ``[N, C, H, W]``; both on the CPU, where the kernels are executed.
    Raises: ModuleNotFoundError without gpu_on_cpu, which executes them.
    """
    found, direction = StepBytes(), ""
    operators = _Operators(lambda name, n: found.add(direction, name, n), lambda t: True)
    with _metered(backend) as launches, use_backend(backend), operators:
        for coming in training_step(model, x):
            take(launches(), found, direction)
            direction = coming
        take(launches(), found, direction)
    return found


Launches = Callable[[], list[tuple[str, Any]]]


@contextlib.contextmanager
def _metered(backend: str) -> Iterator[Launches]:
    """Gives a function that tells, and forgets, what was launched since: names and gpu_on_cpu's Traffic."""
    if backend == "cuda":
        from .cuda_emulation import emulate_cuda

        with emulate_cuda("ptx", traffic=True) as records:
            yield lambda: [(r.name, r.launch.traffic) for r in _taken(records) if r.launch is not None]
    else:
        from gpu_on_cpu import emulate
        from gpu_on_cpu.triton import interpreting

        with emulate(execute=False), interpreting() as launched:
            yield lambda: [(launch.name, launch.traffic) for launch in _taken(launched)]


def _taken(launches: list[Any]) -> list[Any]:
    """The elements, which the list loses."""
    found = list(launches)
    launches.clear()
    return found


def compare(stock: nn.Module, x: Tensor, backend: str = "triton") -> tuple[StepBytes, StepBytes]:
    """Bytes of a training step: PyTorch's operators, a backend's kernels."""
    return eager_bytes(copy.deepcopy(stock).to("meta"), x.to("meta")), kernel_bytes(fuse(stock), x, backend)


def take(launches: Iterable[tuple[str, Any]], found: StepBytes, direction: str) -> None:
    """Add what kernels moved: pairs of a name and gpu_on_cpu's Traffic."""
    for name, traffic in launches:
        found.add(direction, name, traffic.total().unique_sectors)
