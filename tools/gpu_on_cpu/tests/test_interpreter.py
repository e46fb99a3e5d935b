"""Triton's interpreter with NVIDIA's arithmetic, against torch and numpy in fp64, and its checks."""

import math

import hypothesis
import hypothesis.strategies as st
import interpreter_kernels as kernels
import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from support import rand
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gpu_on_cpu.errors import CompilerError, KernelFault
from gpu_on_cpu.triton.interpreter import interpret, interpreting

ALL_BF16 = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)


def cast(x, dtype, rounding=None, block=1024):
    y = torch.zeros(x.shape, dtype=dtype)
    args = {"x_ptr": x, "y_ptr": y}
    interpret(kernels.cast, args, (x.numel() // block,), outputs=["y_ptr"], ROUNDING=rounding, BLOCK=block)
    return y


def assert_same(actual, expected):
    """Bit for bit, but any NaN equals any other."""
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(torch.signbit(actual[~actual.isnan()]), torch.signbit(expected[~expected.isnan()]))


def nearest_even(values, mantissa):
    """Exact floats (fp64, in range) rounded to `mantissa` bits, by numpy's own rounding of integers."""
    fraction, exponent = np.frexp(values)
    return np.ldexp(np.rint(np.ldexp(fraction, mantissa)), exponent - mantissa)


class TestCasts:
    def test_bf16_to_fp32_is_exact(self):
        assert_same(cast(ALL_BF16, torch.float32), ALL_BF16.float())

    def test_bf16_to_fp16(self):
        assert_same(cast(ALL_BF16, torch.float16), ALL_BF16.to(torch.float16))

    def test_bf16_stays_what_it_is(self):
        assert torch.equal(cast(ALL_BF16, torch.bfloat16).view(torch.int16), ALL_BF16.view(torch.int16))

    def test_fp32_to_bf16_around_every_tie(self):
        ties = (ALL_BF16.view(torch.int16).to(torch.int32) << 16) + 0x8000
        for nudge in (-1, 0, 1):
            x = (ties + nudge).view(torch.float32)
            assert_same(cast(x, torch.bfloat16), x.to(torch.bfloat16))

    def test_nan_with_any_payload_stays_nan(self):
        x = torch.arange(0x7F800001, 0x7F800401, dtype=torch.int64).to(torch.int32).view(torch.float32)
        assert cast(x, torch.bfloat16).isnan().all()
        assert cast(x, torch.bfloat16, "rtz").isnan().all()

    def test_fp64_to_bf16_rounds_once(self):
        # Just above a tie: rounding to fp32 first would make it one, and the tie would then go down to even.
        x = torch.full((1024,), 1 + 2.0**-8 + 2.0**-40, dtype=torch.float64)
        x[1], x[2], x[3] = 1e300, -math.inf, math.nan
        expected = torch.full((1024,), 1 + 2.0**-7, dtype=torch.bfloat16)
        expected[1], expected[2], expected[3] = math.inf, -math.inf, math.nan
        assert_same(cast(x, torch.bfloat16), expected)

    @pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
    def test_integers_to_bf16_round_once(self, dtype):
        x = torch.from_numpy(np.random.default_rng(0).integers(-(2**30), 2**30, 4096)).to(dtype)
        x[0] = (2**22 + 2**21 + 2**14) * 2**7 + 1  # a tie in bf16, but for the 1, which fp32 loses
        expected = nearest_even(x.numpy().astype(np.float64), 8)
        assert np.array_equal(cast(x, torch.bfloat16).double().numpy(), expected)

    def test_toward_zero(self):
        x = rand(4096) * 10
        bits = x.view(torch.int32) & -(2**16)
        assert_same(cast(x, torch.bfloat16, "rtz"), bits.view(torch.float32).to(torch.bfloat16))
        y, exact = cast(x, torch.float16, "rtz").double(), x.double()
        assert (y.abs() <= exact.abs()).all() and ((exact - y).abs() < 2.0**-10 * exact.abs()).all()

    def test_fp32_to_fp16(self):
        halves = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16).float()
        x = torch.nextafter(halves, torch.tensor(0.0))
        assert_same(cast(x, torch.float16), x.to(torch.float16))


def binary(op, x, y):
    out = torch.zeros_like(x)
    args = {"x_ptr": x, "y_ptr": y, "out_ptr": out}
    interpret(kernels.binary, args, (x.numel() // 1024,), outputs=["out_ptr"], OP=op, BLOCK=1024)
    return out


class TestArithmetic:
    OPS = {
        "add": torch.add,
        "sub": torch.sub,
        "mul": torch.mul,
        "where": lambda x, y: torch.where(x < y, x, 0 - y),  # Triton's -y is 0 - y
        "abs": lambda x, y: x.abs(),
    }

    @pytest.mark.parametrize("op", OPS)
    @pytest.mark.parametrize("other", [1.0, -0.0, 3.140625, 1e-38, 3e38, math.inf])
    def test_bf16_over_all_values(self, op, other):
        y = torch.full_like(ALL_BF16, other)
        assert_same(binary(op, ALL_BF16, y), self.OPS[op](ALL_BF16, y))

    def test_bf16_of_random_pairs(self):
        shuffled = ALL_BF16[torch.randperm(2**16, generator=torch.Generator().manual_seed(0))]
        for op in ("add", "sub", "mul"):
            assert_same(binary(op, ALL_BF16, shuffled), self.OPS[op](ALL_BF16, shuffled))

    def test_fp16(self):
        x, y = rand(4096, dtype=torch.float16), rand(4096, dtype=torch.float16, seed=1)
        for op in ("add", "sub", "mul"):
            assert_same(binary(op, x, y), self.OPS[op](x, y))

    def test_maximum_prefers_numbers_to_nan(self):
        x, y = torch.tensor([1.0, math.nan] * 512), torch.tensor([math.nan, 2.0] * 512)
        x, y = x.to(torch.bfloat16), y.to(torch.bfloat16)
        assert_same(binary("max", x, y), torch.fmax(x, y))

    def test_a_float_argument_is_fp32(self):
        x, y = rand(64, dtype=torch.bfloat16), torch.zeros(64)
        interpret(kernels.scale, [x, y, 0.1], (1,), BLOCK=64)
        assert_same(y, x.float() * torch.tensor(0.1))

    def test_sums_of_bf16(self):
        x = rand(64, dtype=torch.bfloat16)
        y, total = torch.zeros_like(x), torch.zeros(1, dtype=torch.bfloat16)
        interpret(kernels.totals, [x, y, total], (1,), BLOCK=64)
        assert_same(y, x.float().cumsum(0).to(torch.bfloat16))
        assert abs(float(total) - float(x.double().sum())) < 6 * 2**-8 * float(x.double().abs().sum())
        # One half and 63 tiny numbers: a sum that rounds at every step of a tree differs from one in fp32.
        x = torch.full((64,), 2.0**-9).to(torch.bfloat16)
        x[0] = 1
        interpret(kernels.totals, [x, y, total], (1,), BLOCK=64)
        tree = x.clone()
        while len(tree) > 1:
            tree = tree[::2] + tree[1::2]
        assert_same(total, tree)

    def test_scan_of_bf16_rounds_every_step(self):
        x = torch.full((64,), 2.0**-7).to(torch.bfloat16)
        x[0] = 3
        y, expected = torch.zeros_like(x), x.clone()
        interpret(kernels.running_total, [x, y], (1,), BLOCK=64)
        for i in range(1, 64):
            expected[i] = expected[i - 1] + x[i]
        assert_same(y, expected)

    def test_reduction_with_a_combiner_of_three(self):
        x, out = rand(8, 32), torch.zeros(2, 8)
        interpret(kernels.moments, [x, out], (1,), ROWS=8, COLUMNS=32)
        torch.testing.assert_close(out[0], x.double().mean(1).float())
        torch.testing.assert_close(out[1], x.double().var(1, correction=0).float())


class TestFma:
    @pytest.mark.parametrize("dtype, mantissa", [(torch.float32, 24), (torch.float16, 11), (torch.bfloat16, 8)])
    def test_rounds_once(self, dtype, mantissa):
        x, y, z = (rand(2048, dtype=dtype, seed=s) for s in range(3))
        z[:1024] = -(x * y)[:1024]  # what is left is the rounding error of the product
        out = torch.zeros_like(x)
        interpret(kernels.fma, [x, y, z, out], (1,), BLOCK=2048)
        a, b, c = (v.double().numpy().astype(np.longdouble) for v in (x, y, z))
        expected = nearest_even(a * b + c, mantissa).astype(np.float64)
        normal = np.abs(expected) > 1e-4 if dtype == torch.float16 else np.ones(2048, bool)
        assert np.array_equal(out.double().numpy()[normal], expected[normal])

    @pytest.mark.parametrize("dtype, bits", [(torch.float32, 24), (torch.bfloat16, 8), (torch.float16, 11)])
    def test_an_addend_far_below_breaks_a_tie(self, dtype, bits):
        ulp = 2.0 ** (1 - bits)
        x = torch.full((16,), 1 + ulp * 2 ** (bits // 2), dtype=dtype)
        y = torch.full((16,), 1 + ulp * 2 ** (bits - 1 - bits // 2) / 2, dtype=dtype)
        product = float(x[0]) * float(y[0])
        assert product / ulp % 1 == 0.5  # a tie: the addend alone decides
        tiny = 2.0**-24 if dtype == torch.float16 else 2.0**-100
        for sign in (1, -1):
            out = torch.zeros_like(x)
            interpret(kernels.fma, [x, y, torch.full_like(x, sign * tiny), out], (1,), BLOCK=16)
            assert float(out[0]) == product + sign * ulp / 2


class TestDot:
    def run(self, a, b, precision="ieee", **dims):
        m, k, n = *a.shape, b.shape[1]
        c = torch.zeros(m, n)
        interpret(kernels.dot, [a, b, c], (1,), outputs=["c_ptr"], M=m, N=n, K=k, PRECISION=precision)
        return c

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_halves_accumulate_in_fp32(self, dtype):
        a, b = rand(16, 64, dtype=dtype), rand(64, 32, dtype=dtype, seed=1)
        expected = a.double() @ b.double()
        torch.testing.assert_close(self.run(a, b).double(), expected, rtol=0, atol=64 * 2**-24 * 16)

    def test_tf32_drops_thirteen_bits(self):
        a, b = rand(16, 64), rand(64, 16, seed=1)
        a_cut, b_cut = ((v.view(torch.int32) & -(2**13)).view(torch.float32).double() for v in (a, b))
        actual = self.run(a, b, "tf32").double()
        torch.testing.assert_close(actual, a_cut @ b_cut, rtol=0, atol=1e-5)
        assert (actual - a.double() @ b.double()).abs().max() > 1e-4

    @pytest.mark.parametrize("precision", ["ieee", "tf32x3"])
    def test_fp32(self, precision):
        a, b = rand(16, 16), rand(16, 16, seed=1)
        expected = a.double() @ b.double()
        torch.testing.assert_close(self.run(a, b, precision).double(), expected, rtol=0, atol=1e-5)

    def test_smallest_sizes_are_the_nvidia_backends(self):
        self.run(rand(1, 16, dtype=torch.float16), rand(16, 1, dtype=torch.float16))
        with pytest.raises(CompilerError, match=r"K >= 16"):
            self.run(rand(16, 8, dtype=torch.float16), rand(8, 16, dtype=torch.float16))
        self.run(rand(16, 8), rand(8, 16))


class TestKernels:
    def test_helpers_and_methods(self):
        x = rand(5, 37)
        y = torch.zeros(5, 37)
        interpret(kernels.softmax, [x, y, 37], (5,), outputs=["y_ptr"], BLOCK=64)
        torch.testing.assert_close(y, x.double().softmax(1).float())

    @pytest.mark.parametrize("config, block", [(0, 64), (1, 128)])
    @pytest.mark.parametrize("n", [256, 200])
    def test_autotuned_with_heuristics(self, config, block, n):
        x, y = rand(n), torch.zeros(n)
        grid = lambda args: (triton.cdiv(args["n"], args["BLOCK"]),)  # noqa: E731
        result = interpret(kernels.tuned_copy, [x, y, n], grid, config=config)
        assert torch.equal(x, y)
        assert result.constexprs == {"BLOCK": block, "EVEN": n % block == 0}
        assert result.grid[0] == triton.cdiv(n, block)

    def test_a_configurations_pre_hook(self):
        x, total = rand(64), torch.full((1,), 5.0)
        interpret(kernels.hooked_sum, [x, total], (4,), BLOCK=16)
        torch.testing.assert_close(total[0], x.sum())
        with pytest.raises(KernelFault):
            interpret(kernels.hooked_sum, [x, total], (5,), BLOCK=16)
        torch.testing.assert_close(total[0], x.sum())

    @pytest.mark.parametrize("rows, columns", [(8, 32), (5, 24)])
    def test_tensor_descriptors(self, rows, columns):
        x, y = rand(rows, columns, dtype=torch.float16), torch.zeros(rows, columns, dtype=torch.float16)
        result = interpret(kernels.copy_described, [x, y, rows, columns], (1,), ROWS=8, COLUMNS=32)
        assert torch.equal(x, y)
        assert result.traffic["y_ptr", "store"].requested == 2 * rows * columns

    def test_pointers_into_two_tensors(self):
        x, y, z = rand(8), rand(8, seed=1), torch.zeros(8)
        interpret(kernels.choose, [x, y, z], (1,), BLOCK=8)
        assert torch.equal(z, torch.where(torch.arange(8) % 2 == 0, x, y))

    def test_three_dimensional_grid_runs_every_program(self):
        y = torch.zeros(1, dtype=torch.int32)
        result = interpret(kernels.write_program_id, [y], (2, 3, 4), DIVISOR=2)
        assert result.redundant_stores == 23 and result.grid == (2, 3, 4)

    @pytest.mark.parametrize("wide, dtype", [(3, tl.int32), (2**33, tl.int64)])
    def test_what_counts_in_a_loop_is_a_tensor(self, wide, dtype):
        y = torch.zeros(4, dtype=torch.int64)
        interpret(kernels.loops, [y, wide, wide + 5], (1,), DTYPE=dtype)
        assert y.tolist() == [sum(range(wide, wide + 5)), 2 + 4, 0 + 1 + 2, 3 + 2]

    def test_a_scalar_in_a_mask(self):
        y = torch.zeros(9, 9)
        interpret(kernels.store_by_even_programs, (y, 9), (2,), BLOCK=16)
        assert torch.equal(y, torch.ones(9, 9))

    def test_launch_options_have_no_effect(self):
        x, y = rand(8), torch.zeros(8)
        interpret(kernels.copy, [x, y, 8], (1,), BLOCK=8, num_warps=4, num_stages=2)
        assert torch.equal(x, y)

    @hypothesis.settings(derandomize=True, max_examples=40, deadline=None)
    @hypothesis.given(
        m=st.integers(1, 40),
        n=st.integers(1, 40),
        k=st.integers(1, 50),
        dtype=st.sampled_from(["float16", "bfloat16"]),
    )
    def test_matmul_of_any_shape(self, m, n, k, dtype):
        dtype = getattr(torch, dtype)
        a, b, c = rand(m, k, dtype=dtype), rand(k, n, dtype=dtype, seed=1), torch.full((m, n), 99.0)
        grid = (triton.cdiv(m, 16), triton.cdiv(n, 32))
        result = interpret(kernels.matmul, [a, b, c, m, n, k], grid, outputs=["c_ptr"], BM=16, BN=32, BK=16)
        torch.testing.assert_close(c.double(), a.double() @ b.double(), rtol=1e-5, atol=1e-4)
        assert result.traffic["c_ptr", "store"].requested == 4 * m * n
        assert result.traffic["a_ptr", "load"].requested == 2 * m * k * grid[1]
        assert result.traffic["b_ptr", "load"].requested == 2 * k * n * grid[0]
        assert result.redundant_stores == 0

    @hypothesis.settings(derandomize=True, max_examples=40, deadline=None)
    @hypothesis.given(rows=st.integers(1, 5), columns=st.integers(1, 70), scale=st.sampled_from([1, 30, 1e4]))
    def test_softmax_of_any_shape(self, rows, columns, scale):
        x = rand(rows, columns, dtype=torch.bfloat16) * scale
        y = torch.zeros_like(x)
        interpret(kernels.softmax, [x, y, columns], (rows,), BLOCK=triton.next_power_of_2(columns))
        torch.testing.assert_close(y.double(), x.double().softmax(1), rtol=2**-8, atol=1e-6)


class TestHostCode:
    def test_launches_run_unchanged(self):
        x, y, z = rand(100), torch.zeros(100), torch.zeros(100)
        with interpreting() as launches:
            kernels.copy[(4,)](x, y, 100, BLOCK=32, num_warps=8, num_stages=2, enable_fp_fusion=False)
            assert torch.equal(x, y)  # there at once
            kernels.scale[lambda args: (4 // args["BLOCK"],)](y, z, factor=2.0, BLOCK=4)
        assert torch.equal(z[:4], 2 * x[:4]) and not z[4:].any()
        assert [(done.name, done.grid) for done in launches] == [("copy", (4, 1, 1)), ("scale", (1, 1, 1))]
        assert launches[0].traffic["x_ptr", "load"].requested == 400

    def test_decorated_kernels_take_their_first_configuration(self):
        x, y, total = rand(200), torch.zeros(200), torch.full((1,), 5.0)
        with interpreting() as launches:
            kernels.tuned_copy[lambda args: (triton.cdiv(args["n"], args["BLOCK"]),)](x, y, 200)
            kernels.hooked_sum[(4,)](x, total, BLOCK=16)
        assert torch.equal(x, y)
        assert launches[0].constexprs == {"BLOCK": 64, "EVEN": False}
        torch.testing.assert_close(total[0], x[:64].sum())

    def test_a_kernel_whose_parameters_are_called_like_the_interpreters(self):
        x = torch.zeros(4, dtype=torch.int32)
        with interpreting():
            kernels.same_names[(1,)](x, config=3, outputs=4)
        assert x.tolist() == [3, 4, 0, 0]

    def test_only_outputs_may_be_written(self):
        x, y = rand(8), torch.zeros(8)
        with interpreting(outputs=["y_ptr", "out_ptr"]) as launches:
            kernels.copy[(1,)](x, y, 8, BLOCK=8)
            with pytest.raises(KernelFault, match="not an output"):
                kernels.copy_back[(1,)](x, y, BLOCK=8)
        assert len(launches) == 1

    def test_a_fault_leaves_tensors_as_they_were(self):
        x, y = rand(8), torch.zeros(8)
        with interpreting() as launches, pytest.raises(KernelFault, match="out of bounds"):
            kernels.copy_strided[(1,)](x, y, 2, BLOCK=8)
        assert not launches and not y.any()

    def test_arguments_given_twice(self):
        with interpreting(), pytest.raises(TypeError, match="'n' is given twice, by position and the keywords"):
            kernels.copy[(1,)](rand(8), rand(8), 8, n=8, BLOCK=8)

    def test_warming_up_does_nothing(self):
        x, y = rand(8), torch.zeros(8)
        with interpreting() as launches:
            kernels.copy.warmup(x, y, 8, grid=(1,), BLOCK=8)
        assert not launches and not y.any()

    def test_nothing_is_left_behind(self):
        classes = triton.JITFunction, triton.runtime.Autotuner, triton.runtime.Heuristics
        before = [c.run for c in classes]
        with pytest.raises(KeyError), interpreting():
            raise KeyError
        assert [c.run for c in classes] == before


class TestTritonStaysAsItWas:
    SIGNATURE = {"x_ptr": "*bf16", "y_ptr": "*bf16", "columns": "i32", "BLOCK": "constexpr"}

    def compile(self):
        source = ASTSource(kernels.softmax, self.SIGNATURE, {"BLOCK": 64})
        return triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["ptx"]

    def test_the_same_kernel_still_compiles(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "before"))
        before = self.compile()
        x, y = rand(2, 40, dtype=torch.bfloat16), torch.zeros(2, 40, dtype=torch.bfloat16)
        interpret(kernels.softmax, [x, y, 40], (2,), BLOCK=64)
        with pytest.raises(KernelFault):
            interpret(kernels.softmax, [x, y, 40], (3,), BLOCK=64)
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "after"))
        assert self.compile() == before

    @pytest.mark.parametrize("grid", [(1,), (2,)], ids=["success", "fault"])
    def test_nothing_is_left_behind(self, grid):
        owners = [triton.runtime.interpreter, tl, tl.core, tl.math, tl.standard, tl.tensor, tl.dtype]
        owners += [tl.core.tensor_descriptor_base, triton.JITFunction, kernels]
        before = [dict(vars(owner)) for owner in owners]
        try:
            interpret(kernels.softmax, [rand(40), torch.zeros(40), 40], grid, BLOCK=64)
        except KernelFault:
            assert grid == (2,)
        for owner, old in zip(owners, before, strict=True):
            now = dict(vars(owner))
            assert now.keys() == old.keys() and all(now[name] is old[name] for name in old), owner
        assert not triton.runtime.interpreter.InterpretedFunction.rewritten_fn
        with pytest.raises(RuntimeError, match="outside of the scope"):
            kernels.row_max(1)


class TestArguments:
    @pytest.mark.parametrize(
        "change, error, message",
        [
            ({"kernel": print}, TypeError, "kernel must be a @triton.jit function, got builtin"),
            ({"args": 3}, TypeError, "args must be a mapping from names, or a sequence, got int"),
            ({"args": [1] * 5}, TypeError, "args has 5 values, kernel copy 4 parameters"),
            ({"args": {"x_ptr": None}}, TypeError, "missing argument 'y_ptr' of kernel copy"),
            ({"args": [rand(4), "a", 4]}, TypeError, "argument 'y_ptr' must be a tensor, int.* got 'a'"),
            ({"args": [rand(4), rand(4), 2**64]}, ValueError, "argument 'n' must fit 64 bits"),
            (
                {"args": [torch.zeros(4, dtype=torch.complex64), 1, 1]},
                TypeError,
                "'x_ptr' has dtype torch.comp",
            ),
            (
                {"args": [torch.zeros(4, device="meta"), 1, 1]},
                TypeError,
                "'x_ptr' must be a strided CPU tens",
            ),
            ({"BLOCK": rand(1)}, TypeError, "argument 'BLOCK' is a tl.constexpr, got a tensor"),
            ({"SIZE": 4}, TypeError, "kernel copy has no parameter 'SIZE'"),
            ({"n": 4}, TypeError, "argument 'n' is given twice"),
            ({"outputs": "y_ptr"}, TypeError, "outputs must be a collection of names"),
            ({"outputs": ["n"]}, ValueError, "outputs names 'n', which is no tensor; the tensors are"),
            ({"grid": 1}, TypeError, "grid must be a tuple of 1 to 3 ints, got 1"),
            ({"grid": (1, 1, 1, 1)}, TypeError, "grid must be a tuple of 1 to 3 ints"),
            ({"grid": (1.0,)}, TypeError, "grid's x must be an int, got 1.0"),
            ({"grid": (1, 65536)}, ValueError, r"grid's y must be in 0\.\.65535, got 65536"),
            ({"grid": (-1,)}, ValueError, "grid's x must be in"),
            ({"config": 1}, ValueError, r"config must be in 0\.\.0, the kernel's configurations, got 1"),
            ({"config": "a"}, TypeError, "config must be an int, got 'a'"),
        ],
    )
    def test_wrong_ones_are_named(self, change, error, message):
        call = {"kernel": kernels.copy, "args": [rand(4), rand(4), 4], "grid": (1,), "BLOCK": 4}
        with pytest.raises(error, match=message):
            interpret(**{**call, **change})

    def test_configurations(self):
        for config in (-1, 2):
            with pytest.raises(ValueError, match=r"config must be in 0\.\.1"):
                interpret(kernels.tuned_copy, [rand(4), rand(4), 4], (1,), config=config)
        with pytest.raises(TypeError, match="'BLOCK' is given twice, by the call and the autotuner"):
            interpret(kernels.tuned_copy, [rand(4), rand(4), 4], (1,), BLOCK=4)

    def test_kernels_made_for_the_stock_interpreter(self):
        function = triton.runtime.interpreter.InterpretedFunction(kernels.copy.fn)
        with pytest.raises(TypeError, match="TRITON_INTERPRET"):
            interpret(function, [rand(4), rand(4), 4], (1,), BLOCK=4)

    @pytest.mark.parametrize("bias", [None, 2.5])
    def test_optional_tensors_and_annotated_numbers(self, bias):
        x = rand(8)
        y = torch.zeros(8)
        bias = None if bias is None else torch.full((8,), bias)
        interpret(kernels.add_bias, {"x_ptr": x, "bias_ptr": bias, "y_ptr": y, "n": 8}, (1,), BLOCK=16)
        assert torch.equal(y, x if bias is None else x + bias)

    def test_strided_and_parameter_tensors(self):
        x = torch.nn.Parameter(rand(8, 8)).t()
        y = torch.zeros(64)
        interpret(kernels.copy, [x, y, 64], (1,), BLOCK=64)
        assert torch.equal(y.view(8, 8).t(), x)
