"""The figures: works, who is compared in each, and the ratios that are wanted."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rich.console import Console

from fused_resnet.models import BasicBlock, Bottleneck
from fused_resnet.models.imagenet import ResNet

from .cases import FORWARD, INFERENCE, NETWORKS, TRAINING, Case, Setting, Task
from .measure import Effort, Job, Measurement, measure
from .peers import BALANCED, COMPILE, CONTESTANTS, EAGER, MIN, ONNX_RUNTIME, OPENVINO, SPEED

TIME, MEMORY = "time", "memory"


@dataclass(frozen=True)
class Comparison:
    """Ours beside a peer.

    bound: of a speed-up (peer / ours) the least that is wanted, else of our share (ours / peer) the greatest;
    None: nothing is wanted.
    """

    ours: str
    peer: str
    bound: float | None = None
    speedup: bool = False

    def ratio(self, ours: float, peer: float) -> float:
        return peer / ours if self.speedup else ours / peer

    @property
    def wanted(self) -> str:
        return "" if self.bound is None else f"{'≥' if self.speedup else '≤'} {self.bound:.2f}"

    def is_met(self, ratio: float) -> bool:
        assert self.bound is not None, "nothing is wanted"
        return ratio >= self.bound if self.speedup else ratio <= self.bound


@dataclass(frozen=True)
class Figure:
    """One work. calls: how often one timed run does it, for works that take little."""

    name: str
    task: Task
    comparisons: tuple[Comparison, ...]
    quantity: str = TIME
    calls: int = 1

    @property
    def title(self) -> str:
        setting = self.task.setting
        sizes = f", batch {setting.batch}, {setting.size}x{setting.size}" if self.task.case.is_network else ""
        return f"{self.name}, {setting.dtype}{sizes}"

    @property
    def contestants(self) -> tuple[str, ...]:
        """Everyone who takes part, peers first."""
        ours, peers = (dict.fromkeys(getattr(c, side) for c in self.comparisons) for side in ("ours", "peer"))
        return *peers, *ours

    @property
    def job(self) -> Job:
        taking_part = tuple(CONTESTANTS[name] for name in self.contestants)
        memory = self.quantity == MEMORY
        return Job(self.title, self.task, taking_part, self.calls, times=not memory, memory=memory)

    def value(self, found: Measurement) -> float | None:
        """Seconds, or bytes at the peak."""
        return found.peak_bytes if self.quantity == MEMORY else found.seconds

    def quick(self) -> Figure:
        """The same of a size that only shows that it runs."""
        case, setting = self.task.case, self.task.setting
        small = replace(setting, batch=min(setting.batch, 2), size=min(setting.size, 64))
        task = Task(SMALL if case in NETWORKS else case, self.task.mode, small)
        return replace(self, task=task, calls=min(self.calls, 2))


@dataclass(frozen=True)
class Result:
    """A comparison with what was measured."""

    figure: Figure
    comparison: Comparison
    ours: Measurement
    peer: Measurement

    @property
    def ratio(self) -> float | None:
        ours, peer = (self.figure.value(m) for m in (self.ours, self.peer))
        return None if ours is None or peer is None else self.comparison.ratio(ours, peer)

    @property
    def verdict(self) -> str:
        """ "met", "MISSED", "not judged" for want of a peer, or empty where nothing is wanted."""
        if self.comparison.bound is None:
            return ""
        if self.ratio is None:
            return "MISSED" if self.figure.value(self.ours) is None else "not judged"
        return "met" if self.comparison.is_met(self.ratio) else "MISSED"


def results_of(figure: Figure, effort: Effort, console: Console) -> list[Result]:
    """All comparisons of a figure, measured."""
    found = measure(figure.job, effort, console)
    return [Result(figure, c, found[c.ours], found[c.peer]) for c in figure.comparisons]


SMALL = Case("a bottleneck per stage", lambda: ResNet(Bottleneck, (1, 1, 1, 1)))
RESNET18, RESNET50 = NETWORKS
# Blocks so small that their time is the host's: Python, dispatch, autograd.
HOST_BLOCKS = (
    Case("basic block", lambda: BasicBlock(8, 8), 8, 4),
    Case("bottleneck", lambda: Bottleneck(8, 2), 8, 4),
)


def _training(case: Case, dtype: str, batch: int, *wanted: tuple[str, float]) -> Figure:
    """wanted: peers and the speed-up over each, of the default memory mode."""
    comparisons = (
        *(Comparison(BALANCED, peer, factor, speedup=True) for peer, factor in wanted),
        *(Comparison(SPEED, peer, speedup=True) for peer, _ in wanted),
    )
    task = Task(case, TRAINING, Setting(batch, dtype=dtype))
    return Figure(f"{case.name}, training step", task, comparisons)


def _inference(dtype: str, batch: int, of_openvino: float) -> Figure:
    others = (EAGER, COMPILE, *((ONNX_RUNTIME,) if dtype == "fp32" else ()))
    comparisons = (
        Comparison(BALANCED, OPENVINO, of_openvino),
        *(Comparison(BALANCED, peer) for peer in others),
    )
    task = Task(RESNET50, INFERENCE, Setting(batch, dtype=dtype))
    # a single image takes so little that caches and threads that have gone to sleep would show
    return Figure(f"{RESNET50.name}, inference", task, comparisons, calls=3 if batch == 1 else 1)


def _host(case: Case, mode: str) -> Figure:
    does = {FORWARD: "forward in training", TRAINING: "forward and backward"}[mode]
    name = f"host time, {case.name} on 1x8x2x2, {does}"
    task = Task(case, mode, Setting(batch=1, size=8))
    return Figure(name, task, (Comparison(BALANCED, EAGER, 1.0),), calls=100)


FIGURES = (
    _training(RESNET50, "bf16", 8, (EAGER, 1.5), (COMPILE, 1.3)),
    _training(RESNET50, "fp32", 8, (EAGER, 1.15), (COMPILE, 1.15)),
    _training(RESNET18, "bf16", 16, (EAGER, 1.4)),
    _inference("bf16", 16, 1.0),
    _inference("fp32", 16, 1.05),
    _inference("bf16", 1, 1.15),
    _inference("fp32", 1, 1.15),
    *(_host(case, mode) for case in HOST_BLOCKS for mode in (FORWARD, TRAINING)),
    Figure(
        f"{RESNET50.name}, training step, peak activation memory",
        Task(RESNET50, TRAINING, Setting(8)),
        (Comparison(BALANCED, EAGER, 0.55), Comparison(MIN, EAGER, 0.33)),
        MEMORY,
    ),
)
