"""One training of one network: epoch by epoch, from its first step or from where its checkpoint stands.

All randomness of an epoch comes from (seed, epoch): a training that was interrupted goes on bit for bit.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fused_resnet import fuse

from .data import Images, batches, test_batches
from .networks import build
from .recipes import SmallImageRecipe

__all__ = ["Row", "Run", "Training"]

FORMAT = 1
Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What decides a training's result, but for the images."""

    network: str
    recipe: SmallImageRecipe
    seed: int
    fused: bool = True

    @property
    def stem(self) -> str:
        """Of the checkpoint's name."""
        return f"{self.network}.seed{self.seed}" + ("" if self.fused else ".stock")

    def identity(self, images: Images) -> dict[str, Any]:
        """What a checkpoint is bound to."""
        recipe = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.recipe).items()}
        run = {"network": self.network, "seed": self.seed, "fused": self.fused, **recipe}
        return {**run, "images": images.fingerprint}


class Training:
    """A run on some images, whose checkpoint is ``folder / run.stem + ".pt"``.

    Args: images: on the device to train on. memory: what a fused network keeps (`fused_resnet.fuse`).

    Raises:
        ValueError: the checkpoint that is there is of another training; the message says what differs.
    """

    def __init__(self, run: Run, images: Images, folder: Path, memory: str = "balanced") -> None:
        self.run, self.images = run, images
        self.path = folder / f"{run.stem}.pt"
        self.identity = run.identity(images)
        model = build(run.network, run.seed).to(memory_format=torch.channels_last).to(images.train.device)
        self.model: nn.Module = fuse(model, memory=memory) if run.fused else model
        recipe = run.recipe
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.step, self.warming = 0, recipe.warm_up is not None
        self.history: list[Row] = []
        if self.path.exists():
            self._load()

    @property
    def remaining_steps(self) -> int:
        return self.run.recipe.steps - self.step

    @property
    def lr(self) -> float:
        """Of the next step."""
        recipe = self.run.recipe
        lr = recipe.lr / 10 ** sum(self.step >= milestone for milestone in recipe.milestones)
        return min(lr, recipe.warm_up.lr) if self.warming and recipe.warm_up else lr

    def epochs(self) -> Iterator[Row]:
        """Train to the recipe's last step, epoch by epoch."""
        while self.remaining_steps > 0:
            yield self.epoch()

    # ---- an epoch --------------------------------------------------------------------------------

    def epoch(self) -> Row:
        """Train for an epoch, or what is left of the recipe, test, and write the checkpoint.

        Errors are shares of 1. In training it is that of the augmented images as they came, each with the
        weights of its step; in testing that of the weights at the end.

        Raises:
            FloatingPointError: the loss is no number. The checkpoint stays at the epoch before.
        """
        number = len(self.history)
        generator = torch.Generator().manual_seed(_seed(self.run.seed, number))
        torch.manual_seed(_seed(self.run.seed, number))  # for dropout
        rate, left = self.lr, self.remaining_steps
        sums = torch.zeros(3, dtype=torch.float64, device=self.images.train.device)
        self.model.train()
        for index, (images, labels) in enumerate(batches(self.images, self.run.recipe, generator)):
            if index == left:
                break
            sums += self._train_step(images, labels)
        loss, wrong, count = sums.tolist()
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"{self.run.stem}, epoch {number + 1}: the loss is {loss}; the checkpoint is older"
            )
        warm_up = self.run.recipe.warm_up
        self.warming = self.warming and warm_up is not None and wrong / count >= warm_up.until_error
        test_loss, test_error = self.test()
        row = {"epoch": number + 1, "step": self.step, "lr": rate}
        row |= {"train_loss": loss / count, "train_error": wrong / count}
        row |= {"test_loss": test_loss, "test_error": test_error}
        self.history.append(row)
        self._save()
        return row

    def _train_step(self, images: Tensor, labels: Tensor) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        logits = self.model(images)
        loss = F.cross_entropy(logits, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return _tally(logits.detach(), labels)

    @torch.no_grad()
    def test(self) -> tuple[float, float]:
        """Loss and error of the test images."""
        self.model.eval()
        sums = sum(_tally(self.model(images), labels) for images, labels in test_batches(self.images))
        loss, wrong, count = sums.tolist()  # type: ignore[union-attr]
        return loss / count, wrong / count

    # ---- the checkpoint --------------------------------------------------------------------------

    def _save(self) -> None:
        """Whoever reads, and whatever breaks meanwhile: the file is the old one or the new one."""
        state = {
            "format": FORMAT,
            "identity": self.identity,
            "step": self.step,
            "warming": self.warming,
            "history": self.history,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.path)

    def _load(self) -> None:
        state = torch.load(self.path, map_location=self.images.train.device, weights_only=True)
        saved = state.get("identity", {})
        if state.get("format") != FORMAT or saved != self.identity:
            names = [n for n in {**saved, **self.identity} if saved.get(n) != self.identity.get(n)]
            found = ", ".join(f"{n} was {saved.get(n)!r}, is {self.identity.get(n)!r}" for n in names)
            raise ValueError(
                f"output: {self.path} is of another training ({found or 'another format'}); "
                "choose another folder"
            )
        self.step, self.warming, self.history = state["step"], state["warming"], state["history"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


def _seed(seed: int, epoch: int) -> int:
    """63 bits for the random numbers of one epoch."""
    digest = hashlib.blake2b(f"{seed} {epoch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _tally(logits: Tensor, labels: Tensor) -> Tensor:
    """Sums over a batch, fp64 ``[3]``: loss, wrong guesses, images."""
    loss = F.cross_entropy(logits.double(), labels, reduction="sum")
    wrong = (logits.argmax(1) != labels).sum()
    return torch.stack((loss, wrong.double(), torch.full_like(loss, len(labels))))
