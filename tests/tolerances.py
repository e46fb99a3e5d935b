"""The one table of tolerances: what every test of this project compares with, and why that much is right.

Errors are norm-wise, ``|got - want| / |want|`` in fp64 over a whole tensor: single values near zero do not
count for more than they weigh, and one number can be compared between two ways to compute it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Tolerance:
    """One row: an error may be at most `relative`, and at most `factor` times stock's own error.

    floor: an error up to here never counts as worse than stock's. None: no such bound.
    """

    name: str
    dtype: torch.dtype | None
    relative: float | None
    factor: float | None
    floor: float
    reason: str


def _one_rounding(dtype: torch.dtype) -> float:
    """Norm-wise error of exact values rounded once: 2^-p/sqrt(12) over mantissas of 1 to 2, about eps/4."""
    return torch.finfo(dtype).eps / 4


TABLE = (
    Tolerance(
        "parity",
        torch.float64,
        1e-10,
        None,
        0.0,
        "same arithmetic in another order: 1e-16 per operation, times long sums and the condition of BN",
    ),
    Tolerance(
        "parity",
        torch.float32,
        1e-4,
        2.0,
        2 * torch.finfo(torch.float32).eps,
        "against fp64; stock itself is at 1e-7 to 1e-5, more where variances are small beside means; "
        "Winograd's 3x3 convolutions add a few roundings: 2e-7 in running variances where stock has 1e-7",
    ),
    Tolerance(
        "parity",
        torch.bfloat16,
        None,
        2.0,
        _one_rounding(torch.bfloat16),
        "8 bits of mantissa: the error grows with depth, only stock on the same data says how much is right",
    ),
    Tolerance(
        "parity", torch.float16, None, 2.0, _one_rounding(torch.float16), "11 bits of mantissa: as bf16"
    ),
    Tolerance(
        "parity in tf32",
        torch.float32,
        3e-3,
        None,
        0.0,
        "tensor cores cut factors to 11 bits, by 3.5e-4 on average: a variance has four of them",
    ),
    Tolerance(
        "gram",
        torch.bfloat16,
        None,
        1.05,
        _one_rounding(torch.bfloat16),
        "no less exact than stock; of dx both round twice, so that it is equal, up to the noise of sampling",
    ),
    Tolerance(
        "gram channel mean",
        torch.bfloat16,
        1e-3,
        None,
        0.0,
        "of the normalised pre-activation: a bias that rounding leaves behind adds up over blocks",
    ),
    Tolerance(
        "op",
        torch.float64,
        1e-12,
        None,
        0.0,
        "one op is one or two passes: 1e-16 times its sums and the condition of its input",
    ),
    Tolerance("op", torch.float32, 1e-5, None, 0.0, "as op fp64 with eps = 1.2e-7"),
    Tolerance(
        "op",
        torch.bfloat16,
        2e-2,
        None,
        0.0,
        "fp32 inside; one rounding of the result, one of a prologue, one before a sum: eps = 7.8e-3",
    ),
    Tolerance("op", torch.float16, 2e-3, None, 0.0, "as op bf16 with eps = 9.8e-4"),
    Tolerance(
        "op over many rows",
        torch.float32,
        2e-6,
        None,
        0.0,
        "of 10^5 terms, against fp64: some hundred are summed at a time; one sum in fp32 is at 1e-4",
    ),
    Tolerance(
        "training curve",
        torch.float32,
        1e-3,
        None,
        0.0,
        "losses of the first steps: training multiplies rounding differences of 1e-7 by a few units per step",
    ),
)
_ROWS = {(row.name, row.dtype): row for row in TABLE}

# Relative to the incoming gradients, for results whose exact value is 0 (the bias of a convolution before
# batch norm): stock returns rounding noise of about this size, a fused unit noise or 0, and an error relative
# to 0 says nothing.
ZERO_GRADIENT = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


def tolerance(name: str, dtype: torch.dtype | None) -> Tolerance:
    """The row of this name and dtype."""
    return _ROWS[name, dtype]


def absolute_error(got: Tensor, want: Tensor) -> float:
    """``|got - want|`` in fp64; inf where one is finite and the other is not."""
    assert tuple(got.shape) == tuple(want.shape), f"shape {tuple(got.shape)}, expected {tuple(want.shape)}"
    got, want = got.detach().double(), want.detach().double()
    equal = (got == want) | (got.isnan() & want.isnan())
    error = torch.where(equal, 0.0, got - want)
    return error.norm().item() if error.isfinite().all() else float("inf")


def relative_error(got: Tensor, want: Tensor, scale: float | None = None) -> float:
    """``|got - want| / |want|`` in fp64 over the whole tensor.

    Args: scale: what to divide by instead of ``|want|``, for a `want` that is 0 up to rounding.
    """
    error = absolute_error(got, want)
    if error == 0.0:
        return 0.0
    finite = want.detach().double()
    size = finite[finite.isfinite()].norm().item() if scale is None else scale
    return error / size if size else float("inf")


def assert_close(
    got: Tensor,
    want: Tensor,
    name: str = "parity",
    dtype: torch.dtype | None = None,
    what: str = "result",
    scale: float | None = None,
):
    """`got` agrees with `want` (usually fp64) to the table's row of `name` and `dtype` (that of `got`).

    Args: scale: as in `relative_error`.
    """
    row = tolerance(name, got.dtype if dtype is None else dtype)
    assert row.relative is not None, f"{row} has no bound of its own: use assert_not_worse_than_stock"
    error = relative_error(got, want, scale)
    assert error <= row.relative, f"{what}: relative error {error:.2e} over {row.relative:.0e} ({row.reason})"


def assert_not_worse_than_stock(
    fused_error: float, stock_error: float, factor: float = 2.0, floor: float = 0.0, what: str = "result"
):
    """The fused error is at most `factor` times the stock error, or below `floor`."""
    bound = max(factor * stock_error, floor)
    assert fused_error <= bound, (
        f"{what}: error {fused_error:.3e} where stock has {stock_error:.3e} "
        f"(allowed: {factor:g} times that, or {floor:.1e})"
    )


def assert_parity(
    fused: Tensor, stock: Tensor, truth: Tensor, dtype: torch.dtype, scale: float, what: str = "result"
):
    """`fused` against `truth` (fp64) and against `stock`, both computed in `dtype`, by the row "parity".

    Args: scale: norm of what flows in (for gradients: of the gradients of the same step), to judge results by
    that are mathematically zero; see ZERO_GRADIENT.
    """
    row = tolerance("parity", dtype)
    if truth.detach().double().norm().item() <= ZERO_GRADIENT[torch.float64] * scale:
        error = absolute_error(fused, truth) / scale
        assert error <= ZERO_GRADIENT[dtype], f"{what}: {error:.2e} of the scale where the exact value is 0"
        return
    error = relative_error(fused, truth)
    if row.relative is not None:
        assert error <= row.relative, (
            f"{what}: relative error {error:.2e} over {row.relative:.0e} ({row.reason})"
        )
    if row.factor is not None:
        assert_not_worse_than_stock(error, relative_error(stock, truth), row.factor, row.floor, what)
