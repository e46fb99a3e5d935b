"""Every planted bug of a CUDA C++ kernel must be reported as what it is; arguments, rewriting, compilers."""

from __future__ import annotations

import pathlib

import pytest
import torch

from gpu_on_cpu import cuda
from gpu_on_cpu.cuda.rewrite import launchers_of, rewrite
from gpu_on_cpu.errors import CompilerError, KernelFault, Unsupported

HERE = pathlib.Path(__file__).parent
PRIMITIVES, BUGS = HERE / "cuda" / "primitives.cu", HERE / "cuda" / "bugs.cu"


def zeros(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.zeros(*shape, dtype=dtype)


def fault_of(launcher: str, args: list, **options) -> KernelFault:
    """The fault that a launcher of bugs.cu must cause; no tensor may have changed."""
    before = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
    with pytest.raises(KernelFault) as caught:
        cuda.emulate(BUGS, launcher, args, **options)
    for old, new in zip(before, args, strict=True):
        assert not isinstance(old, torch.Tensor) or torch.equal(old, new)
    return caught.value


def source_line(number: int) -> str:
    return BUGS.read_text().splitlines()[number - 1].strip()


# ---- what kernels may not do


def test_barriers_are_needed() -> None:
    x = torch.arange(96.0)
    expected = torch.stack([x.flip(0), x.flip(0) + 1])
    for seed in range(3):
        y = torch.zeros(2, 96)
        cuda.emulate(BUGS, "correct", [x, y], seed=seed)
        assert torch.equal(y, expected)
    for launcher in ("no_barrier_before", "no_barrier_after"):
        wrong = 0
        for seed in range(4):
            y = torch.zeros(2, 96)
            cuda.emulate(BUGS, launcher, [x, y], seed=seed)
            wrong += not torch.equal(y, expected)
            if launcher == "no_barrier_before" and not torch.equal(y, expected):
                assert bool(y[0].isnan().any())
        assert wrong, launcher


def test_races() -> None:
    x = torch.arange(96.0)
    for seed in range(2):
        cuda.emulate(BUGS, "correct", [x, torch.zeros(192)], sanitizer="thread", seed=seed)
    total = zeros(1)
    cuda.emulate(BUGS, "run_counter", [total, 1], sanitizer="thread", seed=1)
    assert total.item() == 128
    bugs = {"no_barrier_before": [x, torch.zeros(192)], "no_barrier_after": [x, torch.zeros(192)]}
    bugs |= {
        "run_global_race": [torch.zeros(64)],
        "run_shuffle_is_no_barrier": [torch.zeros(32)],
        "run_counter": [zeros(1), 0],
    }
    for launcher, args in bugs.items():
        for seed in range(2):
            fault = fault_of(launcher, args, sanitizer="thread", seed=seed)
            assert fault.reason == "ThreadSanitizer: data race" and fault.instruction == source_line(fault.line)
            assert any(word in fault.instruction for word in ("tile[", "y["))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_barriers_in_branches(seed: int) -> None:
    fault = fault_of("run_divergent", [torch.zeros(1)], seed=seed)
    assert fault.reason.startswith("deadlock:") and "threads at a barrier (line" in fault.reason
    assert "__syncthreads" in fault.instruction or "__sync" in fault.instruction or "__shfl" in fault.instruction
    fault = fault_of("run_two_barriers", [torch.zeros(1)], seed=seed)
    assert fault.reason.startswith("divergent __syncthreads") and fault.instruction == "__syncthreads();"
    assert source_line(fault.line) == fault.instruction


def test_warp_functions_with_wrong_masks() -> None:
    fault = fault_of("run_lane_not_in_mask", [torch.zeros(32)])
    assert "the lane is not in its own mask" in fault.reason and fault.thread == (16, 0, 0)
    assert "__shfl_sync(0x0000ffffu" in fault.instruction
    assert "value of a lane outside the mask" in fault_of("run_source_not_in_mask", [torch.zeros(32)]).reason
    assert "execute different functions" in fault_of("run_mixed", [torch.zeros(2)]).reason


def test_tensors_out_of_bounds() -> None:
    x, y = torch.zeros(32), torch.zeros(32)
    cuda.emulate(BUGS, "run_past_the_end", [x, y, 0], sanitizer="address")
    for offset in (8, 1000, -1100, -4000):
        fault = fault_of("run_past_the_end", [x, y, offset])
        assert fault.reason.startswith("out of bounds:") and fault.reason.endswith("argument 0 (128 bytes)")
    assert fault_of("run_past_the_end", [x, y, 8]).thread == (28, 0, 0)
    fault = fault_of("run_past_the_end", [torch.zeros(29), torch.zeros(29), 0], sanitizer="none")
    assert fault.reason == "out of bounds: bytes past the end of argument 1 were written"
    for offset in (1, -1):
        fault = fault_of("run_past_the_end", [x, y, offset], sanitizer="address", seed=1)
        assert "AddressSanitizer" in fault.reason and "x[t + offset]" in fault.instruction
    for sanitizer, first in [("none", 28), ("address", 24), ("thread", 28)]:  # pages are 16 bytes away
        assert fault_of("run_write_past", [y, 8], sanitizer=sanitizer).thread[0] == first
        assert fault_of("run_write_past", [None, 4], sanitizer=sanitizer)


@pytest.mark.parametrize("launcher, far", [("run_past_static", 1024), ("run_past_dynamic", 1100)])
def test_shared_memory_out_of_bounds(launcher: str, far: int) -> None:
    cuda.emulate(BUGS, launcher, [torch.zeros(32), 1], sanitizer="address")
    assert "out of bounds" in fault_of(launcher, [torch.zeros(32), 2]).reason
    assert "out of bounds" in fault_of(launcher, [torch.zeros(32), far]).reason
    fault = fault_of(launcher, [torch.zeros(32), 2], sanitizer="address")
    assert "AddressSanitizer" in fault.reason and fault.thread == (31, 0, 0)
    assert "[threadIdx.x + offset] = 1" in fault.instruction


def test_undefined_arithmetic_and_alignment() -> None:
    words = torch.tensor([0, 2**31 - 1, 32, 0], dtype=torch.int32)
    for kind, reason in enumerate(["signed integer overflow", "shift exponent 32", "division by zero"]):
        fault = fault_of("run_overflow", [words, kind], sanitizer="address")
        assert fault.reason.startswith("UndefinedBehaviorSanitizer") and reason in fault.reason
        assert f"kind == {kind}" in fault.instruction
    fault = fault_of("run_misaligned", [torch.zeros(8), torch.zeros(1)], sanitizer="address")
    assert "misaligned address" in fault.reason and "float4" in fault.instruction


def test_shared_memory_of_another_block_is_gone() -> None:
    y = torch.zeros(64)
    cuda.emulate(BUGS, "run_stale", [y])
    assert bool((y[:32] == 1).all()) and bool(y[32:].isnan().all())


def test_misused_async_copies() -> None:
    x = torch.ones(8)
    y = torch.zeros(1)
    cuda.emulate(BUGS, "run_copy", [x, y, 0], sanitizer="thread")
    assert y.item() == 1
    cuda.emulate(BUGS, "run_copy", [x, y, 1])
    assert y.isnan().item()
    in_flight = "cp.async: the thread ends while copies are in flight"
    reasons = {2: in_flight, 6: in_flight, 3: "misaligned", 4: "not in shared memory", 5: "source size"}
    for kind, reason in reasons.items():
        assert reason in fault_of("run_copy", [x, torch.zeros(4), kind]).reason
    assert "not aligned" in fault_of("run_unaligned_row", [zeros(32)]).reason


def test_launches() -> None:
    y = torch.zeros(1)
    cuda.emulate(BUGS, "run_launch", [y, 1024, 48 << 10, 0])
    cuda.emulate(BUGS, "run_launch", [y, 1, 232448, 232448])
    for threads, size, allowed, reason in [
        (1025, 0, 0, "bad block size"),
        (0, 0, 0, "1 to 1024 threads"),
        (32, (48 << 10) + 1, 0, "cudaFuncSetAttribute"),
        (32, 232449, 232448, "more shared memory than a block may have"),
    ]:
        assert reason in fault_of("run_launch", [torch.zeros(1), threads, size, allowed]).reason
    assert fault_of("failing", [torch.zeros(1)]).reason == "the launcher returned 7"


def test_endless_kernels() -> None:
    assert fault_of("run_forever", [zeros(1)], timeout=0.5).reason.startswith("hang")
    fault = fault_of("run_locked_out", [zeros(1)], timeout=20)
    assert fault.reason.startswith("deadlock: 40 threads at a atomic") and "atomicCAS" in fault.instruction
    fault = fault_of("run_trap", [torch.tensor([0, 0, 0, 1, 0, 0, 0, 0], dtype=torch.int32)])
    assert fault.reason == "__trap" and fault.thread == (3, 0, 0)


# ---- arguments, the rewriting, compilers


def test_arguments() -> None:
    x, y = torch.zeros(32), torch.zeros(32)
    with pytest.raises(KernelFault, match="argument y was changed"):
        cuda.emulate(BUGS, "run_write_past", {"y": y, "offset": 0}, outputs=())
    assert not y.any()
    for args, reason in [
        ([x], "takes 2 arguments, not 1"),
        ([1, 0], "takes a pointer"),
        ([x.double(), 0], "another size"),
        ([x, 2**40], "does not fit"),
        ([x, 0.5], "takes an integer"),
    ]:
        assert reason in fault_of("run_write_past", args).reason
    wrong = [[torch.zeros(4, 4).t(), 0], [x, "0"]]
    for args in wrong:
        with pytest.raises(ValueError):
            cuda.emulate(BUGS, "run_write_past", args)
    with pytest.raises(ValueError, match="shares memory"):
        cuda.emulate(BUGS, "run_past_the_end", [x, x[1:], 0])
    with pytest.raises(ValueError, match="no arguments"):
        cuda.emulate(BUGS, "run_past_the_end", [x, y, 0], outputs=["z"])
    both = torch.arange(64.0)
    cuda.emulate(BUGS, "run_past_the_end", [both, both, 32])
    assert torch.equal(both[:32], torch.arange(32.0, 64.0)) or bool((both[:32] >= 32).all())


def test_compile_errors_name_the_line(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "wrong.cu"
    source.write_text(
        "__global__ void k(int* p) {\n  __shared__ int s[4],\n    t;\n  undeclared = 1;\n}\n"
        'extern "C" void f(int* p) { k<<<1,\n 2>>>(p); }\n'
    )
    with pytest.raises(CompilerError, match=r"wrong\.cu:4:3: error: .*undeclared"):
        cuda.emulate(source, "f", [zeros(1)])
    source.write_text(
        '__global__ void k(int* p) {\n  asm volatile("trap;");\n}\nextern "C" void f(int* p) { k<<<1, 1>>>(p); }\n'
    )
    with pytest.raises(Unsupported, match="inline PTX") as caught:
        cuda.emulate(source, "f", [zeros(1)])
    assert caught.value.line == 2
    source.write_text('#include "header.h"\nextern "C" void f(int* p) { *p = VALUE + OTHER; }\n')
    for value in (1, 2):  # what is included counts for the cache
        (tmp_path / "header.h").write_text(f"#define VALUE {value}\n")
        out = zeros(1)
        cuda.emulate(source, "f", [out], defines={"OTHER": 10})
        assert out.item() == 10 + value


def test_printing(tmp_path: pathlib.Path) -> None:
    source = tmp_path / "hello.cu"
    source.write_text('__global__ void k() { printf("%d\\n", threadIdx.x); }\nextern "C" void f() { k<<<1, 3>>>(); }\n')
    assert cuda.emulate(source, "f", []).printed == "0\n1\n2\n"


@pytest.mark.parametrize(
    "source, expected",
    [
        ("k<<<g, b>>>(x);", "::emu::Launch(g, b).of([&](auto... emu_v) { k(emu_v...); })(x);"),
        (
            "return a::k<T, (N > 1), B<int>><< <f(1, 2), b[c >> 1]>>>();",
            "return ::emu::Launch(f(1, 2), b[c >> 1])"
            ".of([&](auto... emu_v) { a::k<T, (N > 1), B<int>>(emu_v...); })();",
        ),
        (
            "if (x) (p->k)<<<1, 2>>>(y);",
            "if (x) ::emu::Launch(1, 2).of([&](auto... emu_v) { (p->k)(emu_v...); })(y);",
        ),
        ('"k<<<1, 2>>>()"; R"(__shared__)"', '"k<<<1, 2>>>()"; R"(__shared__)"'),
        ("a << b; c >> d; e < f;", "a << b; c >> d; e < f;"),
        ("__shared__ int x;", "[[maybe_unused]] static auto& x = ::emu::shared_variable<int >(1); "),
        (
            "extern __shared__ T x[];",
            " [[maybe_unused]] static auto& x = *reinterpret_cast<T (*)[ ]>(::emu::dynamic_shared_start()); ",
        ),
        (
            "static __shared__ alignas(8) T *p[2], q;",
            " [[maybe_unused]] static auto& p = ::emu::shared_variable<T * [ 2 ]>(( 8 )); "
            "[[maybe_unused]] static auto& q = ::emu::shared_variable<T >(( 8 )); ",
        ),
    ],
)
def test_rewriting(source: str, expected: str) -> None:
    assert rewrite(source) == expected


def test_launchers_are_found() -> None:
    text = 'extern "C" void f(int a) {\n}\nextern "C" const float* g() { }\n'
    text += 'extern "C" void declared();\nvoid h() {}\n'
    assert launchers_of(text) == ["f", "g"]


@pytest.mark.parametrize("arch, target", [(80, "sm_80"), (90, "sm_90a"), (100, "sm_100a")])
def test_nvcc_takes_the_same_source(arch: int, target: str) -> None:
    ptx = cuda.compile_ptx(HERE.parent / "examples" / "conv3x3" / "conv3x3.cu", arch)
    assert f".target {target}" in ptx and ptx.count(".visible .entry") == 2
    instructions = [
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32",
    ]
    instructions += [
        "ldmatrix.sync.aligned.m8n8.x4.shared.b16",
        "cp.async.cg.shared.global",
        "cp.async.wait_group 1",
    ]
    assert all(instruction in ptx for instruction in instructions)


def test_nvcc_takes_all_of_the_portable_header(tmp_path: pathlib.Path) -> None:
    ptx = cuda.compile_ptx(PRIMITIVES)
    for size in ("x1", "x2", "x4"):
        assert f"m8n8.{size}.shared" in ptx and f"m8n8.{size}.trans.shared" in ptx
    for text in ("tf32.tf32", "cvt.rna.tf32", "cp.async.ca", "cp.async.wait_all", "cp.async.commit_group"):
        assert text in ptx
    (tmp_path / "wrong.cu").write_text("int x = y;")
    with pytest.raises(CompilerError, match='"y" is undefined'):
        cuda.compile_ptx(tmp_path / "wrong.cu")
