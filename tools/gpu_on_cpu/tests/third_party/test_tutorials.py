"""Triton's tutorials as they are, from the folder $GPU_ON_CPU_TUTORIALS: their kernels and their host code.

Of each script everything runs that stands before its first bare call, where its tests and benchmarks begin.
Where it asks torch for the GPU, which torch does not see, the answer is patched.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterator

import pytest
import third_party_sources as sources
import torch
from near import near

from gpu_on_cpu.errors import KernelFault, Unsupported
from gpu_on_cpu.triton.driver import emulate

FOLDER = pathlib.Path(os.environ["GPU_ON_CPU_TUTORIALS"])
ARCHES = [80, 90, 100]


@pytest.fixture(autouse=True)
def capability(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    arch = request.getfixturevalue("arch")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *device: (arch // 10, arch % 10))
    yield


@pytest.mark.parametrize("arch", ARCHES)
def test_softmax(arch: int, folder: pathlib.Path) -> None:
    """Persistent programs; how many of them follows from the registers of the compiled kernel."""
    torch.manual_seed(0)
    x = torch.randn(7, 781)
    for seed in (0, 1):
        with emulate(arch, seed):
            result = sources.definitions(FOLDER / "02-fused-softmax.py", folder).softmax(x)
        near(result, x.double().softmax(-1), 1)


@pytest.mark.parametrize("arch", ARCHES)
def test_matmul(arch: int, folder: pathlib.Path) -> None:
    """The first of its configurations: blocks of 128 by 256 by 64, 8 warps, 3 stages."""
    torch.manual_seed(0)
    m, n, k = 141, 77, 136
    a, b = (torch.rand(m, k) - 0.5).half(), (torch.rand(k, n) - 0.5).half()
    for seed in (0, 1):
        with emulate(arch, seed):
            result = sources.definitions(FOLDER / "03-matrix-multiplication.py", folder).matmul(a, b, "leaky_relu")
        near(result, torch.nn.functional.leaky_relu(a.double() @ b.double()), 1)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("rows", [5, 259], ids=["rows without contention", "rows that share a lock"])
def test_layer_norm(arch: int, rows: int, folder: pathlib.Path) -> None:
    """Backward: blocks add to shared sums of the weight's gradient, in turn by a lock."""
    torch.manual_seed(0)
    n = 45
    inputs = [torch.randn(rows, n), torch.randn(n), torch.randn(n)]
    exact = [t.double().requires_grad_() for t in inputs]
    expected = torch.nn.functional.layer_norm(exact[0], (n,), exact[1], exact[2])
    weights = torch.randn(rows, n)
    expected.backward(weights.double())
    for seed in (0, 1):
        x, w, b = (t.clone().requires_grad_() for t in inputs)
        with emulate(arch, seed):
            result = sources.definitions(FOLDER / "05-layer-norm.py", folder).layer_norm(x, (n,), w, b, 1e-5)
            result.backward(weights)
        near(result.detach(), expected.detach(), 8)
        for leaf, e in zip((x, w, b), exact, strict=True):
            near(leaf.grad, e.grad, 8)


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_attention(arch: int, causal: bool, folder: pathlib.Path) -> None:
    """Tensor descriptors: made by the host and read by the tensor memory accelerator from sm_90."""
    torch.manual_seed(0)
    heads, length, width = 2, 256, 64
    q, k, v = (torch.randn(1, heads, length, width).half().requires_grad_() for _ in range(3))
    scale = width**-0.5
    scores = q.double() @ k.double().mT * scale
    if causal:
        scores = scores.masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), -torch.inf)
    exact = scores.softmax(-1) @ v.double()
    weights = torch.randn(exact.shape).half()
    gradients = torch.autograd.grad(exact, (q, k, v), weights.double())
    backward = causal and arch != 100  # on sm_100 it is refused, see below
    for seed in (0, 1):
        with emulate(arch, seed):
            module = sources.definitions(FOLDER / "06-fused-attention.py", folder)
            result = module.attention(q, k, v, causal, scale, False)
            if backward:
                result.backward(weights)
        near(result.detach(), exact.detach(), 2)
        if backward:
            for leaf, g in zip((q, k, v), gradients, strict=True):
                near(leaf.grad, g, 4)
                leaf.grad = None


@pytest.mark.parametrize(("arch", "seed"), [(90, 0), (90, 1), (100, 0)])  # the fourth is refused, see below
def test_specialized_attention(arch: int, seed: int, folder: pathlib.Path) -> None:
    """Warps with different tasks."""
    with emulate(arch, seed):
        result, exact = launch_attention(folder, False, True)
    near(result, exact, 2)


# ---- what does not run


def launch_matmul_fp8(folder: pathlib.Path) -> None:
    module = sources.definitions(FOLDER / "03-matrix-multiplication.py", folder)
    a, b = (torch.randn(40, 40).to(torch.float8_e5m2) for _ in range(2))
    module.matmul(a, b.T)


def launch_attention(
    folder: pathlib.Path, causal: bool, specialize: bool, backward: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """(the result, what it should be without causality)"""
    module = sources.definitions(FOLDER / "06-fused-attention.py", folder)
    q, k, v = (torch.randn(1, 1, 256, 64).half().requires_grad_() for _ in range(3))
    result = module.attention(q, k, v, causal, 0.125, specialize)
    if backward:
        result.backward(torch.randn_like(result))
    return result.detach(), ((q.double() @ k.double().mT * 0.125).softmax(-1) @ v.double()).detach()


# (arch, seed, launch, exception, message): why
REFUSED = [
    # 8-bit floats as operands of wgmma and tcgen05.mma are not modelled; on sm_80 Triton converts them first.
    (90, 0, launch_matmul_fp8, Unsupported, r"wgmma\.mma_async.*e5m2\.e5m2"),
    (100, 0, launch_matmul_fp8, Unsupported, r"tcgen05\.mma.*kind::f8f6f4"),
    # Triton 3.8.0 does not compile this itself.
    (90, 0, lambda folder: launch_attention(folder, True, True), RuntimeError, "PassManager::run failed"),
    # Triton's code invalidates the mbarriers of its pipeline before it waits for the last product, while
    # earlier tcgen05.commit instructions may still have to arrive at them. In lock step they come in time.
    (100, 1, lambda folder: launch_attention(folder, False, True), KernelFault, "mbarrier not initialised"),
    # In the loop over blocks of queries Triton's code waits for its cp.async copies, and tcgen05.mma reads
    # them, with no fence.proxy.async in between: it is before the loop and in its peeled iteration.
    (100, 0, lambda folder: launch_attention(folder, True, False, True), KernelFault, "without fence.proxy"),
]


@pytest.mark.parametrize(("arch", "seed", "launch", "exception", "message"), REFUSED)
def test_refused(
    arch: int,
    seed: int,
    launch: Callable[[pathlib.Path], None],
    exception: type[Exception],
    message: str,
    folder: pathlib.Path,
) -> None:
    with emulate(arch, seed), pytest.raises(exception, match=message):
        launch(folder)
