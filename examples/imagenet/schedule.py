"""How the learning rate falls: a schedule is told the validation error when an epoch ends."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau

from fused_resnet.study.recipes import IMAGENET

from .options import Options


class AtMilestones(MultiStepLR):
    """Takes the error that a plateau is known by, and does not look at it."""

    def step(self, error: float | None = None) -> None:
        super().step()


def schedule(options: Options, optimizer: Optimizer) -> AtMilestones | ReduceLROnPlateau:
    """The recipe's. Both have `step(error)`, `get_last_lr` and a state of plain values."""
    if options.recipe == "paper":
        # Without a threshold: any fall of the error ends a plateau.
        return ReduceLROnPlateau(
            optimizer, factor=IMAGENET.plateau_factor, patience=IMAGENET.plateau_patience, threshold=0.0
        )
    return AtMilestones(optimizer, list(options.milestones), 0.1)
