"""PyTorch Lightning: a fused ResNet-20 on handwritten digits, on as many processes as wanted.

    python examples/train_lightning.py --processes 2

Needs lightning and scikit-learn. Prints the accuracy on the 360 test images.
"""

from __future__ import annotations

from typing import Annotated

import lightning
import torch
import torch.nn.functional as F
import typer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import fused_resnet
from fused_resnet.analysis.digits import load


class Classifier(lightning.LightningModule):
    """ResNet-20. lr: the highest rate of a one-cycle schedule."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        # fuse when the network is made: Lightning moves and wraps the classes that will run. What it saves is
        # the state_dict, which is that of the stock network.
        self.net = fused_resnet.fuse(fused_resnet.models.create("cifar_resnet20", fused=False))
        self.net.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images.to(memory_format=torch.channels_last))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self(images), labels)

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        images, labels = batch
        hits = (self(images).argmax(1) == labels).float().mean()
        self.log("accuracy", hits, batch_size=len(labels), sync_dist=True)

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.SGD(self.parameters(), self.lr, momentum=0.9, weight_decay=1e-4)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main(
    processes: Annotated[int, typer.Option(min=1)] = 1,
    epochs: Annotated[int, typer.Option(min=1)] = 6,
    batch: Annotated[int, typer.Option(min=1, help="Images per step, of all processes.")] = 128,
    lr: Annotated[float, typer.Option(min=0)] = 0.1,
) -> None:
    """Train and test on CPUs."""
    lightning.seed_everything(0, verbose=False)
    digits = load(size=16)
    train = TensorDataset(digits.train_images, digits.train_labels)
    test = TensorDataset(digits.test_images, digits.test_labels)
    share = max(1, batch // processes)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        max_epochs=epochs,
        deterministic=True,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Classifier(lr)
    trainer.fit(model, DataLoader(train, share, shuffle=True, drop_last=True))
    # Lightning fills up shares of unequal size with images that count twice: 360 are even for 2, 3, 4, 5, ...
    found = trainer.test(model, DataLoader(test, share), verbose=False)
    if trainer.is_global_zero:
        accuracy = 100 * found[0]["accuracy"]
        print(f"processes: {trainer.world_size}, test accuracy: {accuracy:.2f} % of {len(test)}")


if __name__ == "__main__":
    typer.run(main)
