"""PTX that nvcc makes of CUDA C++, executed on tensors."""

from __future__ import annotations

import functools
import importlib.util
import math
import pathlib
import struct
from typing import Any

import pytest
import torch
from support import rand

from gpu_on_cpu import KernelFault, Module, Struct, cuda

HERE = pathlib.Path(__file__).parent
FEATURES = HERE / "cuda" / "features.cu"
CONV = HERE.parent / "examples" / "conv3x3"
ARCHS = (80, 90, 100, 120)


@functools.cache
def features(arch: int) -> Module:
    return Module(cuda.compile_ptx(FEATURES, arch))


@pytest.mark.parametrize("arch", ARCHS)
def test_structure_parameter(arch: int) -> None:
    x, y = rand(100), torch.zeros(100, dtype=torch.float64)
    options = struct.pack("<ifdB7x", 100, 2.5, 0.125, 1)
    features(arch).launch("options", dict(x=x, y=y, o=options), (2,), (64,))
    torch.testing.assert_close(y, x.double() * 2.5 + 0.125, rtol=1e-7, atol=0)


def pair(source: torch.Tensor, to: torch.Tensor, n: int, skip: int, first: int = 0) -> Struct:
    return Struct(struct.pack("<qiiq", 0, n, skip, 0), {0: (source, 4 * first), 16: (to, 0)})


def test_structure_with_pointers() -> None:
    x, y = rand(100), torch.zeros(90)
    done = features(80).launch(
        "halve", dict(p=pair(x, y, 90, 5, first=3)), (2,), (64,), outputs=["p[16]"], traffic=True
    )
    assert torch.equal(y[:90], x[8:98] / 2)
    assert done.traffic is not None
    assert (done.traffic["p[0]", "load"].requested, done.traffic["p[16]", "store"].requested) == (360, 360)


def test_structure_with_two_pointers_into_one_tensor() -> None:
    x = rand(100)
    before = x.clone()
    features(80).launch("halve", dict(p=pair(x, x[50:], 40, 0)), (1,), (64,), seed=1)
    assert torch.equal(x, torch.cat([before[:50], before[:40] / 2, before[90:]]))


def test_faults_behind_pointers_in_a_structure() -> None:
    def launch(*what: Any, outputs: Any = None) -> None:
        features(80).launch("halve", dict(p=pair(*what)), (1,), (64,), outputs=outputs)

    x, y = rand(64), torch.zeros(64)
    with pytest.raises(KernelFault, match="outside every argument"):
        launch(x, y, 64, 1)
    with pytest.raises(KernelFault, match="outside every argument"):
        launch(x, y[:63], 64, 0)
    with pytest.raises(KernelFault, match="race"):
        launch(x, x[1:], 63, 0)
    with pytest.raises(KernelFault, match="write to an input"):
        launch(x, y, 64, 0, outputs=["p[0]"])
    assert not y.any()


def test_bad_structures() -> None:
    x = rand(8)
    with pytest.raises(ValueError, match="no 8-byte word"):
        Struct(b"0" * 24, {20: (x, 0)})
    with pytest.raises(ValueError, match="no 8-byte word"):
        Struct(b"0" * 24, {4: (x, 0)})
    with pytest.raises(ValueError, match="16 bytes were given for a parameter of 24"):
        features(80).launch("halve", dict(p=Struct(b"0" * 16)), (1,), (64,))
    with pytest.raises(ValueError, match="outputs must name tensors"):
        features(80).launch("halve", dict(p=pair(x, x, 1, 0)), (1,), (64,), outputs=["p[8]"])


@pytest.mark.parametrize("arch", ARCHS)
def test_library_functions(arch: int) -> None:
    """sinf of large arguments takes the slow path, with a table in memory and a local array."""
    x = torch.cat([rand(60) * 1e5, torch.tensor([0.0, 1e-30, -3.0, 2.0**40])])
    n = len(x)
    y = torch.zeros(8, n)
    features(arch).launch("library", dict(x=x, y=y, n=n), (1,), (64,))
    d = x.double()
    want = [
        d.sin(),
        (d * 1e-3).clamp(-80, 80).exp(),
        (d.abs() + 1).log(),
        d.abs() ** 0.3,
        (d * 1e-3).tanh(),
        torch.erf(d * 1e-3),
        torch.fmod(d, torch.tensor(7.3).double()),
    ]
    want.append((d.abs() + 1).rsqrt() + d.abs().sqrt() + 1 / (d * d + 1))
    for i, reference in enumerate(
        want
    ):  # CUDA's functions are within 2 ulp; exp doubles the error of its scaled argument
        torch.testing.assert_close(y[i].double(), reference, rtol=2e-5 if i == 1 else 2e-6, atol=1e-7)


@pytest.mark.parametrize("arch", ARCHS)
def test_64_bit_integers(arch: int) -> None:
    g = torch.Generator().manual_seed(1)
    a, b = torch.randint(-(2**62), 2**62, (2, 50), generator=g)
    b[::2] = torch.randint(1, 1000, (25,), generator=g)
    y = torch.zeros(6, 50, dtype=torch.int64)
    features(arch).launch("integers", dict(x=torch.cat([a, b]), y=y, n=50), (1,), (64,))
    mask = 2**64 - 1

    def signed(v: int) -> int:
        return (v + 2**63) % 2**64 - 2**63

    def row(p: int, q: int) -> list[int]:
        quotient = abs(p) // abs(q) * (1 if p * q >= 0 else -1)
        bits = [bin(p & mask).count("1"), 64 - (q & mask).bit_length(), (p & -p).bit_length()]
        shift = q & 63
        return [
            quotient,
            p - quotient * q,
            signed((p & mask) // (q & mask)),
            p * q >> 64,
            bits[0] + bits[1] * 100 + bits[2] * 10000,
            signed(p << shift) ^ (p >> shift),
        ]

    want = torch.tensor([row(p, q) for p, q in zip(a.tolist(), b.tolist(), strict=True)]).T
    assert torch.equal(y, want)


@pytest.mark.parametrize("arch", ARCHS)
def test_local_arrays_tables_and_switches(arch: int) -> None:
    x = torch.randint(0, 10000, (128,), generator=torch.Generator().manual_seed(2), dtype=torch.int32)
    y = torch.zeros(128, dtype=torch.int32)
    features(arch).launch("control", dict(x=x, y=y, n=128), (2,), (64,), seed=1)
    table = [3, 1, 4, 1, 5, 9, 2, 6]

    def value(v: int) -> int:
        history = [v * k + table[k & 7] for k in range(16)]
        s = history[v & 15]
        return [s + 10, s * 3, s ^ 0x55, s - history[v >> 4 & 15], -s, s << 2, 7][v % 7]

    assert y.tolist() == [value(v) for v in x.tolist()]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_votes_and_shared_atomics(arch: int, seed: int) -> None:
    x = rand(250)
    sums, votes = torch.zeros(2), torch.zeros(2, 4, dtype=torch.int32)
    features(arch).launch("reductions", dict(x=x, sums=sums, votes=votes, n=250), (2,), (128,), seed=seed)
    padded = torch.cat([x, torch.zeros(6)]).view(2, 128)
    torch.testing.assert_close(sums.double(), padded.double().sum(1), rtol=0, atol=1e-5)
    exponents = padded.view(torch.int32) >> 23 & 31
    assert votes.tolist() == [
        [int((p > 0).sum()), 1, 0, int((e == 30).sum())] for p, e in zip(padded, exponents, strict=True)
    ]


@pytest.mark.parametrize("arch", ARCHS)
def test_halves(arch: int) -> None:
    x, z = rand(40).half(), rand(40).bfloat16()
    y, w = torch.zeros_like(x), torch.zeros_like(z)
    features(arch).launch("halves", dict(x=x, z=z, y=y, w=w, n=40), (1,), (64,))
    assert torch.equal(y, (x.double() * x.double() + 1).half())
    assert torch.equal(w, z * z + torch.arange(40).bfloat16())


def conv_example() -> object:
    spec = importlib.util.spec_from_file_location("conv3x3_example", CONV / "run.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_one_source_as_ptx_and_as_source(arch: int, seed: int, dtype: torch.dtype) -> None:
    """The convolution of the examples: tensor cores, a pipeline of asynchronous copies, ldmatrix."""
    module = Module(cuda.compile_ptx(CONV / "conv3x3.cu", arch))
    name = next(k for k in module.kernels if ("bfloat16" in k) == (dtype == torch.bfloat16))
    n, h, w, c, k = 2, 7, 5, 64, 72
    x, weights = rand(n, h, w, c).to(dtype), (rand(k, 3, 3, c) / 24).to(dtype)
    tiles = math.ceil(n * h * w / 64)
    y, sums, squares = (
        torch.full((n, h, w, k), math.nan, dtype=dtype),
        torch.full((tiles, k), math.nan),
        torch.full((tiles, k), math.nan),
    )
    args = dict(x=x, weights=weights, y=y, sums=sums, squares=squares, shape=struct.pack("<5i", n, h, w, c, k))
    shared = 2 * (64 + 64) * 40 * 2
    module.launch(name, args, (tiles, math.ceil(k / 64)), (128,), shared, seed=seed, outputs=("y", "sums", "squares"))
    from_source, source_sums, _ = conv_example().conv3x3(x, weights, seed)
    assert torch.equal(y, from_source), "the two ways to execute one source agree bit for bit"
    torch.testing.assert_close(sums.double().sum(0), source_sums, rtol=0, atol=1e-5)
    reference = conv_example().reference(x, weights)
    torch.testing.assert_close(y.double(), reference, rtol=2**-8 if dtype == torch.bfloat16 else 2**-11, atol=1e-5)
