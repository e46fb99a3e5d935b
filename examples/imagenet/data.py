"""Images from folders, with random numbers that depend on (seed, epoch, sample) and on nothing else.

So a sample's crop, flip and colours are the same with any number of workers and of processes, and wherever a
training was resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset
from torchvision.datasets import ImageFolder

from .job import Job
from .options import Options
from .transforms import augmentation, centre


def folders(options: Options, processes: int) -> tuple[ImageFolder, ImageFolder]:
    """The training and the validation images.

    Raises:
        ValueError: the two have different classes, or there are fewer images than one step takes.
        FileNotFoundError: a class has no image.
    """
    train = ImageFolder(str(options.data / "train"), augmentation(options))
    val = ImageFolder(str(options.data / "val"), centre(options.size))
    if train.classes != val.classes:
        differ = sorted(set(train.classes) ^ set(val.classes))
        raise ValueError(f"DATA: train and val must have the same classes; these are in one only: {differ}")
    if len(train) < options.batch * processes:
        raise ValueError(
            f"--batch {options.batch} on {processes} processes: more than the {len(train)} training images"
        )
    return train, val


def fingerprint(images: ImageFolder) -> str:
    """Tells whether two folders have the same files, by their names and order."""
    digest = hashlib.sha256()
    for path, label in images.samples:
        digest.update(f"{Path(path).relative_to(images.root).as_posix()} {label}\n".encode())
    return digest.hexdigest()


def sample_seed(seed: int, epoch: int, index: int) -> int:
    """63 bits for the random numbers of one sample in one epoch."""
    digest = hashlib.blake2b(f"{seed} {epoch} {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class SeededImages(Dataset):
    """(image ``[3, size, size]`` fp32, label) by (epoch, index)."""

    def __init__(self, images: ImageFolder, seed: int) -> None:
        self.images, self.seed = images, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        with torch.random.fork_rng(devices=[]):  # transforms draw from torch's own generator
            torch.default_generator.manual_seed(sample_seed(self.seed, epoch, index))
            return self.images[index]


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """This process' batches of (epoch, index), from step `start` of `epoch` on; set both before iterating.

    The order of an epoch is drawn from (seed, epoch). Step s takes the s-th run of batch times processes
    images, and of these process r takes every one whose place is r modulo the number of processes: together
    they see in each step what one process with the whole batch sees. What is left at the end of an epoch
    and fills no step is left out.
    """

    def __init__(self, images: int, options: Options, job: Job) -> None:
        self.images, self.batch, self.seed, self.job = images, options.batch, options.seed, job
        self.epoch = self.start = 0
        self.steps = images // (options.batch * job.processes)

    def __len__(self) -> int:
        return self.steps - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        generator = torch.Generator().manual_seed(sample_seed(self.seed, self.epoch, -1))
        order = torch.randperm(self.images, generator=generator)
        taken = self.batch * self.job.processes
        for step in range(self.start, self.steps):
            mine = order[step * taken : (step + 1) * taken][self.job.rank :: self.job.processes]
            yield [(self.epoch, index) for index in mine.tolist()]


def share(images: ImageFolder, job: Job) -> Subset:
    """This process' share of images of which each counts once: every `processes`-th.

    Shares may differ by one image.
    """
    return Subset(images, range(job.rank, len(images), job.processes))


def loading(options: Options, job: Job) -> dict[str, Any]:
    """How every DataLoader loads.

    A loader draws a number for its workers whenever it is iterated: not from the generator that dropout uses,
    which would then depend on how often a training was resumed.
    """
    return {
        "num_workers": options.workers,
        "persistent_workers": options.workers > 0,
        "pin_memory": job.device.type == "cuda",
        "generator": torch.Generator(),
    }


def loaders(
    train: ImageFolder, val: ImageFolder, options: Options, job: Job
) -> tuple[DataLoader, EpochBatches, DataLoader]:
    """Training batches, the sampler that they come from, and this process' share of the validation images."""
    batches = EpochBatches(len(train), options, job)
    seeded = DataLoader(SeededImages(train, options.seed), batch_sampler=batches, **loading(options, job))
    return seeded, batches, DataLoader(share(val, job), options.batch, **loading(options, job))
