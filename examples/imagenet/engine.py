"""The loop: steps, epochs, evaluation, and everything that a checkpoint has to hold."""

from __future__ import annotations

import math
import random
import time
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn
from torchvision.datasets import ImageFolder

from fused_resnet.analysis.progress import Ticker

from . import checkpoint
from .data import fingerprint, loaders
from .job import Job
from .model import autocast, placed, prepare
from .options import DTYPES, Options
from .results import line, means, tally, write_rows
from .schedule import schedule


class Stopped(Exception):
    """--stop-after was reached: a checkpoint is written, the training is not done."""


class Training:
    """One training, from its first step or from a checkpoint's."""

    def __init__(
        self, options: Options, folders: tuple[ImageFolder, ImageFolder], job: Job, console: Console
    ) -> None:
        self.options, self.job, self.console = options, job, console
        train, _ = folders
        self.identity = checkpoint.identity(options, job, fingerprint(train))
        self.loader, self.batches, self.val_loader = loaders(*folders, options, job)
        self.model = prepare(options, job, len(train.classes))
        self.optimizer = torch.optim.SGD(
            self.model.net.parameters(),
            lr=options.lr,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )
        self.schedule = schedule(options, self.optimizer)
        self.scaler = torch.amp.GradScaler(job.device.type, enabled=options.amp_dtype == torch.float16)
        self.epoch = self.step = self.steps_of_this_run = 0
        self.sums = torch.zeros(4, dtype=torch.float64, device=job.device)  # of this epoch, here
        self.history: list[dict[str, float]] = []
        # For what draws while it trains, as dropout does: other numbers on every process.
        torch.manual_seed(options.seed + job.rank)
        random.seed(options.seed + job.rank)

    # ---- what a checkpoint holds -----------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint. All processes call it: each has random numbers and sums of its own."""
        mine = {"random": checkpoint.random_state(self.job.device), "sums": self.sums.cpu()}
        ranks = self.job.gather(mine)
        if self.job.first:
            checkpoint.write(self.options.checkpoint, self.state(ranks))

    def state(self, ranks: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "format": checkpoint.FORMAT,
            "identity": self.identity,
            "epoch": self.epoch,
            "step": self.step,
            "model": self.model.net.state_dict(),
            "ema": self.model.ema.state_dict() if self.model.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": self.history,
            "ranks": ranks,
        }

    def load(self) -> None:
        """Go on where the checkpoint was written.

        Raises:
            ValueError: it is of another training, or of other roundings that were not allowed.
        """
        state = checkpoint.read(self.options.checkpoint)
        checkpoint.check_identity(state["identity"], self.identity, self.options.allow_rounding)
        self.epoch, self.step, self.history = state["epoch"], state["step"], state["history"]
        self.model.net.load_state_dict(state["model"])
        if self.model.ema:
            self.model.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        mine = state["ranks"][self.job.rank]
        self.sums.copy_(mine["sums"])
        checkpoint.set_random_state(mine["random"], self.job.device)

    # ---- the loop --------------------------------------------------------------------------------

    def run(self) -> None:
        """Train until the last epoch is done.

        Raises:
            Stopped: by --stop-after.
            FloatingPointError: the loss of an epoch is no number.
        """
        self.write_log()  # a run that was killed may have written the checkpoint and not yet the log
        while self.epoch < self.options.epochs:
            rate = self.schedule.get_last_lr()[0]
            seconds, images = self.train_epoch()
            row = {"epoch": self.epoch + 1, "lr": rate, **self.results()}
            row |= {"images_per_s": images / seconds, "seconds": seconds}
            self.schedule.step(100 - row["val_top1"])
            self.epoch, self.step = self.epoch + 1, 0
            self.sums.zero_()
            self.history.append(row)
            if not math.isfinite(row["train_loss"]):
                raise FloatingPointError(
                    f"epoch {self.epoch}: the loss is {row['train_loss']}; try a lower --lr"
                )
            self.save()
            self.console.print(line(row, "epoch"), highlight=False, soft_wrap=True)
            self.write_log()
            if self.limit_reached() and self.epoch < self.options.epochs:
                raise Stopped

    def train_epoch(self) -> tuple[float, int]:
        """The steps of this epoch that are still to do. Returns seconds, and images of all processes."""
        self.batches.epoch, self.batches.start = self.epoch, self.step
        todo = len(self.batches)
        self.synchronise()
        start = time.perf_counter()
        with Ticker(self.console, f"epoch {self.epoch + 1}", todo) as ticker:
            for images, labels in self.loader:
                self.train_step(images, labels)
                self.step += 1
                self.steps_of_this_run += 1
                self.between_steps()
                ticker.advance()
        self.synchronise()
        return time.perf_counter() - start, todo * self.options.batch * self.job.processes

    def train_step(self, images: Tensor, labels: Tensor) -> None:
        images = placed(images, self.options, self.job)
        labels = labels.to(self.job.device, non_blocking=True)
        with autocast(self.options, self.job.device):
            logits = self.model.step(images)
        loss = F.cross_entropy(logits.to(DTYPES[self.options.dtype]), labels)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.model.ema:
            self.model.ema.update_parameters(self.model.net)
        self.sums += tally(logits, labels)

    def between_steps(self) -> None:
        """Checkpoints inside an epoch, and the end of a run that has a limit. Behind an epoch's last step
        comes its end, with a checkpoint of its own."""
        if self.step == self.batches.steps:
            return
        every = self.options.checkpoint_every
        if self.limit_reached() or (every and self.step % every == 0):
            self.save()
        if self.limit_reached():
            raise Stopped

    def limit_reached(self) -> bool:
        return 0 < self.options.stop_after <= self.steps_of_this_run

    def synchronise(self) -> None:
        if self.job.device.type == "cuda":
            torch.cuda.synchronize()

    # ---- results ---------------------------------------------------------------------------------

    def results(self) -> dict[str, float]:
        """Of this epoch, over all processes: training as it went, then validation with the final weights."""
        found = means(self.job.total(self.sums), "train")
        found |= means(self.evaluate(self.model.net), "val")
        if self.model.ema:
            found |= means(self.evaluate(self.model.ema.module), "ema")
        return found

    @torch.no_grad()
    def evaluate(self, net: nn.Module) -> Tensor:
        """`tally` over all validation images. The bare network runs: shares of different length would leave
        one process waiting in DDP."""
        self.job.share_buffers(net)
        sums = torch.zeros_like(self.sums)
        net.eval()
        for images, labels in self.val_loader:
            with autocast(self.options, self.job.device):
                logits = net(placed(images, self.options, self.job))
            sums += tally(logits, labels.to(self.job.device))
        net.train()
        return self.job.total(sums)

    def write_log(self) -> None:
        """log.csv, from the history in the checkpoint: no row is lost or there twice."""
        if self.job.first and self.history:
            write_rows(self.options.output / "log.csv", self.history)
