"""What was fused and how, what was left alone and why, and what a run moves and computes."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import torch
import torch.nn as nn
from torch._subclasses.fake_tensor import FakeTensorMode

from .. import backends, planner
from ..nn import record
from ..nn.plain import is_batch_norm, why_not_batch_norm, why_not_convolution
from .analyse import Analysis
from .fuse import CONTAINERS, analyses, shared_modules, why_opaque
from .match import Matcher
from .module import as_stock, is_fused


@dataclass(frozen=True)
class Row:
    """One fused unit (reason None) or one convolution left alone (kind None)."""

    path: str
    kind: str | None
    modules: tuple[str, ...]
    shortcut: str = ""
    reason: str | None = None


@dataclass(frozen=True)
class Run:
    """One fused unit in one run on an input: shapes, plan, engines and predicted cost (bounds from shapes)."""

    path: str
    kind: str
    shape: tuple[int, ...]
    statistics: str
    folded: tuple[bool, ...]
    recomputed: bool
    engine: str
    cost: planner.Cost


@dataclass(frozen=True)
class Explanation:
    """The rows; ``str()`` gives a table. `runs` and `backends` (op → backend names) only with an input."""

    fused: list[Row]
    left: list[Row]
    runs: list[Run] = field(default_factory=list)
    backends: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        from rich.console import Console

        out = io.StringIO()
        console = Console(file=out, width=150, color_system=None)
        for table in self._tables():
            console.print(table)
        if self.backends:
            console.print("ops: " + ", ".join(f"{op} by {name}" for op, name in sorted(self.backends.items())))
        return out.getvalue()

    def _tables(self):
        if self.runs:
            yield _table(
                "fused units on this input (bytes and multiply-adds of one pass: counted, not measured)",
                ("unit", "kind", "input", "statistics", "folded", "recomputed", "engine", "MB moved", "MB kept", "GMAC"),
                [_run_cells(r) for r in self.runs],
            )
        else:
            cells = [(r.path or "(root)", r.kind, r.shortcut, ", ".join(r.modules)) for r in self.fused]
            yield _table("fused", ("module", "unit", "shortcut", "of"), cells)
        if self.left:
            yield _table("left alone", ("convolution", "because"), [(r.path, r.reason) for r in self.left])


def _run_cells(run: Run):
    folded = "".join("x" if f else "-" for f in run.folded)
    cost = run.cost
    sizes = [f"{cost.bytes_moved / 1e6:.1f}", f"{cost.bytes_kept / 1e6:.1f}", f"{cost.multiply_adds / 1e9:.2f}"]
    shape = "x".join(map(str, run.shape))
    return (run.path, run.kind, shape, run.statistics, folded, "yes" if run.recomputed else "no", run.engine, *sizes)


def _table(title, columns, rows):
    from rich.table import Table

    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(str(c) for c in row))
    return table


def explain(model: nn.Module, input: torch.Tensor | None = None) -> Explanation:
    """Say what `fuse` did to a model, or would leave alone in it.

    Args:
        model: any module, fused or not; it is not changed.
        input: optional example ``[N, C, H, W]``: with it the model is run on fake tensors (no memory, no time, running
            statistics untouched) and every unit's shapes, plan, backends, bytes and multiply-adds are listed.

    Returns: an `Explanation`; print it. Raises: TypeError if model is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    fused = [row for path, module in model.named_modules() if is_fused(module) for row in _fused_rows(path, module)]
    left = list(_left_alone(model, {name for row in fused for name in row.modules}))
    if input is None:
        return Explanation(fused, left)
    runs, ops = _fake_run(model, input)
    return Explanation(fused, left, runs, ops)


def _join(path, name):
    return f"{path}.{name}" if path else name


def _fused_rows(path, module):
    made = list(module._fused_programs.items())
    same = len(made) == 2 and made[0][1].units == made[1][1].units
    for training, program in made[:1] if same else made:
        mode = "" if same else (" (train)" if training else " (eval)")
        for unit, names in program.units:
            shortcut = "" if unit.shortcut == "none" else unit.shortcut
            yield Row(path, unit.kind + mode, tuple(_join(path, n) for n in names if n), shortcut)


# ---- why a convolution was left alone -----------------------------------------------------------------------------


def _is_convolution(module) -> bool:
    """Of any class: quantised, lazy and parametrized ones are subclasses or carry the name."""
    return "Conv" in type(module).__name__ and not any(_is_convolution(c) for c in module.children())


def _left_alone(model, absorbed):
    shared = shared_modules(model)
    cache: dict[str, dict[bool, Analysis]] = {}
    for path, module in model.named_modules():
        if not _is_convolution(module) or path in absorbed or is_fused(module):
            continue
        yield Row(path, None, (path,), reason=_reason(model, path, module, shared, cache))




def _reason(model, path, conv, shared, cache) -> str:
    if (why := why_not_convolution(conv)) is not None:
        return why
    if id(conv) in shared:
        return "shared between several places of the model"
    reasons = []
    for owner in _enclosing(path):
        module = model.get_submodule(owner)
        if isinstance(module, (nn.ModuleList, nn.ModuleDict)):
            continue
        if (why := why_opaque(module)) is not None:
            return why
        if owner not in cache:
            with as_stock(module):
                cache[owner] = analyses(module, shared, inline=True)
        analysis = cache[owner][model.training]
        if analysis.stays or analysis.graph is None:
            return analysis.reason
        reasons.append(_graph_reason(analysis, module, path[len(owner) + 1 :] if owner else path, shared))
        if reasons[-1] is not None:
            return reasons[-1]
    return "no module's forward calls it"


def _enclosing(path):
    """Paths of the modules around `path`, innermost first, the root last."""
    parts = path.split(".")[:-1]
    return [".".join(parts[:i]) for i in range(len(parts), -1, -1)]


def _graph_reason(analysis, module, target, shared) -> str | None:
    """What stands behind the convolution in the forward that calls it; None if this forward does not."""
    node = next((n for n in analysis.graph.nodes if n.op == "call_module" and n.target == target), None)
    if node is None:
        return None
    matcher = Matcher(analysis.graph, module, shared)
    if len(node.users) != 1:
        return f"its output is used {len(node.users)} times"
    behind = next(iter(node.users))
    batch_norm = matcher.module(behind)
    if batch_norm is not None and is_batch_norm(batch_norm):
        if (why := why_not_batch_norm(batch_norm)) is not None:
            return f"its batch norm has {why}"
        node = behind
        behind = next(iter(behind.users), None)
    if behind is None or behind.op == "output":
        return "no activation behind it"
    if len(node.users) > 1:
        return f"its batch norm's output is used {len(node.users)} times"
    return f"followed by {matcher.describe(behind)}"


# ---- with an input ---------------------------------------------------------------------------------------------------


def _fake_run(model, input):
    paths = {id(m): name for name, m in model.named_modules()}
    runs: list[Run] = []
    ops: dict[str, set[str]] = {}

    def on_unit(unit, x, modules, shapes, plan, spec):
        units = [*spec.units, *([spec.projection] if spec.projection else [])]
        stats = "/".join(dict.fromkeys(u.norm for u in units))
        cost = planner.chain_cost(
            shapes, plan, x.element_size(), torch.is_grad_enabled(), unit.depth, unit.shortcut != "none"
        )
        path = paths[id(modules[0])].rpartition(".")[0] or "(root)"
        engine = "own" if plan.prologue else "library"
        runs.append(Run(path, unit.kind, tuple(x.shape), stats, plan.fold, plan.recompute, engine, cost))

    fake = FakeTensorMode()
    state = {n: fake.from_tensor(t) for n, t in (*model.named_parameters(), *model.named_buffers())}
    with fake, record(on_unit), backends.observe(lambda op, name: ops.setdefault(op, set()).add(name)):
        torch.func.functional_call(model, state, (fake.from_tensor(input),))
    return runs, {op: "+".join(sorted(names)) for op, names in ops.items()}
