"""Batch statistics over several processes (SyncBatchNorm): one all-reduce per BN and direction.

Moments travel as raw sums in fp64, where the cancellation of E[x^2] - E[x]^2 is harmless, so that a plain sum
all-reduce merges any number of unequal batches.
"""

import torch
import torch.distributed as dist


def all_reduce_moments(mean, second, count, group):
    """Merge (count, mean, centred second moment) of every process.

    Args: mean ``[C]``; second ``[C]`` (sum of squares) or ``[C, C]`` (Gram), both centred at `mean`; count of
    rows here.
    Returns: mean and second over all processes, the total count (0-dim fp64), all on mean's device.
    """
    outer = (lambda m: m * m) if second.dim() == 1 else (lambda m: torch.outer(m, m))
    local = mean.double()
    raw = second.double() + count * outer(local) if count else torch.zeros_like(second, dtype=torch.float64)
    total_mean = count * local if count else torch.zeros_like(local)
    buffer = torch.cat((local.new_tensor([count]), total_mean, raw.flatten()))
    dist.all_reduce(buffer, group=group)
    total, merged = buffer[0], buffer[1 : 1 + mean.numel()] / buffer[0]
    centred = buffer[1 + mean.numel() :].view(second.shape) - total * outer(merged)
    return merged.to(mean.dtype), centred.to(second.dtype), total


def all_reduce_sums(sums, share, group):
    """Sums over all processes times this process' share: dividing by the local count gives the mean."""
    total = sums.clone()
    dist.all_reduce(total, group=group)
    return total * share.to(total.dtype)
