"""Kernels that test_interpreter.py runs. Triton reads their source, so they live in a file of their own."""

import triton
import triton.language as tl


@triton.jit
def copy(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.load(x_ptr + i, mask=i < n), mask=i < n)


@triton.jit
def copy_back(x_ptr, y_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(x_ptr + i, tl.load(y_ptr + i))


@triton.jit
def loops(out_ptr, start, end, DTYPE: tl.constexpr):
    total = tl.zeros((), tl.int64)
    for i in range(start, end):
        tl.static_assert(i.dtype == DTYPE)
        total += i.to(tl.int64)
    tl.store(out_ptr, total)
    total = tl.zeros((), tl.int64)
    for i in tl.range(2, 6, 2, num_stages=2):
        total += i.to(tl.int64)
    tl.store(out_ptr + 1, total)
    total = tl.zeros((), tl.int64)
    for i in range(3):
        total += i.to(tl.int64)
    tl.store(out_ptr + 2, total)
    total = tl.zeros((), tl.int64)
    for i in range(3, 1, -1):
        total += i.to(tl.int64)
    tl.store(out_ptr + 3, total)


@triton.jit
def same_names(args, config, outputs):
    tl.store(args, config)
    tl.store(args + 1, outputs)


@triton.jit
def copy_strided(x_ptr, y_ptr, stride, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.load(x_ptr + i * stride))


@triton.jit
def load_twice(x_ptr, y_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    total = tl.load(x_ptr + i) + tl.load(x_ptr + i)
    tl.store(y_ptr + tl.program_id(0) * BLOCK + i, total)


@triton.jit
def cast(x_ptr, y_ptr, ROUNDING: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = tl.load(x_ptr + i).to(y_ptr.dtype.element_ty, fp_downcast_rounding=ROUNDING)
    tl.store(y_ptr + i, y)


@triton.jit
def binary(x_ptr, y_ptr, out_ptr, OP: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i)
    y = tl.load(y_ptr + i)
    if OP == "add":
        out = x + y
    elif OP == "sub":
        out = x - y
    elif OP == "mul":
        out = x * y
    elif OP == "max":
        out = tl.maximum(x, y)
    elif OP == "where":
        out = tl.where(x < y, x, -y)
    else:
        out = tl.abs(x)
    tl.store(out_ptr + i, out)


@triton.jit
def scale(x_ptr, y_ptr, factor, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    y = tl.load(x_ptr + i) * factor
    tl.static_assert(y.dtype == tl.float32, "a float argument is fp32, which bf16 times it is too")
    tl.store(y_ptr + i, y)


@triton.jit
def fma(x_ptr, y_ptr, z_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.fma(tl.load(x_ptr + i), tl.load(y_ptr + i), tl.load(z_ptr + i)))


@triton.jit
def dot(a_ptr, b_ptr, c_ptr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, PRECISION: tl.constexpr):
    m = tl.arange(0, M)[:, None]
    n = tl.arange(0, N)[None, :]
    a = tl.load(a_ptr + m * K + tl.arange(0, K)[None, :])
    b = tl.load(b_ptr + tl.arange(0, K)[:, None] * N + n)
    tl.store(c_ptr + m * N + n, tl.dot(a, b, input_precision=PRECISION))


@triton.jit
def matmul(a_ptr, b_ptr, c_ptr, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    m = tl.program_id(0) * BM + tl.arange(0, BM)[:, None]
    n = tl.program_id(1) * BN + tl.arange(0, BN)[None, :]
    acc = tl.zeros((BM, BN), tl.float32)
    for start in range(0, tl.cdiv(K, BK)):
        k = start * BK + tl.arange(0, BK)
        a = tl.load(a_ptr + m * K + k[None, :], mask=(m < M) & (k[None, :] < K), other=0.0)
        b = tl.load(b_ptr + k[:, None] * N + n, mask=(k[:, None] < K) & (n < N), other=0.0)
        acc = tl.dot(a, b, acc)
    tl.store(c_ptr + m * N + n, acc.to(c_ptr.dtype.element_ty), mask=(m < M) & (n < N))


@triton.jit
def row_max(x):
    return tl.max(x, axis=0)


@triton.jit
def exp_shifted(x):
    shifted = x - row_max(x)
    return tl.exp(shifted)


@triton.jit
def softmax(x_ptr, y_ptr, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * columns + i, mask=i < columns, other=-float("inf"))
    e = exp_shifted(x.to(tl.float32))
    tl.store(y_ptr + row * columns + i, e / e.sum(axis=0), mask=i < columns)


@triton.autotune(configs=[triton.Config({"BLOCK": 64}), triton.Config({"BLOCK": 128}, num_warps=8)], key=["n"])
@triton.heuristics({"EVEN": lambda args: args["n"] % args["BLOCK"] == 0})
@triton.jit
def tuned_copy(x_ptr, y_ptr, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if EVEN:
        tl.store(y_ptr + i, tl.load(x_ptr + i))
    else:
        tl.store(y_ptr + i, tl.load(x_ptr + i, mask=i < n), mask=i < n)


def _zero_total(args):
    args["total_ptr"].zero_()


@triton.autotune(configs=[triton.Config({}, pre_hook=_zero_total)], key=[])
@triton.jit
def hooked_sum(x_ptr, total_ptr, BLOCK: tl.constexpr):
    x = tl.load(x_ptr + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))
    tl.atomic_add(total_ptr, tl.sum(x))


@triton.jit
def atomic_add(x_ptr, y_ptr, old_ptr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    old = tl.atomic_add(y_ptr + i % 2, tl.load(x_ptr + i), mask=i != 3)
    tl.store(old_ptr + i, old, mask=i != 3)


@triton.jit
def count_to(y_ptr):
    tl.atomic_cas(y_ptr, tl.program_id(0), tl.program_id(0) + 1)


@triton.jit
def write_program_id(y_ptr, DIVISOR: tl.constexpr):
    tl.store(y_ptr, tl.program_id(0) // DIVISOR)


@triton.jit
def write_lanes(y_ptr, DIVISOR: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y_ptr + i // 2, i // DIVISOR)


@triton.jit
def shift(x_ptr, y_ptr, by):
    """Program p moves element p + by of x to element p of y."""
    p = tl.program_id(0)
    tl.store(y_ptr + p, tl.load(x_ptr + p + by))


@triton.jit
def one_access(y_ptr, z_ptr, KIND: tl.constexpr):
    if KIND == "load" or KIND == "update":
        tl.store(z_ptr, tl.load(y_ptr))
    if KIND == "store" or KIND == "update":
        tl.store(y_ptr, 1)
    if KIND == "atomic":
        tl.atomic_add(y_ptr, 1)


@triton.jit
def two_accesses(y_ptr, z_ptr, FIRST: tl.constexpr, SECOND: tl.constexpr):
    """Programs 0 and 1 access the same element."""
    if tl.program_id(0) == 0:
        one_access(y_ptr, z_ptr, FIRST)
    else:
        one_access(y_ptr, z_ptr + 1, SECOND)


@triton.jit
def increment(x_ptr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x_ptr + i, tl.load(x_ptr + i) + 1)
    tl.store(x_ptr + i, tl.load(x_ptr + i) + 1)


@triton.jit
def store_bytes(y_ptr, offset):
    """Stores 4 bytes of 1 at a byte offset."""
    address = y_ptr.to(tl.pointer_type(tl.int8)) + offset
    tl.store(address.to(tl.pointer_type(tl.int32)), 0x01010101)


@triton.jit
def byte_per_program(y_ptr):
    tl.store(y_ptr.to(tl.pointer_type(tl.int8)) + tl.program_id(0), tl.program_id(0).to(tl.int8))


@triton.jit
def load_null(y_ptr):
    tl.store(y_ptr, tl.load((y_ptr.to(tl.int64) * 0).to(tl.pointer_type(tl.int32))))


@triton.jit
def choose(x_ptr, y_ptr, z_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(z_ptr + i, tl.load(tl.where(i % 2 == 0, x_ptr + i, y_ptr + i)))


@triton.jit
def check_positive(x_ptr, y_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, x)
    tl.device_assert(x > 0, "x must be positive")


@triton.jit
def merge_moments(n_a, mean_a, m2_a, n_b, mean_b, m2_b):
    n = n_a + n_b
    delta = mean_b - mean_a
    return n, mean_a + delta * n_b / n, m2_a + m2_b + delta * delta * n_a * n_b / n


@triton.jit
def moments(x_ptr, out_ptr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Mean and variance of each row, by Chan's merging."""
    r = tl.arange(0, ROWS)
    x = tl.load(x_ptr + r[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :])
    n, mean, m2 = tl.reduce((x * 0 + 1, x, x * 0), 1, merge_moments)
    tl.store(out_ptr + r, mean)
    tl.store(out_ptr + ROWS + r, m2 / n)


@triton.jit
def totals(x_ptr, y_ptr, sums_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i)
    tl.store(y_ptr + i, tl.cumsum(x, 0))
    tl.store(sums_ptr, tl.sum(x, 0))


@triton.jit
def unknown_name(y_ptr):
    tl.store(y_ptr, not_defined_anywhere)  # noqa: F821


@triton.jit
def inline_assembly(y_ptr):
    one = tl.inline_asm_elementwise("mov.u32 $0, 1;", "=r", [], dtype=tl.int32, is_pure=True, pack=1)
    tl.store(y_ptr, one)


@triton.jit
def plus(a, b):
    return a + b


@triton.jit
def running_total(x_ptr, y_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.associative_scan(tl.load(x_ptr + i), 0, plus))


@triton.jit
def copy_described(x_ptr, y_ptr, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    x = tl.make_tensor_descriptor(x_ptr, [rows, columns], [columns, 1], [ROWS, COLUMNS])
    y = tl.make_tensor_descriptor(y_ptr, [rows, columns], [columns, 1], [ROWS, COLUMNS])
    y.store([0, 0], x.load([0, 0]))


@triton.jit
def add_bias(x_ptr, bias_ptr, y_ptr, n: tl.int64, BLOCK: tl.constexpr):
    tl.static_assert(n.dtype == tl.int64)
    i = tl.arange(0, BLOCK)
    y = tl.load(x_ptr + i, mask=i < n)
    if bias_ptr is not None:
        y += tl.load(bias_ptr + i, mask=i < n)
    tl.store(y_ptr + i, y, mask=i < n)


@triton.jit
def store_by_even_programs(y_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    inside = (i < n)[:, None] & (i < n)[None, :]
    even = tl.program_id(0) % 2
    tl.store(y_ptr + i[:, None] * n + i[None, :], 1.0, mask=inside & (even == 0))
