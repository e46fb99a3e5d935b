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
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gpu_on_cpu.errors import CompilerError, KernelFault, Unsupported
from gpu_on_cpu.triton.interpreter import interpret

ALL_BF16 = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)


def random(*shape, dtype=torch.float32, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


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
        x = random(4096) * 10
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
        x, y = random(4096, dtype=torch.float16), random(4096, dtype=torch.float16, seed=1)
        for op in ("add", "sub", "mul"):
            assert_same(binary(op, x, y), self.OPS[op](x, y))

    def test_maximum_prefers_numbers_to_nan(self):
        x, y = torch.tensor([1.0, math.nan] * 512), torch.tensor([math.nan, 2.0] * 512)
        x, y = x.to(torch.bfloat16), y.to(torch.bfloat16)
        assert_same(binary("max", x, y), torch.fmax(x, y))

    def test_a_float_argument_is_fp32(self):
        x, y = random(64, dtype=torch.bfloat16), torch.zeros(64)
        interpret(kernels.scale, [x, y, 0.1], (1,), BLOCK=64)
        assert_same(y, x.float() * torch.tensor(0.1))

    def test_sums_of_bf16(self):
        x = random(64, dtype=torch.bfloat16)
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
        x, out = random(8, 32), torch.zeros(2, 8)
        interpret(kernels.moments, [x, out], (1,), ROWS=8, COLUMNS=32)
        torch.testing.assert_close(out[0], x.double().mean(1).float())
        torch.testing.assert_close(out[1], x.double().var(1, correction=0).float())


class TestFma:
    @pytest.mark.parametrize("dtype, mantissa", [(torch.float32, 24), (torch.float16, 11), (torch.bfloat16, 8)])
    def test_rounds_once(self, dtype, mantissa):
        x, y, z = (random(2048, dtype=dtype, seed=s) for s in range(3))
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
        a, b = random(16, 64, dtype=dtype), random(64, 32, dtype=dtype, seed=1)
        expected = a.double() @ b.double()
        torch.testing.assert_close(self.run(a, b).double(), expected, rtol=0, atol=64 * 2**-24 * 16)

    def test_tf32_drops_thirteen_bits(self):
        a, b = random(16, 64), random(64, 16, seed=1)
        a_cut, b_cut = ((v.view(torch.int32) & -(2**13)).view(torch.float32).double() for v in (a, b))
        actual = self.run(a, b, "tf32").double()
        torch.testing.assert_close(actual, a_cut @ b_cut, rtol=0, atol=1e-5)
        assert (actual - a.double() @ b.double()).abs().max() > 1e-4

    @pytest.mark.parametrize("precision", ["ieee", "tf32x3"])
    def test_fp32(self, precision):
        a, b = random(16, 16), random(16, 16, seed=1)
        expected = a.double() @ b.double()
        torch.testing.assert_close(self.run(a, b, precision).double(), expected, rtol=0, atol=1e-5)

    def test_smallest_sizes_are_the_nvidia_backends(self):
        self.run(random(1, 16, dtype=torch.float16), random(16, 1, dtype=torch.float16))
        with pytest.raises(CompilerError, match=r"K >= 16"):
            self.run(random(16, 8, dtype=torch.float16), random(8, 16, dtype=torch.float16))
        self.run(random(16, 8), random(8, 16))


class TestTraffic:
    @pytest.mark.parametrize("n", [1, 31, 128, 129, 1000])
    def test_masked_copy(self, n):
        x, y = random(n), torch.full((n,), -1.0)
        args = {"x_ptr": x, "y_ptr": y, "n": n}
        result = interpret(kernels.copy, args, (triton.cdiv(n, 128),), outputs=["y_ptr"], BLOCK=128)
        assert torch.equal(x, y)
        for key in (("x_ptr", "load"), ("y_ptr", "store")):
            access = result.traffic[key]
            assert access.requested == 4 * n
            # Blocks begin at multiples of 512 bytes, so none shares a sector with another.
            sectors = triton.cdiv(4 * n, 32) * 32
            assert access.sectors == access.block_sectors == access.unique_sectors == sectors
            assert access.instructions == triton.cdiv(n, 128)
        assert result.traffic["x_ptr", "store"].requested == 0
        assert result.grid == (triton.cdiv(n, 128), 1, 1) and result.constexprs == {"BLOCK": 128}

    def test_strided(self):
        # 64 elements 12 bytes apart touch every one of the 24 sectors they span.
        x, y = random(3 * 64), torch.zeros(64)
        result = interpret(kernels.copy_strided, [x, y, 3], (2,), BLOCK=32)
        assert torch.equal(y, x[::3])
        load = result.traffic["x_ptr", "load"]
        assert load.requested == 64 * 4
        assert load.sectors == load.unique_sectors == 3 * 64 * 4
        # 64 bytes apart: a sector each.
        x = random(16 * 64)
        load = interpret(kernels.copy_strided, [x, y, 16], (2,), BLOCK=32).traffic["x_ptr", "load"]
        assert load.sectors == 64 * 32

    def test_repeated_loads_count_by_operation_block_and_kernel(self):
        x, y = random(32), torch.zeros(96)
        load = interpret(kernels.load_twice, [x, y], (3,), BLOCK=32).traffic["x_ptr", "load"]
        assert (load.requested, load.instructions) == (3 * 2 * 128, 6)
        assert (load.sectors, load.block_sectors, load.unique_sectors) == (3 * 2 * 128, 3 * 128, 128)

    def test_a_view_that_begins_inside_a_sector(self):
        x, y = random(64)[4:], torch.zeros(8)
        access = interpret(kernels.copy, [x, y, 8], (1,), BLOCK=8).traffic["x_ptr", "load"]
        assert (access.requested, access.sectors) == (32, 64)

    def test_bool_and_bytes(self):
        x, y = random(64) > 0, torch.zeros(64, dtype=torch.bool)
        assert interpret(kernels.copy, [x, y, 64], (1,), BLOCK=64).traffic.total("load").requested == 64
        assert torch.equal(x, y)

    def test_no_programs(self):
        assert interpret(kernels.copy, [random(4), random(4), 4], (0,), BLOCK=64).traffic.rows() == []


class TestAtomics:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int32])
    def test_add(self, dtype):
        x = torch.arange(1, 9).to(dtype)
        y, old = torch.zeros(2, dtype=dtype), torch.full((8,), -1).to(dtype)
        result = interpret(kernels.atomic_add, [x, y, old], (2,), BLOCK=4)
        assert y.tolist() == [1 + 3 + 5 + 7, 2 + 6 + 8]
        assert old.tolist() == [0, 0, 1, -1, 4, 2, 9, 8]
        size = x.element_size()
        access = result.traffic["y_ptr", "atomic"]
        assert (access.requested, access.sectors, access.unique_sectors) == (7 * size, 64, 32)

    def test_compare_and_swap(self):
        y = torch.zeros(1, dtype=torch.int32)
        interpret(kernels.count_to, [y], (5,))
        assert y.item() == 5


class TestFaults:
    def test_out_of_bounds(self):
        x, y = random(100), torch.full((128,), -1.0)
        with pytest.raises(KernelFault) as caught:
            interpret(kernels.copy, {"x_ptr": x, "y_ptr": y, "n": 128}, (2,), BLOCK=64)
        fault = caught.value
        assert fault.reason.startswith("out of bounds: load of 4 bytes at x_ptr[100]")
        assert fault.block == (1, 0, 0)
        assert "tl.load(x_ptr + i, mask=i < n)" in fault.instruction and fault.line > 0
        assert (y == -1).all()  # program 0 had written half of it

    def test_a_views_own_extent_counts(self):
        storage = random(128)
        with pytest.raises(KernelFault, match=r"out of bounds: store of 4 bytes at y_ptr\[32\]"):
            interpret(kernels.copy, [random(64), storage[32:64], 64], (1,), BLOCK=64)
        with pytest.raises(KernelFault, match=r"out of bounds: load .* at x_ptr\[-8\]"):
            interpret(kernels.shift, [storage[32:64], random(4), -8], (1,))

    def test_empty_tensors_hold_nothing(self):
        with pytest.raises(KernelFault, match="spans 0 elements"):
            interpret(kernels.copy, [torch.zeros(0), random(4), 1], (1,), BLOCK=16)
        interpret(kernels.copy, [torch.zeros(0), random(4), 0], (1,), BLOCK=16)

    def test_an_address_in_no_tensor(self):
        with pytest.raises(KernelFault, match="load at 0x0, which is in no tensor"):
            interpret(kernels.load_null, [torch.zeros(1, dtype=torch.int32)], (1,))

    def test_misaligned(self):
        y = torch.zeros(8, dtype=torch.int8)
        interpret(kernels.store_bytes, [y, 4], (1,))
        assert y.tolist() == [0] * 4 + [1] * 4
        with pytest.raises(KernelFault, match="misaligned: store of 4 bytes at byte 2 of y_ptr"):
            interpret(kernels.store_bytes, [y, 2], (1,))
        with pytest.raises(KernelFault, match="misaligned"):
            interpret(kernels.store_bytes, [torch.zeros(9, dtype=torch.int8)[1:], 0], (1,))

    def test_writing_what_is_not_an_output(self):
        x, y = random(8), random(8, seed=1)
        with pytest.raises(KernelFault, match="store to y_ptr, which is not an output"):
            interpret(kernels.copy, [x, y, 8], (1,), outputs=["x_ptr"], BLOCK=8)
        with pytest.raises(KernelFault, match="atomic to y_ptr, which is not an output"):
            interpret(kernels.count_to, [torch.zeros(1, dtype=torch.int32)], (1,), outputs=[])

    def test_device_assert(self):
        y = torch.zeros(4)
        interpret(kernels.check_positive, [torch.ones(4), y], (1,), BLOCK=4)
        assert (y == 1).all()
        with pytest.raises(KernelFault, match="device_assert: x must be positive"):
            interpret(kernels.check_positive, [torch.zeros(4), y], (1,), BLOCK=4)
        assert (y == 1).all()

    def test_what_triton_refuses(self):
        with pytest.raises(CompilerError, match=r"unknown_name, program \(0, 0, 0\).*\nNameError"):
            interpret(kernels.unknown_name, [random(1)], (1,))
        with pytest.raises(Unsupported, match="inline_asm"):
            interpret(kernels.inline_assembly, [torch.zeros(1, dtype=torch.int32)], (1,))


class TestRaces:
    def test_two_programs_write_different_values(self):
        y = torch.full((1,), 9, dtype=torch.int32)
        message = r"race: two programs wrote different values to y_ptr\[0\]"
        with pytest.raises(KernelFault, match=message) as caught:
            interpret(kernels.write_program_id, [y], (4,), DIVISOR=2)
        assert caught.value.block == (2, 0, 0) and y.item() == 9

    def test_the_same_values_are_counted(self):
        y = torch.full((1,), 9, dtype=torch.int32)
        assert interpret(kernels.write_program_id, [y], (4,), DIVISOR=4).redundant_stores == 3
        assert y.item() == 0

    def test_lanes_of_one_store(self):
        y = torch.zeros(8, dtype=torch.int32)
        result = interpret(kernels.write_lanes, [y], (1,), DIVISOR=2, BLOCK=16)
        assert result.redundant_stores == 8 and y.tolist() == list(range(8))
        assert interpret(kernels.write_lanes, [y], (2,), DIVISOR=2, BLOCK=16).redundant_stores == 8 + 16
        with pytest.raises(KernelFault, match="one store wrote different values"):
            interpret(kernels.write_lanes, [y], (1,), DIVISOR=1, BLOCK=16)

    @pytest.mark.parametrize(
        "source, target, message",
        [(1, 0, r"write to y_ptr\[1\], which another program read"), (0, 1, r"read of x_ptr\[1\]")],
    )
    def test_reading_what_another_writes(self, source, target, message):
        """In either order; here through two arguments that share storage."""
        buffer = random(10)
        with pytest.raises(KernelFault, match=f"race: {message}") as caught:
            interpret(kernels.shift, [buffer[source:], buffer[target:], 0], (4,), outputs=["y_ptr"])
        assert caught.value.block == (1, 0, 0)

    @pytest.mark.parametrize(
        "first, second, message",
        [
            ("load", "store", "write to y_ptr.*which another program read"),
            ("load", "update", "write to y_ptr.*which another program read"),
            ("load", "atomic", "atomic on y_ptr"),
            ("store", "load", "read of y_ptr.*which another program wrote"),
            ("store", "atomic", "atomic on y_ptr"),
            ("atomic", "load", "plain read of y_ptr"),
            ("atomic", "store", "plain write to y_ptr"),
            ("load", "load", None),
            ("atomic", "atomic", None),
            ("store", "store", None),
        ],
    )
    def test_every_pair_of_accesses_by_two_programs(self, first, second, message):
        y, z = torch.zeros(1, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
        call = {
            "kernel": kernels.two_accesses,
            "args": [y, z],
            "grid": (2,),
            "FIRST": first,
            "SECOND": second,
        }
        if message is None:
            interpret(**call)
            return
        with pytest.raises(KernelFault, match=f"race: {message}"):
            interpret(**call)

    def test_own_elements_may_be_read_and_written_again(self):
        x = torch.zeros(64)
        assert interpret(kernels.increment, [x], (4,), BLOCK=16).redundant_stores == 0
        assert (x == 2).all()

    def test_bytes_of_one_element_are_told_apart(self):
        y = torch.zeros(1, dtype=torch.int32)
        interpret(kernels.byte_per_program, [y], (4,))
        assert y.view(torch.int8).tolist() == [0, 1, 2, 3]


class TestKernels:
    def test_helpers_and_methods(self):
        x = random(5, 37)
        y = torch.zeros(5, 37)
        interpret(kernels.softmax, [x, y, 37], (5,), outputs=["y_ptr"], BLOCK=64)
        torch.testing.assert_close(y, x.double().softmax(1).float())

    @pytest.mark.parametrize("config, block", [(0, 64), (1, 128)])
    @pytest.mark.parametrize("n", [256, 200])
    def test_autotuned_with_heuristics(self, config, block, n):
        x, y = random(n), torch.zeros(n)
        grid = lambda args: (triton.cdiv(args["n"], args["BLOCK"]),)  # noqa: E731
        result = interpret(kernels.tuned_copy, [x, y, n], grid, config=config)
        assert torch.equal(x, y)
        assert result.constexprs == {"BLOCK": block, "EVEN": n % block == 0}
        assert result.grid[0] == triton.cdiv(n, block)

    def test_a_configurations_pre_hook(self):
        x, total = random(64), torch.full((1,), 5.0)
        interpret(kernels.hooked_sum, [x, total], (4,), BLOCK=16)
        torch.testing.assert_close(total[0], x.sum())
        with pytest.raises(KernelFault):
            interpret(kernels.hooked_sum, [x, total], (5,), BLOCK=16)
        torch.testing.assert_close(total[0], x.sum())

    @pytest.mark.parametrize("rows, columns", [(8, 32), (5, 24)])
    def test_tensor_descriptors(self, rows, columns):
        x, y = random(rows, columns, dtype=torch.float16), torch.zeros(rows, columns, dtype=torch.float16)
        result = interpret(kernels.copy_described, [x, y, rows, columns], (1,), ROWS=8, COLUMNS=32)
        assert torch.equal(x, y)
        assert result.traffic["y_ptr", "store"].requested == 2 * rows * columns

    def test_pointers_into_two_tensors(self):
        x, y, z = random(8), random(8, seed=1), torch.zeros(8)
        interpret(kernels.choose, [x, y, z], (1,), BLOCK=8)
        assert torch.equal(z, torch.where(torch.arange(8) % 2 == 0, x, y))

    def test_three_dimensional_grid_runs_every_program(self):
        y = torch.zeros(1, dtype=torch.int32)
        result = interpret(kernels.write_program_id, [y], (2, 3, 4), DIVISOR=2)
        assert result.redundant_stores == 23 and result.grid == (2, 3, 4)

    def test_launch_options_have_no_effect(self):
        x, y = random(8), torch.zeros(8)
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
        a, b, c = random(m, k, dtype=dtype), random(k, n, dtype=dtype, seed=1), torch.full((m, n), 99.0)
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
        x = random(rows, columns, dtype=torch.bfloat16) * scale
        y = torch.zeros_like(x)
        interpret(kernels.softmax, [x, y, columns], (rows,), BLOCK=triton.next_power_of_2(columns))
        torch.testing.assert_close(y.double(), x.double().softmax(1), rtol=2**-8, atol=1e-6)


class TestTritonStaysAsItWas:
    SIGNATURE = {"x_ptr": "*bf16", "y_ptr": "*bf16", "columns": "i32", "BLOCK": "constexpr"}

    def compile(self):
        source = ASTSource(kernels.softmax, self.SIGNATURE, {"BLOCK": 64})
        return triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["ptx"]

    def test_the_same_kernel_still_compiles(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "before"))
        before = self.compile()
        x, y = random(2, 40, dtype=torch.bfloat16), torch.zeros(2, 40, dtype=torch.bfloat16)
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
            interpret(kernels.softmax, [random(40), torch.zeros(40), 40], grid, BLOCK=64)
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
            ({"args": [random(4), "a", 4]}, TypeError, "argument 'y_ptr' must be a tensor, int.* got 'a'"),
            ({"args": [random(4), random(4), 2**64]}, ValueError, "argument 'n' must fit 64 bits"),
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
            ({"BLOCK": random(1)}, TypeError, "argument 'BLOCK' is a tl.constexpr, got a tensor"),
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
        call = {"kernel": kernels.copy, "args": [random(4), random(4), 4], "grid": (1,), "BLOCK": 4}
        with pytest.raises(error, match=message):
            interpret(**{**call, **change})

    def test_configurations(self):
        for config in (-1, 2):
            with pytest.raises(ValueError, match=r"config must be in 0\.\.1"):
                interpret(kernels.tuned_copy, [random(4), random(4), 4], (1,), config=config)
        with pytest.raises(TypeError, match="'BLOCK' is given twice, by the call and the autotuner"):
            interpret(kernels.tuned_copy, [random(4), random(4), 4], (1,), BLOCK=4)

    def test_kernels_made_for_the_stock_interpreter(self):
        function = triton.runtime.interpreter.InterpretedFunction(kernels.copy.fn)
        with pytest.raises(TypeError, match="TRITON_INTERPRET"):
            interpret(function, [random(4), random(4), 4], (1,), BLOCK=4)

    @pytest.mark.parametrize("bias", [None, 2.5])
    def test_optional_tensors_and_annotated_numbers(self, bias):
        x = random(8)
        y = torch.zeros(8)
        bias = None if bias is None else torch.full((8,), bias)
        interpret(kernels.add_bias, {"x_ptr": x, "bias_ptr": bias, "y_ptr": y, "n": 8}, (1,), BLOCK=16)
        assert torch.equal(y, x if bias is None else x + bias)

    def test_strided_and_parameter_tensors(self):
        x = torch.nn.Parameter(random(8, 8)).t()
        y = torch.zeros(64)
        interpret(kernels.copy, [x, y, 64], (1,), BLOCK=64)
        assert torch.equal(y.view(8, 8).t(), x)
