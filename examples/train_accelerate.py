"""Hugging Face Accelerate: a fused ResNet-20 on handwritten digits, batch norms synchronised.

    python examples/train_accelerate.py
    torchrun --nproc-per-node 2 examples/train_accelerate.py
    accelerate launch --multi_gpu --num_processes 2 examples/train_accelerate.py

The second line is for CPUs, too, where `accelerate launch --cpu` without MPI starts one process, whatever
--num_processes says. Needs accelerate and scikit-learn. Prints the accuracy on the 360 test images.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fused_resnet
from fused_resnet.analysis.digits import load


def main(
    epochs: Annotated[int, typer.Option(min=1)] = 6,
    batch: Annotated[int, typer.Option(min=1, help="Images per step, of all processes.")] = 128,
    lr: Annotated[float, typer.Option(min=0, help="The highest rate of the schedule.")] = 0.1,
) -> None:
    """Train and test."""
    # cpu: where there is no GPU, processes only find each other if told so. split_batches: `batch` is shared
    # out between the processes.
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(), dataloader_config=DataLoaderConfiguration(split_batches=True)
    )
    set_seed(0)
    digits = load(size=16)
    train = TensorDataset(digits.train_images, digits.train_labels)
    test = TensorDataset(digits.test_images, digits.test_labels)
    loader = DataLoader(train, batch, shuffle=True, drop_last=True)

    # fuse before prepare: DDP, a device or mixed precision then meet the classes that will run.
    model = fused_resnet.fuse(fused_resnet.models.create("cifar_resnet20", fused=False))
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * len(loader))
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    test_loader = accelerator.prepare(DataLoader(test, batch))

    # SyncBatchNorm after prepare, as DDP refuses to wrap it on CPUs. The conversion keeps parameters and
    # buffers, and fused units, which can synchronise on CPUs, read their batch norms at every call.
    nn.SyncBatchNorm.convert_sync_batchnorm(accelerator.unwrap_model(model))

    for epoch in range(epochs):
        for images, labels in loader:
            with accelerator.autocast():
                loss = F.cross_entropy(model(images.to(memory_format=torch.channels_last)), labels)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
        accelerator.print(f"epoch {epoch + 1}: loss {loss.item():.4f}")

    model.eval()
    hits = []
    with torch.no_grad():
        for images, labels in test_loader:
            right = model(images.to(memory_format=torch.channels_last)).argmax(1) == labels
            hits.append(accelerator.gather_for_metrics(right))  # leaves out what fills up the last batch
    found = torch.cat(hits).float()
    accuracy = 100 * found.mean().item()
    accelerator.print(
        f"processes: {accelerator.num_processes}, test accuracy: {accuracy:.2f} % of {len(found)}"
    )
    accelerator.end_training()


if __name__ == "__main__":
    typer.run(main)
