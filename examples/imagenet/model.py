"""The network, and what is wrapped around it, in the one order that works."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fused_resnet

from .job import Job
from .options import DTYPES, Options


class Model(NamedTuple):
    """net: the bare network, whose state a checkpoint has; step: what a training step calls, that network in
    all its wrappers; ema: the average over steps, None if not asked for."""

    net: nn.Module
    step: Callable[[Tensor], Tensor]
    ema: AveragedModel | None


def build(options: Options, classes: int) -> nn.Module:
    """The stock network with weights drawn from the seed, on the CPU."""
    torch.manual_seed(options.seed)
    if options.arch in torchvision.models.list_models():
        return torchvision.models.get_model(options.arch, weights=None, num_classes=classes)
    return fused_resnet.models.create(options.arch, fused=False, num_classes=classes)


def autocast(options: Options, device: torch.device) -> AbstractContextManager[None]:
    """Mixed precision, if asked for. Under a CUDA graph without the cache of cast weights: a cast that is
    cached outside the graph would not run again in it."""
    dtype = options.amp_dtype
    return torch.autocast(
        device.type, dtype or torch.bfloat16, enabled=dtype is not None, cache_enabled=not options.cuda_graph
    )


def placed(images: Tensor, options: Options, job: Job) -> Tensor:
    """Images ``[N, 3, H, W]`` on the device, in the dtype and layout of the network."""
    return images.to(
        job.device, DTYPES[options.dtype], non_blocking=True, memory_format=options.memory_format
    )


def prepare(options: Options, job: Job, classes: int) -> Model:
    """Build and wrap. The order, and why:

    1. Device, dtype, layout: before anything holds the parameters.
    2. fuse: swaps classes in place. Parameters stay the same objects under the same names, and everything
       below treats a fused network as a stock one.
    3. EMA: copies the network, so before 4 and 5 put into it what must not be copied.
    4. CUDA graph: captures forward and backward of the bare network. DDP's hooks, registered after it,
       all-reduce the gradients that the graph wrote.
    5. DDP: registers its hooks on the final parameters.
    6. SyncBatchNorm: usually comes before DDP, but DDP's constructor refuses it on CPUs, where fused units
       can synchronise. The conversion keeps the parameters and buffers that DDP knows, and fused units read
       their batch norms at every call.
    7. torch.compile: sees DDP and cuts its graphs where DDP's buckets end.

    Raises:
        ValueError: synchronised batch norms outside of fused units were asked for on CPUs.
    """
    net = build(options, classes)
    net.to(job.device, DTYPES[options.dtype], memory_format=options.memory_format)
    if options.fused:
        net = fused_resnet.fuse(net, memory=options.memory)
    ema = None
    if options.ema is not None:
        ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(options.ema), use_buffers=True)
    if options.cuda_graph:
        capture(net, options, job)
    step: Callable[[Tensor], Tensor] = net
    if job.grouped:
        step = DistributedDataParallel(net, [job.device.index] if job.device.type == "cuda" else None)
    if options.sync_bn:
        nn.SyncBatchNorm.convert_sync_batchnorm(net)
        _check_synchronised(net, options, job)
    if options.compile:
        step = torch.compile(step)
    return Model(net, step, ema)


def _check_synchronised(net: nn.Module, options: Options, job: Job) -> None:
    if job.device.type != "cpu" or job.processes == 1:
        return
    fused = {name for row in fused_resnet.explain(net).fused for name in row.modules}
    stock = [n for n, m in net.named_modules() if isinstance(m, nn.SyncBatchNorm) and n not in fused]
    if stock:
        raise ValueError(
            f"--sync-bn on CPUs takes networks whose batch norms are all fused; {options.arch} has others, "
            f"among them {stock[0]}"
        )


def capture(net: nn.Module, options: Options, job: Job) -> None:
    """Replace forward and backward of `net` in training mode by CUDA graphs. In eval mode it runs as before.

    Capturing runs a few steps first (in which fused units measure what to capture); they move running
    statistics, which are put back.
    """
    shape = (options.batch, 3, options.size, options.size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    images = placed(images, options, job)
    before = [buffer.clone() for buffer in net.buffers()]
    with autocast(options, job.device):
        torch.cuda.make_graphed_callables(net, (images,))
    with torch.no_grad():
        for buffer, value in zip(net.buffers(), before, strict=True):
            buffer.copy_(value)
