"""Trains a ResNet on a folder of images, stock or fused, on one process or on many.

    python examples/train_imagenet.py DATA --output out/resnet50
    torchrun --nproc-per-node 8 examples/train_imagenet.py DATA --output out/resnet50 --sync-bn

DATA has train/<class>/*.jpg and val/<class>/*.jpg (or png, and the like). It is SGD with momentum and weight
decay; --recipe says how images are varied and when the rate falls: `standard` has crops of random size and
milestones, `paper` what He et al. 2015 had. Every epoch prints one line and is a row of OUTPUT/log.csv.
OUTPUT/checkpoint.pt is written when it ends; a resume goes on from there bit for bit. Every --test of the
trained network prints one line and is a row of OUTPUT/tests.csv.

Exit status: 0 trained to the end, 2 an option is wrong (nothing has run), 75 stopped by --stop-after, 1 else.
Under torchrun, which has statuses of its own, 0 or 1.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from imagenet import testing
from imagenet.data import folders
from imagenet.engine import Stopped, Training
from imagenet.job import Job, processes, started
from imagenet.options import Options, check, complete
from rich.console import Console
from typer import Argument, Option

import fused_resnet
from fused_resnet.study.recipes import IMAGENET

STOPPED = 75  # EX_TEMPFAIL: try again

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    data: Annotated[Path, Argument(help="Folder with train/<class>/ and val/<class>/.")],
    output: Annotated[Path, Option(help="Folder for checkpoint.pt, log.csv and tests.csv.")],
    arch: Annotated[str, Option(help="A torchvision ResNet or a name of fused_resnet.models.")] = "resnet50",
    fused: Annotated[bool, Option("--fused/--stock", help="fused_resnet.fuse, or not.")] = True,
    memory: Annotated[str, Option(help="speed, balanced or min: what a fused network keeps.")] = "balanced",
    recipe: Annotated[str, Option(help="standard or paper: augmentation and rate.")] = "standard",
    epochs: Annotated[int, Option(help="Epochs in all.")] = IMAGENET.epochs,
    batch: Annotated[
        int | None,
        Option(help="Images per step and process.", show_default="32; paper: 256 over all processes"),
    ] = None,
    lr: Annotated[
        float, Option(help="Rate at the start; 0.1 is meant for 256 images per step.")
    ] = IMAGENET.lr,
    milestone: Annotated[
        list[int] | None,
        Option(help="Epochs done when the rate falls to a tenth.", show_default="30, 60; paper: plateaus"),
    ] = None,
    momentum: Annotated[float, Option(help="Of SGD.")] = IMAGENET.momentum,
    weight_decay: Annotated[float, Option(help="Of all parameters.")] = IMAGENET.weight_decay,
    size: Annotated[int, Option(help="Side of the images in pixels.")] = IMAGENET.crop,
    test: Annotated[
        list[str] | None, Option(help="centre, ten-crop or multi-scale: when trained; may be repeated.")
    ] = None,
    amp: Annotated[str, Option(help="none, bf16 or fp16 (with a gradient scaler).")] = "none",
    dtype: Annotated[str, Option(help="fp32; fp64 compares runs beyond rounding.")] = "fp32",
    channels_last: Annotated[bool, Option(help="NHWC in memory, which the fused kernels want.")] = True,
    sync_bn: Annotated[bool, Option("--sync-bn", help="Batch statistics over all processes.")] = False,
    ema: Annotated[float | None, Option(help="Decay of an average over steps, e.g. 0.9999.")] = None,
    compile: Annotated[bool, Option("--compile", help="torch.compile the training step.")] = False,
    cuda_graph: Annotated[bool, Option("--cuda-graph", help="Capture forward and backward.")] = False,
    deterministic: Annotated[bool, Option("--deterministic", help="Same bits in every run.")] = False,
    workers: Annotated[int, Option(help="Processes that load images, per process that trains.")] = 4,
    seed: Annotated[int, Option(help="Of weights, order and augmentation.")] = 0,
    checkpoint_every: Annotated[int, Option(help="Also after every so many steps of an epoch; 0: no.")] = 0,
    stop_after: Annotated[int, Option(help="Write a checkpoint after so many steps and end; 0: no.")] = 0,
    resume: Annotated[bool, Option("--resume", help="Go on from OUTPUT/checkpoint.pt.")] = False,
    restart: Annotated[bool, Option("--restart", help="The same if it is there, else begin.")] = False,
    allow_rounding: Annotated[
        bool, Option("--allow-rounding", help="Resume with other kernels, layout, memory mode or machine.")
    ] = False,
) -> None:
    """Train on a folder of images."""
    given = dict(locals())
    try:
        options = complete(given, processes())
        check(options, processes(), torch.cuda.is_available())
        images = folders(options, processes())
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    if deterministic:
        repeat_bits()
    with started() as job:
        if not train(options, images, job):
            raise typer.Exit(STOPPED)


def repeat_bits() -> None:
    """The same bits in every run on the same machine.

    Kernels that vary are errors, and fused units take engines by rule: measured anew, another one may win.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    fused_resnet.tuning.policy("off")


def train(options: Options, images: Any, job: Job) -> bool:
    """Train and test. Whether the last epoch was done."""
    console = Console(quiet=not job.first)
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        training = Training(options, images, job, console)
        testing.check(options, training.model.net)
        if found := options.checkpoint.exists():
            training.load()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    where = f"{options.checkpoint}, {training.step} steps into epoch" if found else "the beginning, epoch"
    console.print(
        f"{job.processes} x {job.device.type}, from {where} {training.epoch + 1}",
        highlight=False,
        soft_wrap=True,
    )
    try:
        training.run()
    except Stopped:
        console.print(f"stopped after {options.stop_after} steps: {options.checkpoint}", soft_wrap=True)
        return False
    testing.run(training.model, options, job, console)
    return True


if __name__ == "__main__":
    app()
