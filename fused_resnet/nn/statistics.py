"""How a batch norm module normalises right now, and the bookkeeping that its own forward would do."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn as nn

from .plain import is_frozen_batch_norm, tensor


class Statistics(NamedTuple):
    """norm: "batch", "frozen" or "none"; momentum: None leaves the running statistics alone; group: of
    SyncBatchNorm, None for this process alone."""

    norm: str
    eps: float = 1e-5
    momentum: float | None = None
    group: Any = None


def _sync_group(bn):
    """The process group over which a SyncBatchNorm in training takes its statistics; None for one process."""
    if type(bn) is not nn.SyncBatchNorm or not bn.training:
        return None
    if not (dist.is_available() and dist.is_initialized()):
        return None
    group = bn.process_group if bn.process_group else dist.group.WORLD
    return group if dist.get_world_size(group) > 1 else None


def statistics(bn: Any, has_running: bool = False) -> Statistics:
    """The mode of `bn`, by the rules of `torch.nn.modules.batchnorm._BatchNorm.forward`.

    Args: has_running: has it running statistics?
    """
    if bn is None:
        return Statistics("none")
    if is_frozen_batch_norm(bn):
        return Statistics("frozen", bn.eps)
    if not bn.training and has_running:
        return Statistics("frozen", bn.eps)
    momentum = None
    if bn.training and bn.track_running_stats and has_running:
        momentum = bn.momentum
        if momentum is None:  # cumulative average over num_batches_tracked, which counts this batch
            momentum = 1.0 / float(bn.num_batches_tracked + 1)
    return Statistics("batch", bn.eps, momentum, _sync_group(bn))


def count_batch(batch_norms: Iterable[Any]) -> None:
    """Count this batch, as batch norms in training do."""
    counters = [tensor(bn, "num_batches_tracked") for bn in batch_norms if _counts(bn)]
    counters = [counter for counter in counters if counter is not None]
    if counters:
        torch._foreach_add_(counters, 1)


def _counts(bn: Any) -> bool:
    return bn is not None and not is_frozen_batch_norm(bn) and bn.training and bn.track_running_stats
