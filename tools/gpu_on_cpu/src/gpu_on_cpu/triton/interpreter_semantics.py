"""Arithmetic and memory operations of Triton's interpreter, as the NVIDIA backend has them.

Triton's own interpreter keeps bf16 in uint16 arrays and computes with those integers. `Builder` widens them
to fp32, computes, and rounds each result to nearest even. Arithmetic in fp32 and wider types is numpy's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import min_dot_size
from triton.runtime import interpreter as stock
from triton.runtime.interpreter import TensorHandle

from gpu_on_cpu.errors import KernelFault, Unsupported
from gpu_on_cpu.triton.interpreter_memory import Memory

_TF32_MASK = np.uint32(0xFFFFE000)  # sign, 8 bits of exponent, 10 of mantissa


def bf16_to_fp32(bits: np.ndarray) -> np.ndarray:
    """Exact. uint16 bits to float32, any shape."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _nudged_to_odd(rounded: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Turns round-to-nearest into round-to-odd, after which a second rounding gives what one rounding would.

    Args:
        rounded: float32 or float64, rounded to nearest.
        error: sign of (exact value - rounded); 0 where exact, NaN where there is none.
    """
    even = rounded.view(f"u{rounded.itemsize}") & 1 == 0
    direction = np.where(error > 0, np.inf, -np.inf).astype(rounded.dtype)
    move = even & ((error > 0) | (error < 0))
    return np.where(move, np.nextafter(rounded, direction), rounded)


def fp_to_bf16(values: np.ndarray, toward_zero: bool = False) -> np.ndarray:
    """Floats of any size to bf16 bits, rounded once, to nearest even or toward zero. NaN stays NaN."""
    narrow = values.astype(np.float32)
    if values.dtype.itemsize > 4:
        error = np.where(np.isinf(values), 0, values - narrow)  # exact: the two are neighbours
        narrow = _nudged_to_odd(narrow, error)
    bits = narrow.view(np.uint32)
    half = np.uint32(0) if toward_zero else np.uint32(0x7FFF) + ((bits >> 16) & 1)
    rounded = ((bits + half) >> 16).astype(np.uint16)
    quiet_nan = ((bits >> 16) | 0x40).astype(np.uint16)
    return np.where(np.isnan(narrow), quiet_nan, rounded)


def tf32_operand(values: np.ndarray) -> np.ndarray:
    """What mma.tf32 sees of fp32: Triton passes the bits as they are, the hardware ignores the low 13."""
    return (values.view(np.uint32) & _TF32_MASK).view(np.float32)


def fused_multiply_add(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """x * y + z of floats of at most 32 bits, in float64 rounded to odd: rounding it once more gives fma."""
    x, y, z = (np.asarray(v, np.float64) for v in (x, y, z))
    product = x * y  # exact: 2 * 24 bits
    total = np.asarray(product + z)
    part = total - product
    return _nudged_to_odd(total, (product - (total - part)) + (z - part))  # Knuth's two-sum


def _is_bf16(handle: TensorHandle) -> bool:
    return handle.dtype.scalar == tl.bfloat16


def _widened(handle: TensorHandle) -> np.ndarray:
    return bf16_to_fp32(handle.data) if _is_bf16(handle) else handle.data


def _narrowed(values: np.ndarray, dtype: tl.dtype) -> TensorHandle:
    """A handle of floats rounded to `dtype`; comparisons' booleans stay what they are."""
    if values.dtype == np.bool_:
        return TensorHandle(values, tl.int1)
    if dtype == tl.bfloat16:
        return TensorHandle(fp_to_bf16(values), dtype)
    return TensorHandle(values.astype(stock._get_np_dtype(dtype)), dtype)


class Builder(stock.InterpreterBuilder):
    """Triton's interpreter, operation by operation, over a Memory."""

    def __init__(self, memory: Memory) -> None:
        super().__init__()
        self.memory = memory
        # debug: device_assert is checked. Overflow of integers is left to wrap, as the hardware does.
        self.options = stock.InterpreterOptions(debug=True, sanitize_overflow=False)
        self.codegen_fns["min_dot_size"] = min_dot_size(GPUTarget("cuda", 80, 32))

    def get_bf16(self, value: float) -> TensorHandle:
        return TensorHandle(fp_to_bf16(np.array([value], np.float64)), tl.bfloat16)

    # Arithmetic. The stock class sends nearly every operation through one of these.

    def binary_op(self, lhs: TensorHandle, rhs: TensorHandle, op: Callable[..., np.ndarray]) -> TensorHandle:
        if not _is_bf16(lhs):
            return super().binary_op(lhs, rhs, op)
        return _narrowed(op(_widened(lhs), _widened(rhs)), tl.bfloat16)

    def unary_op(self, arg: TensorHandle, op: Callable[..., np.ndarray]) -> TensorHandle:
        if not _is_bf16(arg):
            return super().unary_op(arg, op)
        return _narrowed(op(_widened(arg)), tl.bfloat16)

    def ternary_op(
        self, lhs: TensorHandle, rhs: TensorHandle, other: TensorHandle, op: Callable[..., np.ndarray]
    ) -> TensorHandle:
        if not _is_bf16(other) or op is np.where:  # a selection moves bits
            return super().ternary_op(lhs, rhs, other, op)
        return _narrowed(op(_widened(lhs), _widened(rhs), _widened(other)), tl.bfloat16)

    def create_fma(self, x: TensorHandle, y: TensorHandle, z: TensorHandle) -> TensorHandle:
        """One rounding for fp16, bf16 and fp32. fp64 is rounded twice: numpy has no type for its products."""
        dtype = z.dtype.scalar
        if dtype not in (tl.float16, tl.bfloat16, tl.float32):
            return super().create_fma(x, y, z)
        return _narrowed(fused_multiply_add(_widened(x), _widened(y), _widened(z)), dtype)

    def create_dot(
        self,
        a: TensorHandle,
        b: TensorHandle,
        d: TensorHandle,
        input_precision: Any,
        max_num_imprecise_acc: int,
    ) -> TensorHandle:
        """Operands of 16 bits and tf32 multiply exactly and accumulate in fp32, in numpy's order."""
        dtype = a.dtype.scalar
        if dtype == tl.float32 and input_precision == ir.INPUT_PRECISION.TF32:
            lhs, rhs = tf32_operand(a.data), tf32_operand(b.data)
        elif dtype in (tl.float16, tl.bfloat16):
            lhs, rhs = _widened(a).astype(np.float32), _widened(b).astype(np.float32)
        else:
            return super().create_dot(a, b, d, input_precision, max_num_imprecise_acc)
        return _narrowed(np.matmul(lhs, rhs) + d.data, d.dtype.scalar)

    # Casts.

    def cast_impl(self, src: TensorHandle, dst_type: tl.dtype) -> TensorHandle:
        values, dtype = _widened(src), dst_type.scalar
        if dtype != tl.bfloat16:
            return TensorHandle(values.astype(stock._get_np_dtype(dtype)), dtype)
        if values.dtype.kind != "f":  # wide enough to be exact: as sm_90 does, one rounding
            values = values.astype(np.longdouble if values.dtype.itemsize == 8 else np.float64)
        return TensorHandle(fp_to_bf16(values), dtype)

    def create_fp_to_fp(self, src: TensorHandle, dst_type: tl.dtype, rounding_mode: Any) -> TensorHandle:
        toward_zero = rounding_mode == ir.ROUNDING_MODE.RTZ
        if min(src.dtype.scalar.primitive_bitwidth, dst_type.scalar.primitive_bitwidth) == 8:
            return super().create_fp_to_fp(src, dst_type, rounding_mode)
        if not toward_zero:
            return self.cast_impl(src, dst_type)
        values = _widened(src)
        if dst_type.scalar == tl.bfloat16:
            return TensorHandle(fp_to_bf16(values, toward_zero=True), tl.bfloat16)
        rounded = values.astype(stock._get_np_dtype(dst_type))
        too_far = np.abs(rounded.astype(values.dtype)) > np.abs(values)
        rounded = np.where(too_far, np.nextafter(rounded, np.zeros_like(rounded)), rounded)
        return TensorHandle(rounded, dst_type.scalar)

    # Memory. Lanes that are masked off without `other` read zeros (the hardware leaves them undefined).

    def create_masked_load(
        self,
        ptrs: TensorHandle,
        mask: TensorHandle | np.ndarray,
        other: TensorHandle | None,
        cache_modifier: Any,
        eviction_policy: Any,
        is_volatile: bool,
    ) -> TensorHandle:
        dtype = ptrs.get_element_ty()
        result = np.zeros(ptrs.data.shape, stock._get_np_dtype(dtype))
        if other is not None:
            result[...] = other.data
        active = _active(mask, ptrs)
        if active.any():
            result[active] = self.memory.load(_addresses(ptrs, active), result.itemsize).view(result.dtype)
        return TensorHandle(result, dtype)

    def create_masked_store(
        self,
        ptrs: TensorHandle,
        value: TensorHandle,
        mask: TensorHandle | np.ndarray,
        cache_modifier: Any,
        eviction_policy: Any,
    ) -> None:
        active = _active(mask, ptrs)
        if active.any():
            data = np.broadcast_to(value.data, ptrs.data.shape)[active]
            self.memory.store(_addresses(ptrs, active), data.view(f"u{data.itemsize}"))

    def create_atomic_rmw(
        self, rmwOp: Any, ptr: TensorHandle, val: TensorHandle, mask: TensorHandle, sem: Any, scope: Any
    ) -> TensorHandle:
        active = _active(mask, ptr)
        real = self._atomic_addresses(ptr, active)
        if not _is_bf16(val):
            return super().create_atomic_rmw(rmwOp, real, val, TensorHandle(active, tl.int1), sem, scope)
        if rmwOp != ir.ATOMIC_OP.FADD:
            raise Unsupported(f"bf16 atomic {rmwOp}")
        return self._bf16_atomic_add(real.data, np.broadcast_to(val.data, active.shape), active)

    def create_atomic_cas(
        self, ptr: TensorHandle, cmp: TensorHandle, val: TensorHandle, sem: Any, scope: Any
    ) -> TensorHandle:
        real = self._atomic_addresses(ptr, np.ones(ptr.data.shape, np.bool_))
        return super().create_atomic_cas(real, cmp, val, sem, scope)

    def _atomic_addresses(self, ptr: TensorHandle, active: np.ndarray) -> TensorHandle:
        real = np.zeros(ptr.data.shape, np.uint64)
        if active.any():
            itemsize = stock._get_np_dtype(ptr.get_element_ty()).itemsize
            real[active] = self.memory.atomic(_addresses(ptr, active), itemsize)
        return TensorHandle(real, ptr.dtype)

    def _bf16_atomic_add(self, real: np.ndarray, addends: np.ndarray, active: np.ndarray) -> TensorHandle:
        """One lane after another: several may add to one element, each rounding."""
        old = np.zeros(real.shape, np.uint16)
        for lane in zip(*np.nonzero(active), strict=True):
            cell = ctypes.c_uint16.from_address(int(real[lane]))
            old[lane] = cell.value
            cell.value = int(fp_to_bf16(bf16_to_fp32(old[lane]) + bf16_to_fp32(addends[lane])))
        return TensorHandle(old, tl.bfloat16)

    # Statements about values.

    def create_assert(self, condition: TensorHandle, message: str) -> None:
        if not condition:
            raise KernelFault(f"device_assert: {message}", block=self.memory.block)

    def create_assume(self, condition: TensorHandle) -> None:
        if not condition:
            raise KernelFault("assume: the assumption does not hold", block=self.memory.block)


def _active(mask: TensorHandle | np.ndarray, ptrs: TensorHandle) -> np.ndarray:
    """Booleans of the pointers' shape. Tensor descriptors pass a bare array, a scalar's comparison makes integers."""
    data = mask if isinstance(mask, np.ndarray) else mask.data
    return np.broadcast_to(data.astype(np.bool_, copy=False), ptrs.data.shape)


def _addresses(ptrs: TensorHandle, active: np.ndarray) -> np.ndarray:
    return ptrs.data[active].astype(np.int64)


class Reduce(stock.ReduceOps):
    """Reductions that round after every step, where the stock ones add bf16 bits as integers."""

    def sum(self, input: tl.tensor) -> Any:
        if input.dtype.is_fp16() or input.dtype.is_bf16():
            return self.generic_reduce((input,))
        return super().sum(input)

    def generic_reduce(self, input: tuple[tl.tensor, ...]) -> list[tl.tensor]:
        """Neighbours pairwise, whole slices at a time, until one is left: few calls of the combiner."""
        ndim = input[0].handle.data.ndim
        axis = self.axis or 0
        dtypes = [t.dtype for t in input]
        arrays = [t.handle.data.ravel() if self.axis is None else t.handle.data for t in input]
        parts = [np.moveaxis(a, axis, 0) for a in arrays]
        while len(parts[0]) > 1:
            typed = list(zip(parts, dtypes, strict=True))
            combined = self.combine_fn(*(self.to_tensor(p[i::2], d) for i in (0, 1) for p, d in typed))
            combined = combined if isinstance(combined, (tuple, tl.tuple)) else (combined,)
            cast = stock.interpreter_semantic.cast
            parts = [cast(c, d).handle.data for c, d in zip(combined, dtypes, strict=True)]
        results = [self._shaped(p[0], axis, ndim) for p in parts]
        return [self.to_tensor(r, d) for r, d in zip(results, dtypes, strict=True)]

    def _shaped(self, result: np.ndarray, axis: int, ndim: int) -> np.ndarray:
        if not self.keep_dims:
            return result
        return result.reshape((1,) * ndim) if self.axis is None else np.expand_dims(result, axis)


class Scan(stock.ScanOps):
    """Scans of bf16 go element by element, where the stock ones add bits as integers."""

    def cumsum(self, input: tl.tensor) -> list[tl.tensor]:
        return self.generic_scan([input]) if input.dtype.is_bf16() else super().cumsum(input)

    def cumprod(self, input: tl.tensor) -> list[tl.tensor]:
        return self.generic_scan([input]) if input.dtype.is_bf16() else super().cumprod(input)
