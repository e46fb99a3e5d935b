"""Fused models on two processes: synchronised batch norms, DistributedDataParallel, FSDP. CPU, gloo."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fused_resnet
from fused_resnet.nn import record
from tests.support import perturb
from tests.tolerances import absolute_error, relative_error
from tests.zoo import BottleneckNet, FunctionalResNet

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo"
)
WORLD = 2
DOUBLE = torch.float64


def _start(rank: int, worker, file: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=WORLD)
    try:
        worker(rank)
    finally:
        dist.destroy_process_group()


def on_two_processes(worker, tmp_path) -> None:
    """Run ``worker(rank)`` on both; raises what one of them raises."""
    torch.multiprocessing.spawn(_start, (worker, str(tmp_path / "store")), nprocs=WORLD)


def make(net=BottleneckNet) -> nn.Module:
    torch.manual_seed(0)
    return perturb(net()).double()


def batch(n: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and the gradient of the output, the same on every process."""
    generator = torch.Generator().manual_seed(n)
    return (
        torch.randn(n, 3, size, size, dtype=DOUBLE, generator=generator),
        torch.randn(n, 4, dtype=DOUBLE, generator=generator),
    )


def step(model: nn.Module, x: torch.Tensor, dout: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone().requires_grad_()
    out = model(x)
    out.backward(dout)
    grads = {f"{n}.grad": p.grad for n, p in model.named_parameters()}
    return {"out": out.detach(), "x.grad": x.grad} | grads | {n: b.clone() for n, b in model.named_buffers()}


def assert_same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    assert got.keys() == want.keys()
    for name, w in want.items():
        if w.numel() and w.double().norm() > 1e-12:
            assert relative_error(got[name], w) <= 1e-10, name
        else:
            assert absolute_error(got[name], w) <= 1e-12, name


# ---- SyncBatchNorm -------------------------------------------------------------------------------


class Counter:
    """Counts calls of a collective."""

    def __init__(self, collective):
        self.collective, self.count = collective, 0

    def __call__(self, *args, **kwargs):
        self.count += 1
        return self.collective(*args, **kwargs)


def synced_step(rank: int, memory: str, sizes: tuple[int, int], image: int, folds: bool) -> None:
    """Each process with its part of a batch, against stock batch norms on one process with all of it."""
    x, dout = batch(sum(sizes), image)
    want = step(make(), x, dout)
    mine = slice(0, sizes[0]) if rank == 0 else slice(sizes[0], None)
    model = fused_resnet.fuse(nn.SyncBatchNorm.convert_sync_batchnorm(make()), memory=memory)
    norms = sum(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    folded: list[bool] = []
    kinds: list[str] = []

    def on_unit(unit, x, modules, shapes, plan, spec):
        folded.extend(plan.fold)
        kinds.append(unit.kind)

    counter = Counter(dist.all_reduce)
    dist.all_reduce = counter
    try:
        with record(on_unit):
            copy.deepcopy(model)(x[mine])
        assert counter.count == norms, "one all-reduce per batch norm in forward"
        counter.count = 0
        got = step(model, x[mine], dout[mine])
        assert counter.count == 2 * norms, "and one in backward"
    finally:
        dist.all_reduce = counter.collective
    assert kinds == ["conv_bn_act_maxpool", "bottleneck", "bottleneck"]
    assert any(folded) == folds
    for name, p in model.named_parameters():
        dist.all_reduce(p.grad)  # the sum, as of one batch
        got[f"{name}.grad"] = p.grad
    want |= {"out": want["out"][mine], "x.grad": want["x.grad"][mine]}
    assert_same(got, want)


def _synced_statistics(rank: int) -> None:
    for memory in ("speed", "balanced", "min"):
        folds = memory != "speed"
        synced_step(rank, memory, (2, 2), 16, folds)
        synced_step(rank, memory, (1, 4), 16, folds)
        synced_step(rank, memory, (3, 5), 4, folds)  # folding would pay on the second process only
        synced_step(rank, memory, (0, 4), 16, folds)
        _eval_needs_nobody(rank, memory)


def test_synced_statistics(tmp_path):
    on_two_processes(_synced_statistics, tmp_path)


def _eval_needs_nobody(rank: int, memory: str) -> None:
    """In eval mode no process waits for another."""
    model = fused_resnet.fuse(nn.SyncBatchNorm.convert_sync_batchnorm(make()), memory=memory).eval()
    if rank == 0:
        x, _ = batch(2, 16)
        with torch.no_grad():
            assert relative_error(model(x), make().eval()(x)) <= 1e-10


def _subgroups(rank: int) -> None:
    """Each process in a group of its own: as if alone."""
    groups = [dist.new_group([i]) for i in range(WORLD)]
    model = nn.SyncBatchNorm.convert_sync_batchnorm(make(), groups[rank])
    x, dout = batch(2 + rank, 16)
    assert_same(step(fused_resnet.fuse(model), x, dout), step(make(), x, dout))


def _conversion_after_fuse(rank: int) -> None:
    x, dout = batch(4, 16)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(fused_resnet.fuse(make()))
    mine = slice(2 * rank, 2 * rank + 2)
    got, want = step(model, x[mine], dout[mine]), step(make(), x, dout)
    assert relative_error(got["out"], want["out"][mine]) <= 1e-10
    assert relative_error(got["x.grad"], want["x.grad"][mine]) <= 1e-10


def _groups_and_conversion(rank: int) -> None:
    _subgroups(rank)
    _conversion_after_fuse(rank)


def test_process_groups_and_later_conversion(tmp_path):
    on_two_processes(_groups_and_conversion, tmp_path)


# ---- wrappers ------------------------------------------------------------------------------------


def small_net() -> nn.Module:
    model = FunctionalResNet()
    model.linear = nn.Linear(16, 4)
    return model


def _data_parallel(rank: int) -> None:
    x, dout = batch(4, 8)
    mine = slice(2 * rank, 2 * rank + 2)
    for net in (small_net, BottleneckNet):
        wrapped = [DistributedDataParallel(m) for m in (make(net), fused_resnet.fuse(make(net)))]
        want, got = (step(m, x[mine], dout[mine]) for m in wrapped)
        assert_same(got, want)
        fused_after = fused_resnet.fuse(DistributedDataParallel(make(net)))
        assert_same(step(fused_after, x[mine], dout[mine]), want)


def test_distributed_data_parallel(tmp_path):
    on_two_processes(_data_parallel, tmp_path)


def _whole(results):
    return {n: t.full_tensor() if hasattr(t, "full_tensor") else t for n, t in results.items()}


def _fully_sharded(rank: int) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (WORLD,))
    x, dout = batch(4, 16)
    mine = slice(2 * rank, 2 * rank + 2)
    results = []
    for model in (make(), fused_resnet.fuse(make())):
        for block in model.layer1:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        seen: list[str] = []
        with record(lambda unit, *_, seen=seen: seen.append(unit.kind)):
            results.append(_whole(step(model, x[mine], dout[mine])))
    assert seen == ["conv_bn_act_maxpool", "bottleneck", "bottleneck"]
    assert_same(results[1], results[0])
    with pytest.raises(ValueError, match="expected a class made by fuse"):
        fused_resnet.unfuse(model)
    fused_resnet.fuse(model, memory="min")  # in place of the wrapper's class: only the program changes
    assert type(model.layer1[0]).__name__ == "FSDPFusedBottleneck"
    model.zero_grad()
    model(x[mine]).sum().backward()


def test_fully_shard(tmp_path):
    on_two_processes(_fully_sharded, tmp_path)


def _fsdp1(rank: int) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    x, dout = batch(4, 16)
    mine = slice(2 * rank, 2 * rank + 2)
    results = []
    for model in (make(), fused_resnet.fuse(make())):
        model.layer1 = nn.Sequential(
            *(FullyShardedDataParallel(b, device_id=torch.device("cpu")) for b in model.layer1)
        )
        wrapped = FullyShardedDataParallel(model, device_id=torch.device("cpu"))
        results.append(step(wrapped, x[mine], dout[mine]))
    results = [{n: t for n, t in r.items() if t is not None} for r in results]
    assert_same(results[1], results[0])


def test_fsdp1(tmp_path):
    on_two_processes(_fsdp1, tmp_path)
