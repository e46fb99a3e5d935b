"""The commands: degradation, shortcuts, family, responses; cost, bottleneck.

Exit status: 0 done, 1 a training failed, 2 an option is wrong (nothing has run).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pandas
import torch
import typer

from fused_resnet.analysis import conditions
from fused_resnet.analysis.device import device_named
from fused_resnet.analysis.printing import Printer
from fused_resnet.planner import MEMORY_MODES

from . import bottleneck as bottlenecks
from . import cost as costs
from . import curves, output, tables
from . import responses as layers
from .data import Images, cifar10, handwritten_digits
from .experiments import EXPERIMENTS, Experiment, recipe_of, train_all
from .family import large_networks, large_networks_table
from .measured import LEAST_SIZE
from .networks import build
from .recipes import DIGITS, SmallImageRecipe
from .training import Row, Run, Training

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's messages, of GPUs that are not there

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Data = Annotated[
    Path | None,
    typer.Option(help="Folder with CIFAR-10's cifar-10-batches-py; without it, handwritten digits."),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder; a resume finds its checkpoints there.")]
Seeds = Annotated[
    list[int], typer.Option("--seed", min=0, help="Of weights, order and augmentation (several).")
]
Epochs = Annotated[
    int | None, typer.Option(min=1, help="Instead of the recipe's; its milestones stay at the same shares.")
]
Full = Annotated[
    bool, typer.Option("--full", help="More networks, for more time: of 8 and 110 layers, and wide ones.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")]
Memory = Annotated[str, typer.Option(help="speed, balanced or min: what a fused network keeps.")]
Fused = Annotated[bool, typer.Option("--fused/--stock", help="Train with fused_resnet.fuse, or without.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0: as many as torch takes.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON; everything else goes to standard error.")]
Batch = Annotated[int, typer.Option(min=1, help="Images.")]
Size = Annotated[int, typer.Option(min=LEAST_SIZE, help="Height and width of an image.")]
Rounds = Annotated[int, typer.Option(min=1, help="Timed runs of each.")]

OUT = Path("out/study")
SEEDS = [0, 1, 2]


@app.callback()
def main() -> None:
    """The experiments of "Deep Residual Learning" with fused blocks.

    Trainings go on where they were interrupted; several processes may share a folder if their seeds differ.
    """


@dataclass(frozen=True)
class Setting:
    """What the experiments that train have in common, checked."""

    images: Images
    folder: Path
    seeds: tuple[int, ...]
    epochs: int | None
    device: torch.device
    memory: str
    fused: bool
    printer: Printer

    def runs(self, networks: tuple[str, ...]) -> list[Run]:
        """Seed by seed, so that whoever stops early has every network."""
        return [Run(name, self.recipe(name), seed, self.fused) for seed in self.seeds for name in networks]

    def recipe(self, network: str) -> SmallImageRecipe:
        recipe = recipe_of(network, self.images)
        if self.epochs is None:
            return recipe
        return recipe.shortened(self.epochs * (len(self.images.train) // recipe.batch))

    def train(self, title: str, networks: tuple[str, ...]) -> dict[Run, list[Row]]:
        try:
            return train_all(
                self.runs(networks), self.images, self.checkpoints, self.memory, self.printer.console, title
            )
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        except FloatingPointError as error:
            self.printer.line(str(error), style="red")
            raise typer.Exit(1) from None

    @property
    def checkpoints(self) -> Path:
        return self.folder / "runs"

    def described(self, networks: tuple[str, ...]) -> dict[str, Any]:
        recipes = {recipe.name: asdict(recipe) for recipe in map(self.recipe, networks)}
        return {
            "data": self.images.name,
            "seeds": list(self.seeds),
            "fused": self.fused,
            "memory": self.memory,
            "recipes": recipes,
        }


def _compare(experiment: Experiment, setting: Setting, full: bool) -> None:
    """Train what the experiment compares; print the errors in the end, draw those of every epoch."""
    panels = experiment.full if full else experiment.panels
    networks = tuple(name for names in panels.values() for name in names)
    document: dict[str, Any] = {}
    if experiment.counts_large:
        large = large_networks()
        setting.printer.console.print(large_networks_table(large))
        document["large networks"] = large.to_dict("records")
    found = setting.train(experiment.name, networks)
    frame = tables.epochs(found, setting.images.name)
    frame = frame.sort_values("network", key=lambda names: names.map(networks.index), kind="stable")
    summary = tables.errors(frame, setting.images.size)
    document["errors"] = summary.to_dict("records")
    title = f"{experiment.name} on {setting.images.name}, mean ± deviation (range) over seeds, last epoch"
    setting.printer.console.print(tables.errors_table(summary, title))
    _write(setting, experiment.name, frame, lambda: curves.draw(frame, panels, setting.images.name), networks)
    setting.printer.document(document)


def _responses(setting: Setting, full: bool) -> None:
    """Standard deviations of the 3x3 layers' outputs after BN (figure 7), and their first gradients.

    Of the networks of `degradation`; those that are not in the folder yet are trained.
    """
    networks = ("plain-20", "plain-56", "resnet-20", "resnet-56", *(("resnet-110",) if full else ()))
    found = setting.train("responses", networks)
    models = {
        (run.network, run.seed): (
            Training(run, setting.images, setting.checkpoints, setting.memory).model,
            build(run.network, run.seed).to(setting.device),
        )
        for run in found
    }
    frame = layers.responses(models, setting.images, DIGITS.batch)
    _write(setting, "responses", frame, lambda: layers.draw(frame, networks), networks)
    by_seed = frame.groupby(["network", "seed"], sort=False)["deviation"].mean()
    of_network = by_seed.groupby("network", sort=False).mean()
    setting.printer.lines({name: f"mean deviation {value:.3f}" for name, value in of_network.items()})
    setting.printer.document({"mean deviation": of_network.to_dict()})


def _write(
    setting: Setting, name: str, frame: pandas.DataFrame, draw: Any, networks: tuple[str, ...]
) -> None:
    for path in output.write(setting.folder, name, frame, draw, setting.device, setting.described(networks)):
        setting.printer.line(f"written: {path}")


def _add_training(name: str, help: str | None, run: Callable[[Setting, bool], None]) -> None:
    """A command that trains. Args: run: gets the setting, and whether --full was given."""

    def command(
        full: Full = False,
        data: Data = None,
        output: Output = OUT,
        seed: Seeds = SEEDS,
        epochs: Epochs = None,
        device: Device = "cpu",
        memory: Memory = "balanced",
        fused: Fused = True,
        threads: Threads = 0,
        as_json: AsJson = False,
    ) -> None:
        run(_setting(data, output, seed, epochs, device, memory, fused, threads, as_json), full)

    app.command(name, help=help)(command)


for _experiment in EXPERIMENTS:
    _add_training(_experiment.name, _experiment.help, partial(_compare, _experiment))
_add_training("responses", _responses.__doc__, _responses)


# ---- what is measured and not trained ------------------------------------------------------------


def _add_measuring(name: str, help: str, run: Any, draw: Any) -> None:
    """A command that measures. Args: run: gives a table; draw: its drawing."""

    def command(
        batch: Batch = 8,
        size: Size = 224,
        rounds: Rounds = 7,
        folder: Annotated[Path, typer.Option("--output", "-o", help="Folder.")] = OUT,
        device: Device = "cpu",
        memory: Memory = "balanced",
        threads: Threads = 0,
        as_json: AsJson = False,
    ) -> None:
        where, printer = _device(device), _printer(as_json, threads)
        _check_memory(memory)
        setting = {"batch": batch, "size": size, "rounds": rounds, "memory": memory}
        printer.lines(conditions(where))
        frame = run(printer, **setting, device=where)
        for path in output.write(folder, name, frame, lambda: draw(frame), where, setting):
            printer.line(f"written: {path}")
        printer.document({"rows": frame.to_dict("records")})

    app.command(name, help=help)(command)


_add_measuring(
    "cost",
    "Table 1: parameters and multiply-adds of 18 to 152 layers, beside measured times and memory.",
    costs.cost,
    costs.draw,
)
_add_measuring(
    "bottleneck",
    "Basic against bottleneck blocks at equal cost (figure 5): counted, and measured stock and fused.",
    bottlenecks.bottleneck,
    bottlenecks.draw,
)


# ---- options -------------------------------------------------------------------------------------


def _setting(
    data: Path | None,
    folder: Path,
    seeds: list[int],
    epochs: int | None,
    device: str,
    memory: str,
    fused: bool,
    threads: int,
    as_json: bool,
) -> Setting:
    where = _device(device)
    _check_memory(memory)
    if len(set(seeds)) != len(seeds):
        raise typer.BadParameter(f"seed: expected different ones, got {seeds}")
    try:
        images = handwritten_digits() if data is None else cifar10(data)
    except (OSError, ImportError) as error:
        raise typer.BadParameter(str(error)) from None
    printer = _printer(as_json, threads)
    printer.lines(conditions(where))
    folder = folder / images.name
    return Setting(images.to(where), folder, tuple(seeds), epochs, where, memory, fused, printer)


def _printer(as_json: bool, threads: int) -> Printer:
    if threads:
        torch.set_num_threads(threads)
    return Printer(as_json, width=150)


def _check_memory(memory: str) -> None:
    if memory not in MEMORY_MODES:
        raise typer.BadParameter(f"memory: expected one of {', '.join(MEMORY_MODES)}, got {memory!r}")


def _device(name: str) -> torch.device:
    try:
        return device_named(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
