"""What the interpreter tells of memory: traffic, accesses out of bounds, races."""

import interpreter_kernels as kernels
import pytest
import torch
import triton
from support import rand

from gpu_on_cpu.errors import CompilerError, KernelFault, Unsupported
from gpu_on_cpu.triton.interpreter import interpret


class TestTraffic:
    @pytest.mark.parametrize("n", [1, 31, 128, 129, 1000])
    def test_masked_copy(self, n):
        x, y = rand(n), torch.full((n,), -1.0)
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
        x, y = rand(3 * 64), torch.zeros(64)
        result = interpret(kernels.copy_strided, [x, y, 3], (2,), BLOCK=32)
        assert torch.equal(y, x[::3])
        load = result.traffic["x_ptr", "load"]
        assert load.requested == 64 * 4
        assert load.sectors == load.unique_sectors == 3 * 64 * 4
        # 64 bytes apart: a sector each.
        x = rand(16 * 64)
        load = interpret(kernels.copy_strided, [x, y, 16], (2,), BLOCK=32).traffic["x_ptr", "load"]
        assert load.sectors == 64 * 32

    def test_repeated_loads_count_by_operation_block_and_kernel(self):
        x, y = rand(32), torch.zeros(96)
        load = interpret(kernels.load_twice, [x, y], (3,), BLOCK=32).traffic["x_ptr", "load"]
        assert (load.requested, load.instructions) == (3 * 2 * 128, 6)
        assert (load.sectors, load.block_sectors, load.unique_sectors) == (3 * 2 * 128, 3 * 128, 128)

    def test_a_view_that_begins_inside_a_sector(self):
        x, y = rand(64)[4:], torch.zeros(8)
        access = interpret(kernels.copy, [x, y, 8], (1,), BLOCK=8).traffic["x_ptr", "load"]
        assert (access.requested, access.sectors) == (32, 64)

    def test_bool_and_bytes(self):
        x, y = rand(64) > 0, torch.zeros(64, dtype=torch.bool)
        assert interpret(kernels.copy, [x, y, 64], (1,), BLOCK=64).traffic.total("load").requested == 64
        assert torch.equal(x, y)

    def test_no_programs(self):
        assert interpret(kernels.copy, [rand(4), rand(4), 4], (0,), BLOCK=64).traffic.rows() == []


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
        x, y = rand(100), torch.full((128,), -1.0)
        with pytest.raises(KernelFault) as caught:
            interpret(kernels.copy, {"x_ptr": x, "y_ptr": y, "n": 128}, (2,), BLOCK=64)
        fault = caught.value
        assert fault.reason.startswith("out of bounds: load of 4 bytes at x_ptr[100]")
        assert fault.block == (1, 0, 0)
        assert "tl.load(x_ptr + i, mask=i < n)" in fault.instruction and fault.line > 0
        assert (y == -1).all()  # program 0 had written half of it

    def test_a_views_own_extent_counts(self):
        storage = rand(128)
        with pytest.raises(KernelFault, match=r"out of bounds: store of 4 bytes at y_ptr\[32\]"):
            interpret(kernels.copy, [rand(64), storage[32:64], 64], (1,), BLOCK=64)
        with pytest.raises(KernelFault, match=r"out of bounds: load .* at x_ptr\[-8\]"):
            interpret(kernels.shift, [storage[32:64], rand(4), -8], (1,))

    def test_empty_tensors_hold_nothing(self):
        with pytest.raises(KernelFault, match="spans 0 elements"):
            interpret(kernels.copy, [torch.zeros(0), rand(4), 1], (1,), BLOCK=16)
        interpret(kernels.copy, [torch.zeros(0), rand(4), 0], (1,), BLOCK=16)

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
        x, y = rand(8), rand(8, seed=1)
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
            interpret(kernels.unknown_name, [rand(1)], (1,))
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
        buffer = rand(10)
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
