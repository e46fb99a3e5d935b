"""What can be asked for, and what cannot: everything is checked before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision

import fused_resnet
from fused_resnet.study.recipes import IMAGENET

RECIPES = ("standard", "paper")
TESTS = ("centre", "ten-crop", "multi-scale")
DTYPES = {"fp32": torch.float32, "fp64": torch.float64}
AMP = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MEMORY = ("speed", "balanced", "min")
BATCH, MILESTONES = 32, (30, 60)  # of the standard recipe


@dataclass(frozen=True)
class Options:
    """The command line, complete. `train_imagenet.py` says what each option means."""

    data: Path
    output: Path
    arch: str
    fused: bool
    memory: str
    recipe: str
    epochs: int
    batch: int
    lr: float
    milestones: tuple[int, ...]
    momentum: float
    weight_decay: float
    size: int
    tests: tuple[str, ...]
    amp: str
    dtype: str
    channels_last: bool
    sync_bn: bool
    ema: float | None
    compile: bool
    cuda_graph: bool
    deterministic: bool
    workers: int
    seed: int
    checkpoint_every: int
    stop_after: int
    resume: bool
    restart: bool
    allow_rounding: bool

    @property
    def checkpoint(self) -> Path:
        return self.output / "checkpoint.pt"

    @property
    def amp_dtype(self) -> torch.dtype | None:
        return AMP[self.amp]

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def of(self, *names: str) -> dict[str, object]:
        """Some of the options by name; tuples as lists, which a checkpoint gives back."""
        values = ((name, getattr(self, name)) for name in names)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values}


# What a checkpoint is bound to. TRAINING decides what is computed; ARITHMETIC only in which order and with
# which kernels, so that a resume with others goes on with the same training and other last bits.
TRAINING = (
    *("arch", "recipe", "batch", "lr", "milestones", "momentum", "weight_decay", "size"),
    *("amp", "dtype", "sync_bn", "ema", "seed"),
)
ARITHMETIC = ("fused", "memory", "channels_last", "compile", "cuda_graph", "deterministic")


def complete(given: dict[str, Any], processes: int) -> Options:
    """The command line's arguments by name; what is None there is as the recipe has it.

    Raises:
        ValueError: the recipe is unknown, cannot be shared by so many processes, or has no milestones.
    """
    given = dict(given)
    milestones, tests = given.pop("milestone"), given.pop("test")
    _one_of("--recipe", given["recipe"], RECIPES)
    paper = given["recipe"] == "paper"
    if paper and milestones:
        raise ValueError("--milestone and --recipe paper, whose rate falls at plateaus: only one of them")
    if given["batch"] is None:
        given["batch"] = _share(IMAGENET.batch, processes) if paper else BATCH
    milestones = tuple(milestones or (() if paper else MILESTONES))
    return Options(milestones=milestones, tests=tuple(dict.fromkeys(tests or ())), **given)


def _share(batch: int, processes: int) -> int:
    if batch % processes:
        raise ValueError(
            f"--recipe paper: {batch} images per step cannot be shared by {processes} processes; "
            "give --batch, images per step and process"
        )
    return batch // processes


def architectures() -> tuple[str, ...]:
    """torchvision's ResNets, then those of `fused_resnet.models` that it lacks."""
    families = ("resnet", "resnext", "wide_resnet")
    theirs = [name for name in torchvision.models.list_models() if name.startswith(families)]
    return (*theirs, *(name for name in fused_resnet.models.names() if name not in theirs))


def check(options: Options, processes: int, cuda: bool) -> None:
    """Every rule that needs no image and no weight.

    Args:
        processes: how many train together; cuda: on GPUs?

    Raises:
        ValueError: an option is out of range, or two do not go together.
        FileNotFoundError: a folder of images or the checkpoint to resume is missing.
        FileExistsError: a checkpoint would be overwritten.
    """
    _one_of("--arch", options.arch, architectures())
    _one_of("--memory", options.memory, MEMORY)
    _one_of("--amp", options.amp, tuple(AMP))
    _one_of("--dtype", options.dtype, tuple(DTYPES))
    for test in options.tests:
        _one_of("--test", test, TESTS)
    for name in ("epochs", "batch", "size"):
        _at_least(1, name, getattr(options, name))
    for name in ("workers", "seed", "checkpoint_every", "stop_after", "weight_decay", "momentum"):
        _at_least(0, name, getattr(options, name))
    if not options.lr > 0:
        raise ValueError(f"--lr must be above 0, got {options.lr}")
    if list(options.milestones) != sorted(set(options.milestones)) or min(options.milestones, default=1) < 1:
        raise ValueError(f"--milestone: epochs from 1 on, rising, expected; got {list(options.milestones)}")
    if options.ema is not None and not 0 < options.ema < 1:
        raise ValueError(f"--ema must be between 0 and 1, got {options.ema}")
    _check_combinations(options, processes, cuda)
    _check_paths(options)


def _check_combinations(options: Options, processes: int, cuda: bool) -> None:
    if options.dtype == "fp64" and options.amp != "none":
        raise ValueError(f"--dtype fp64 goes with --amp none, got --amp {options.amp}")
    if options.cuda_graph and not cuda:
        raise ValueError("--cuda-graph needs a CUDA device, and torch.cuda.is_available() is False")
    if options.cuda_graph and options.compile:
        raise ValueError("--cuda-graph and --compile: only one of them, got both")
    if options.cuda_graph and options.sync_bn and processes > 1:
        raise ValueError("--cuda-graph and --sync-bn: the graph would hold collectives; only one of them")
    if options.sync_bn and not options.fused and not cuda and processes > 1:
        raise ValueError(
            "--sync-bn with --stock: torch's SyncBatchNorm runs on GPUs only; fused runs here, too"
        )
    if options.resume and options.restart:
        raise ValueError("--resume and --restart: only one of them, got both")


def _check_paths(options: Options) -> None:
    for part in ("train", "val"):
        if not (options.data / part).is_dir():
            raise FileNotFoundError(f"DATA must have a folder {part!r} of folders of images: {options.data}")
    there = options.checkpoint.exists()
    if options.resume and not there:
        raise FileNotFoundError(f"--resume: no checkpoint at {options.checkpoint}")
    if there and not (options.resume or options.restart):
        raise FileExistsError(f"{options.checkpoint} exists: --resume it, or choose another --output")


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{option} must be one of {', '.join(known)}; got {value!r}")


def _at_least(least: int, name: str, value: float) -> None:
    if not value >= least:
        raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
