"""The suite: ops, blocks and networks, everyone who can run them, one row for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console

from fused_resnet.analysis.ceilings import Ceilings

from .cases import BLOCKS, INFERENCE, NETWORKS, OP, TRAINING, Setting, Task, Variant, Work
from .measure import Effort, Job, Measurement, measure
from .op_cases import OP_BASELINE, OP_CONTESTANTS, OpWork, op_tasks, public_op
from .peers import CONTESTANTS, EAGER, Contestant
from .results import Row

LEVELS = {"op": (), "block": BLOCKS, "network": NETWORKS}
MODES = (TRAINING, INFERENCE)


@dataclass(frozen=True)
class Choice:
    """What of the suite is run. only: a part of a name; levels, modes: some of `LEVELS` and `MODES`."""

    levels: tuple[str, ...]
    modes: tuple[str, ...]
    only: str = ""

    def tasks(self, setting: Setting) -> list[Task]:
        """Raises: ValueError: nothing has `only` in its name."""
        found: list[Task] = list(op_tasks(setting, self.only)) if "op" in self.levels else []
        for level in self.levels:
            for case in LEVELS[level]:
                if self.only.lower() in case.name.lower():
                    found += [Task(case, mode, setting) for mode in self.modes]
        if not found:
            raise ValueError(
                f"only: nothing has {self.only!r} in its name; there are: {', '.join(self.names())}"
            )
        return found

    def names(self) -> list[str]:
        ops = [task.case.name for task in op_tasks(Setting())] if "op" in self.levels else []
        return [*ops, *(case.name for level in self.levels for case in LEVELS[level])]


def contestants(task: Task) -> tuple[Contestant, ...]:
    """Those who can do such a task, present or not."""
    everyone = OP_CONTESTANTS if task.mode == OP else CONTESTANTS
    return tuple(c for c in everyone.values() if c.takes(task))


def run(task: Task, effort: Effort, ceilings: Ceilings, memory: bool, console: Console) -> Iterator[Row]:
    """A row for everyone who can do the task."""
    setting = task.setting
    title = f"{task.case.name}, {task.mode}, {setting.dtype}, batch {setting.batch}"
    calls = 10 if task.mode == OP and not effort.cold else 1
    memory = memory and task.mode != OP
    found = measure(Job(title, task, contestants(task), calls, memory=memory), effort, console)
    baseline = found[OP_BASELINE if task.mode == OP else EAGER]
    flops, bound = _work(task, ceilings)
    for measurement in found.values():
        yield _row(task, measurement, baseline, flops, bound, ceilings, effort.cold)


def _work(task: Task, ceilings: Ceilings) -> tuple[int, float]:
    """Operations of the work, and what our ops would take at the ceilings, in seconds."""
    rates = ceilings.bytes_per_second, ceilings.flops_per_second[task.setting.dtype]
    if task.mode == OP:
        counted = OpWork(task, public_op(task)).operations()
        return counted.flops, counted.least_seconds(*rates)
    stock, ours = (Work(task, Variant(memory=memory)).operations() for memory in (None, "speed"))
    return stock.flops, ours.least_seconds(*rates)


def _row(
    task: Task,
    found: Measurement,
    baseline: Measurement,
    flops: int,
    bound: float,
    ceilings: Ceilings,
    cold: bool,
) -> Row:
    setting = task.setting
    known = found.seconds is not None and baseline.seconds is not None
    return Row(
        level=task.case.level,
        work=task.case.name,
        mode=task.mode,
        contestant=found.contestant,
        how=found.how,
        layout=found.layout,
        dtype=setting.dtype,
        device=setting.device,
        batch=setting.batch,
        image_size=setting.size,
        cold_cache=cold,
        missing=found.missing,
        error=found.error,
        gradient_error=found.gradient_error,
        median_s=found.seconds,
        first_quartile_s=found.first_quartile,
        third_quartile_s=found.third_quartile,
        rounds=found.rounds,
        speedup=baseline.seconds / found.seconds if known else None,  # type: ignore[operator]
        peak_bytes=found.peak_bytes,
        kept_bytes=found.kept_bytes,
        moved_bytes=found.moved_bytes,
        flops=flops,
        bound_s=bound,
        ceiling_bytes_per_s=ceilings.bytes_per_second,
        ceiling_flops_per_s=ceilings.flops_per_second[setting.dtype],
        others_share=found.others_share,
    )
