"""Python extensions whose kernels run on the CPU: from source, from PTX, in workers under sanitizers."""

from __future__ import annotations

import functools
import pathlib
import time
from typing import Any

import pytest
import torch
from support import rand

from gpu_on_cpu import KernelFault, cuda
from gpu_on_cpu.cuda.driver import pointers_in, short
from gpu_on_cpu.ptx.split import kernels_of

HERE = pathlib.Path(__file__).parent / "cuda" / "extension"
SOURCES = HERE / "kernels.cu", HERE / "host.cpp"
COLUMNS = 45


@functools.cache
def sample(sanitizer: str = "none") -> cuda.Extension:
    return cuda.extension("sample", SOURCES, sanitizer=sanitizer)


def call(name: str, *args: Any, sanitizer: str = "none", seed: int = 0) -> Any:
    """What a function gives from source; run in workers."""
    with cuda.emulating(sample(sanitizer), "source", seed=seed) as (module, _):
        return getattr(module, name)(*args)


@pytest.fixture(scope="module")
def worker() -> Any:
    with cuda.workers() as started:
        yield started


# ---- in this process
@pytest.mark.parametrize("mode", ["source", "ptx"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_functions(mode: Any, seed: int) -> None:
    """Kernels in a row with a tensor between them that only C++ knows; kernel templates; an unnamed namespace."""
    x = rand(37, COLUMNS)
    with cuda.emulating(sample(), mode, seed=seed) as (module, records):
        sums, scaled = module.sums(x, 2.0), module.scaled(x.half(), 3.0)
        module.unnamed()
    torch.testing.assert_close(sums, 2 * x.sum(0), rtol=1e-5, atol=1e-5)
    assert torch.equal(scaled, (x.half().float() * 3).half())
    assert [r.name for r in records] == ["column_sums", "scaled", "scaled", "hidden"]
    assert records[2].signature == "void sample::scaled<__half, 4>(sample::Scale)"
    assert (records[0].grid, records[0].block, records[0].shared) == ((2, 1, 1), (256, 1, 1), 1024)


def test_contexts_inside_one_another() -> None:
    x = rand(100)
    with cuda.emulating(sample(), "ptx", seed=1) as (outer, launched):
        with cuda.emulating(sample(), "source", seed=2) as (inner, from_source):
            inner.scaled(x, 2.0)
        outer.scaled(x, 2.0)
    assert [r.launch is None for r in from_source] == [True]
    assert [r.launch is None for r in launched] == [False]


def test_traffic() -> None:
    x = rand(37, COLUMNS)
    with cuda.emulating(sample(), traffic=True) as (module, records):
        module.sums(x, 1.0)
    first, second = (r.launch.traffic for r in records if r.launch and r.launch.traffic)
    assert first["params[0]", "load"].requested == 4 * 37 * COLUMNS
    assert first["params[8]", "store"].requested == second["params[0]", "load"].requested == 4 * COLUMNS


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_resources_without_execution(arch: int) -> None:
    with cuda.emulating(sample(), arch=arch, execute=False) as (module, records):
        module.scaled(rand(100), 1.0)
    assert [r.launch for r in records] == [None]
    found = records[0].resources()
    assert 0 < found.registers < 64 and found.threads == 64 and not found.spills
    assert records[0].resources(120).arch == 120


@pytest.mark.parametrize(
    "name, args, what",
    [
        ("sums", (2.0, True), r"shared-memory race.*block \(0, 0, 0\)"),
        ("sums", (2.0, False, 1), r"outside every argument.*block \(1, 0, 0\), thread \(13, 0, 0\).*st.global"),
        ("scaled", (2.0, 64, 1), "outside every argument"),
        ("scaled", (2.0, 512), "512 threads, compiled for at most 256"),
    ],
)
def test_faults_in_ptx(name: str, args: tuple[Any, ...], what: str) -> None:
    """They end the launch and not this process, and the next call works."""
    x = rand(37, COLUMNS)
    with cuda.emulating(sample()) as (module, _):
        with pytest.raises(KernelFault, match=what):
            getattr(module, name)(x, *args)
        assert torch.equal(module.scaled(x, 1.0), x)


@pytest.mark.parametrize("mode", ["source", "ptx"])
def test_launches_that_cuda_refuses(mode: Any) -> None:
    """The host code gets the error that it would get of a GPU."""
    with cuda.emulating(sample(), mode) as (module, _):
        module.nothing(1, 1024, 100 << 10)
        for blocks, threads, shared, error in ((0, 32, 0, 9), (1, 1025, 0, 9), (1, 32, 200 << 10, 1)):
            with pytest.raises(RuntimeError, match=f"the launch failed: {error}"):
                module.nothing(blocks, threads, shared)


def test_exceptions_of_host_code() -> None:
    with cuda.emulating(sample()) as (module, _), pytest.raises(TypeError, match="incompatible function arguments"):
        module.scaled("x")


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="sanitizer is one of"):
        cuda.extension("sample", SOURCES, sanitizer="memory")
    with pytest.raises(ValueError, match="mode is"), cuda.emulating(sample(), "sass"):  # type: ignore[arg-type]
        pass
    with pytest.raises(ValueError, match="arch must be one of"), cuda.emulating(sample(), arch=75):
        pass


def test_only_what_changed_is_compiled_again(tmp_path: pathlib.Path) -> None:
    for name in ("kernels.cu", "kernels.h"):
        (tmp_path / name).write_bytes((HERE / name).read_bytes())
    other = tmp_path / "other.cu"
    other.write_text("#include <cuda_runtime.h>\n")
    sources = [tmp_path / "kernels.cu", other]
    first = cuda.extension("sample", sources)
    assert cuda.extension("sample", sources).path == first.path
    (tmp_path / "kernels.h").write_text("// changed\n" + (tmp_path / "kernels.h").read_text())
    second = cuda.extension("sample", sources)
    assert [first.objects[s] == second.objects[s] for s in sources] == [False, True]
    assert first.path != second.path


# ---- in workers
@pytest.mark.parametrize("sanitizer", ["none", "address", "thread"])
def test_worker(worker: Any, sanitizer: str) -> None:
    sample(sanitizer)
    x = rand(37, COLUMNS)
    for seed in (0, 1):
        sums = worker(sanitizer).call(call, "sums", x, 2.0, sanitizer=sanitizer, seed=seed)
        torch.testing.assert_close(sums, 2 * x.sum(0), rtol=1e-5, atol=1e-5)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        worker(sanitizer).call(call, "scaled", "x", sanitizer=sanitizer)


def test_one_element_past_a_tensor(worker: Any) -> None:
    """Those of torch's own allocator, too."""
    sample("address")
    x = rand(37, COLUMNS)
    for excess in (("sums", x, 2.0, False, 1), ("scaled", x, 2.0, 64, 1)):
        with pytest.raises(KernelFault, match="heap-buffer-overflow") as caught:
            worker("address").call(call, *excess, sanitizer="address")
        assert caught.value.block != (0, 0, 0)
        assert caught.value.instruction.startswith(("p.sums[column] = sum", "static_cast<T*>(p.y)[i] ="))
    assert torch.equal(worker("address").call(call, "scaled", x, 1.0, sanitizer="address"), x), "it starts again"


def test_missing_barrier(worker: Any) -> None:
    sample("thread")
    with pytest.raises(KernelFault, match="data race") as caught:
        worker("thread").call(call, "sums", rand(37, COLUMNS), 2.0, True, sanitizer="thread", seed=1)
    assert "parts[" in caught.value.instruction


def test_faults_of_the_emulator(worker: Any) -> None:
    with pytest.raises(KernelFault, match=r"null pointer.*block"):
        worker("none").call(null_pointer)


def null_pointer() -> None:
    module = sample().load()
    sample().library  # noqa: B018 (reports faults)
    module.scaled(torch.empty(0), 1.0, 64, 1)


def test_hangs_and_exits(worker: Any) -> None:
    with pytest.raises(KernelFault, match="hang: not finished after 1 s"):
        worker("none").call(time.sleep, 60, timeout=1)
    with pytest.raises(KernelFault, match="exit status 3"):
        worker("none").call(exit_with, 3)
    with pytest.raises(RuntimeError, match="Unpicklable"):
        worker("none").call(raise_what_has_no_pickle)


def exit_with(status: int) -> None:
    import os

    os._exit(status)


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__(lambda: 0)


def raise_what_has_no_pickle() -> None:
    raise Unpicklable


# ---- parts
def test_pointers_are_found() -> None:
    a, b = torch.zeros(10), torch.zeros(4, 4, dtype=torch.bfloat16)
    words = torch.tensor([a.data_ptr(), 7, b.data_ptr() + 30, a.data_ptr() + 40, 0], dtype=torch.int64)
    found = pointers_in(words.numpy().tobytes() + b"1234", [a, a[2:5], b])
    assert {offset: (t is a, t is b, inside) for offset, (t, inside) in found.items()} == {
        0: (True, False, 0),
        16: (False, True, 30),
    }


@pytest.mark.parametrize(
    "signature, name",
    [
        ("f(int)", "f"),
        ("void a::f<b::c<1>, (d)2>(e::g<int>)", "f"),
        ("void a::(anonymous namespace)::f<(anonymous namespace)::T>(g)", "f"),
    ],
)
def test_short_names(signature: str, name: str) -> None:
    assert short(signature) == name


def test_a_kernel_alone_has_what_it_names() -> None:
    ptx = """
.version 9.0 // {
.target sm_80
.address_size 64
.extern .shared .align 16 .b8 memory[];
.global .align 4 .b8 table[8] = {1, 2, 3, 4, 5, 6, 7, 8};
.func helper(.param .b32 p) { .reg .b32 %r<2>; ret; }
.const .align 4 .f32 factor = 0f3F800000;
.visible .entry one(.param .u64 one_param_0)
.maxntid 32, 1, 1
{
  { ld.const.f32 %f1, [factor]; }
}
.visible .entry two() { mov.u32 %r1, memory; mov.u64 %rd1, table; }
"""
    one, two = kernels_of(ptx).values()
    assert one.startswith(".version 9.0")
    assert "factor" in one and ".maxntid 32" in one and one.rstrip().endswith("}")
    assert not any(word in one for word in ("memory", "table", "two", "helper"))
    assert "memory" in two and "table" in two and "factor" not in two
    assert list(kernels_of(ptx)) == ["one", "two"]
