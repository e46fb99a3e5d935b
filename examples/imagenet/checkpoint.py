"""Checkpoints: whole or not at all, and only for the training that they were made by."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import torch

from fused_resnet import __version__

from .job import Job
from .options import ARITHMETIC, TRAINING, Options

FORMAT = 1


def write(path: Path, state: dict[str, Any]) -> None:
    """Write `state`. Whoever reads, and whatever breaks meanwhile, `path` is the old file or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too, has to survive a loss of power
    finally:
        os.close(folder)


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote, on the CPU: tensors and plain values, nothing that runs when it is loaded.

    Raises:
        ValueError: of another format.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    if state.get("format") != FORMAT:
        raise ValueError(f"{path}: expected a checkpoint of format {FORMAT}, got {state.get('format')!r}")
    return state


def identity(options: Options, job: Job, files: str) -> dict[str, dict[str, Any]]:
    """What a resume has to have in common with the run that wrote: what is computed, and how.

    Args: files: `fingerprint` of the training images.
    """
    device = torch.cuda.get_device_name(job.device) if job.device.type == "cuda" else _processor()
    machine = {
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "fused_resnet": __version__,
    }
    return {
        "training": options.of(*TRAINING) | {"processes": job.processes, "training images": files},
        "arithmetic": options.of(*ARITHMETIC) | machine,
    }


def _processor() -> str:
    return f"CPU with {torch.backends.cpu.get_cpu_capability()}"


def check_identity(
    saved: dict[str, dict[str, Any]], here: dict[str, dict[str, Any]], allow_rounding: bool
) -> None:
    """Refuse to go on with another training; with other roundings, too, unless they are allowed.

    Raises:
        ValueError: naming what differs.
    """
    if found := _differences(saved["training"], here["training"]):
        raise ValueError(f"the checkpoint is of another training: {found}")
    found = _differences(saved["arithmetic"], here["arithmetic"])
    if found and not allow_rounding:
        raise ValueError(
            f"the checkpoint was made with other roundings: {found}; --allow-rounding goes on with the same "
            "training, but not bit for bit"
        )


def _differences(saved: dict[str, Any], here: dict[str, Any]) -> str:
    names = [name for name in {**saved, **here} if saved.get(name) != here.get(name)]
    return ", ".join(f"{name} was {saved.get(name)!r}, is {here.get(name)!r}" for name in names)


def random_state(device: torch.device) -> dict[str, Any]:
    """The generators of this process: torch's on CPU and GPU, and Python's."""
    version, values, gauss = random.getstate()
    state = {"torch": torch.get_rng_state(), "python": [version, list(values), gauss]}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Undo what happened since `random_state`."""
    version, values, gauss = state["python"]
    random.setstate((version, tuple(values), gauss))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
