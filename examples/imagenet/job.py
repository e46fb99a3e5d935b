"""The processes that train together: one alone, or as many as torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Job:
    """One process' place: its `rank` among `processes`; grouped: torchrun started them."""

    rank: int
    processes: int
    device: torch.device
    grouped: bool

    @property
    def first(self) -> bool:
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, on each of them."""
        tensor = tensor.clone()
        if self.grouped:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """Every process' value, in order of rank, on each of them. The values are pickled."""
        values = [value] * self.processes
        if self.grouped:
            dist.all_gather_object(values, value)
        return values

    @torch.no_grad()
    def share_buffers(self, module: nn.Module) -> None:
        """Give every process the first one's buffers.

        Without synchronised batch norms each has running statistics of its own between two steps; DDP sends
        the first one's around when the next step begins, and this does so before an evaluation.
        """
        if not self.grouped:
            return
        for buffer in module.buffers():
            sent = buffer.clone()
            dist.broadcast(sent, 0)
            buffer.copy_(sent)


def processes() -> int:
    """How many train together, as torchrun says it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def started() -> Iterator[Job]:
    """This process' job; torchrun's processes are connected, by NCCL on GPUs, by gloo on CPUs."""
    cuda, grouped = torch.cuda.is_available(), "RANK" in os.environ
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if not grouped:
        yield Job(0, 1, device, False)
        return
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield Job(dist.get_rank(), dist.get_world_size(), device, True)
    finally:
        dist.destroy_process_group()
