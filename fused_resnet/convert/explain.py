"""What was fused and how, what was left alone and why, and what a run moves and computes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn as nn

from .. import backends, planner
from ..nn import FusedUnit, record
from ..nn.plain import is_batch_norm, why_not_convolution
from .analyse import Analysis, analyses
from .match import Matcher
from .module import FusedModule, as_stock, is_fused
from .pretend import pretending
from .survey import Survey, has_forward, join, shared_modules, survey, why_opaque

WIDTH = 120  # of the printed tables
RUN_COLUMNS = (
    *("unit", "kind", "input", "statistics", "folded", "recomputed", "engine"),
    *("MB moved", "MB kept", "GMAC"),
)


@dataclass(frozen=True)
class Row:
    """One fused unit (reason None) or one convolution left alone (kind None).

    path: of the module whose forward is fused, or of the convolution; modules: full names of the
    convolutions, batch norms and (at the end) zero-padding shortcut or max-pool of the unit.
    """

    path: str
    kind: str | None
    modules: tuple[str, ...]
    shortcut: str = ""
    reason: str | None = None


@dataclass(frozen=True)
class Run:
    """One fused unit in one run on an input: shape, plan, predicted cost (bounds from shapes).

    folded, engines: of each convolution, the projection's last.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    statistics: str
    folded: tuple[bool, ...]
    recomputed: bool
    engines: tuple[str, ...]
    cost: planner.Cost


@dataclass(frozen=True)
class Explanation:
    """The rows; ``str()`` gives tables. `runs` and `backends` (op → their names) only with an input."""

    fused: list[Row]
    left: list[Row]
    runs: list[Run] = field(default_factory=list)
    backends: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        from rich.console import Console

        out = io.StringIO()
        console = Console(file=out, width=WIDTH, color_system=None)
        for table in self._tables():
            console.print(table)
        if self.backends:
            taken = (f"{op} by {name}" for op, name in sorted(self.backends.items()))
            console.print("ops: " + ", ".join(taken))
        return out.getvalue()

    def _tables(self):
        if self.runs:
            yield _table(
                "fused units on this input (bytes and multiply-adds of one pass: counted, not measured)",
                RUN_COLUMNS,
                [_run_cells(r) for r in self.runs],
            )
        else:
            cells = [(r.path or "(root)", r.kind, r.shortcut, _relative(r)) for r in self.fused]
            yield _table("fused", ("module", "unit", "shortcut", "of"), cells)
        if self.left:
            yield _table("left alone", ("convolution", "because"), [(r.path, r.reason) for r in self.left])


def _relative(row: Row) -> str:
    """The names of a unit's modules as its module calls them."""
    start = len(row.path) + 1 if row.path else 0
    return " ".join(name[start:] for name in row.modules)


def _run_cells(run: Run):
    shape = "x".join(map(str, run.shape))
    folded = "".join("x" if f else "-" for f in run.folded)
    plan = [run.statistics, folded, "yes" if run.recomputed else "no", _in_short(run.engines)]
    moved, macs, kept = run.cost
    return run.path, run.kind, shape, *plan, f"{moved / 1e6:.1f}", f"{kept / 1e6:.1f}", f"{macs / 1e9:.2f}"


def _in_short(names: tuple[str, ...]) -> str:
    """One name where all are the same."""
    return names[0] if len(set(names)) == 1 else " ".join(names)


def _table(title, columns, rows):
    from rich.table import Table

    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(str(c) for c in row))
    return table


def explain(
    model: nn.Module, input: torch.Tensor | None = None, device: torch.device | str | None = None
) -> Explanation:
    """Say what `fuse` did to a model, or would leave alone in it.

    Args:
        model: any module, fused or not; it is not changed.
        input: optional example ``[N, C, H, W]``: with it the model is run on fake tensors (no memory, no
            time, running statistics untouched) and every unit's shapes, plan, backends, bytes and
            multiply-adds are listed.
        device: where that run pretends to be: ``"cuda"`` shows a GPU's plan on a machine without one. None:
            where the model and the input are.

    Returns: an `Explanation`; print it. Raises: TypeError if model is no module or input no tensor.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if input is not None and not isinstance(input, torch.Tensor):
        raise TypeError(f"input: expected a tensor, got {type(input).__name__}")
    modules = [(path, m) for path, m in model.named_modules() if is_fused(m)]
    fused = [row for path, module in modules for row in _fused_rows(path, module)]
    with as_stock(model):
        left = list(_left_alone(model, {name for row in fused for name in row.modules}))
    if input is None:
        return Explanation(fused, left)
    runs, ops = _fake_run(model, input, device, {model.get_submodule(r.modules[0]): r.path for r in fused})
    return Explanation(fused, left, runs, ops)


def _fused_rows(path: str, module: FusedModule) -> Iterator[Row]:
    made = list(module._fused_programs.items())
    same = len(made) == 2 and made[0][1].units == made[1][1].units
    for training, program in made[:1] if same else made:
        mode = "" if same else (" (train)" if training else " (eval)")
        for unit, names in program.units:
            shortcut = "" if unit.shortcut == "none" else unit.shortcut
            absorbed = tuple(join(path, n) for n in _kept_names(unit, names))
            yield Row(path, unit.kind + mode, absorbed, shortcut)


def _kept_names(unit: FusedUnit, names) -> list[str]:
    """A unit's modules but for the activations."""
    return [n for i, n in enumerate(names) if n is not None and (i >= 3 * unit.depth or i % 3 != 2)]


# ---- why a convolution was left alone ------------------------------------------------------------


def _is_convolution(module) -> bool:
    """Of any class: quantised, lazy, parametrized and scripted ones are subclasses or carry the name."""
    name = getattr(module, "original_name", type(module).__name__)
    return "Conv" in name and not any(_is_convolution(c) for c in module.children())


def _left_alone(model: nn.Module, absorbed: set[str]) -> Iterator[Row]:
    """Args: a model of stock classes; names of the modules in fused units."""
    left = {n: m for n, m in model.named_modules() if _is_convolution(m) and n not in absorbed}
    if left:
        reasons = _Reasons(model)
        for path, conv in left.items():
            yield Row(path, None, (path,), reason=reasons.of(path, conv))


class _Reasons:
    """Why the convolutions of a model of stock classes are not fused."""

    def __init__(self, model: nn.Module):
        self.model, self.shared = model, shared_modules(model)
        self.survey: Survey = survey(model, self.shared)
        self.analyses: dict[str, Analysis] = {}
        self.fusible = {
            join(path, target): match.kind
            for path, (_, found) in self.survey.rewrites.items()
            for analysis in found.values()
            for match in analysis.matches
            for target in match.targets
        }

    def of(self, path: str, conv: nn.Module) -> str:
        if (why := why_not_convolution(conv)) is not None:
            return why
        if id(conv) in self.shared:
            return "shared between several places of the model"
        if path in self.fusible:
            return f"not fused yet: fuse() makes it part of a {self.fusible[path]}"
        around = [path, *_enclosing(path)]
        if (why := next((self.survey.stays[p] for p in around if p in self.survey.stays), None)) is not None:
            return why
        found = (self._in_forward_of(owner, path) for owner in around[1:])
        return next((why for why in found if why is not None), "no module's forward calls it")

    def _in_forward_of(self, owner: str, path: str) -> str | None:
        """Why the owner's forward leaves the convolution; None if that does not call it."""
        module = self.model.get_submodule(owner)
        if not has_forward(module):
            return None
        if (why := why_opaque(module)) is not None:
            return why
        if owner not in self.analyses:
            self.analyses[owner] = analyses(module, self.shared, inline=True)[self.model.training]
        analysis = self.analyses[owner]
        if analysis.traced is None:
            return analysis.reason
        return _graph_reason(analysis, module, path[len(owner) + 1 :] if owner else path, self.shared)


def _enclosing(path: str) -> list[str]:
    """Paths of the modules around `path`, innermost first, the root last."""
    parts = path.split(".")[:-1]
    return [".".join(parts[:i]) for i in range(len(parts), -1, -1)]


def _graph_reason(analysis, module, target, shared) -> str | None:
    """What stands behind the convolution in the forward that calls it; None if this forward does not."""
    calls = (n for n in analysis.traced.graph.nodes if n.op == "call_module")
    node = next((n for n in calls if n.target == target), None)
    if node is None:
        return None
    matcher = Matcher(analysis.traced.graph, module, shared)
    if (why := matcher.why_not_layer(node)) is not None:
        return why
    name = "its output"
    behind = matcher.only_user(node)
    if behind is not None and is_batch_norm(matcher.module(behind)):
        if (why := matcher.why_not_layer(behind)) is not None:
            return f"its batch norm: {why}"
        name, node, behind = "its batch norm's output", behind, matcher.only_user(behind)
    if behind is None:
        return f"{name} is used {len(node.users)} times"
    if behind.op == "output":
        return "no activation behind it"
    return f"followed by {matcher.describe(behind)}"


# ---- with an input -------------------------------------------------------------------------------


def _fake_run(model, input, device, paths):
    """Every fused unit's plan and the backends of all ops.

    Args: paths: of the fused modules, by first convolution.
    """
    runs: list[Run] = []
    ops: dict[str, set[str]] = {}

    def on_unit(unit, x, modules, shapes, plan, spec):
        units = [*spec.units, *([spec.projection] if spec.projection else [])]
        stats = "/".join(dict.fromkeys(u.norm for u in units))
        cost = planner.chain_cost(
            shapes, plan, x.element_size(), torch.is_grad_enabled(), unit.depth, unit.shortcut != "none"
        )
        path = paths[modules[0]] or "(root)"
        shape = tuple(x.shape)
        runs.append(Run(path, unit.kind, shape, stats, plan.fold, plan.recompute, plan.engines, cost))

    observe = backends.observe(lambda op, name: ops.setdefault(op, set()).add(name))
    with pretending(model, input, device) as pretence, record(on_unit), observe:
        pretence.call()
    return runs, {op: "+".join(sorted(names)) for op, names in ops.items()}
