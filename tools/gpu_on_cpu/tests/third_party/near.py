"""How far a result in floating point may be from the exact one."""

from __future__ import annotations

import torch


def near(got: torch.Tensor, exact: torch.Tensor, roundings: int = 4) -> None:
    """`got` is `exact` (float64) but for so many roundings to its own dtype, each of the largest element.

    One rounding is half an ulp; what these kernels do besides (sums in another order, the GPU's approximate
    exp2 and division: 2 ulps in float32) is in the number of roundings.
    """
    assert got.shape == exact.shape
    bound = roundings * torch.finfo(got.dtype).eps * max(1.0, exact.abs().max().item())
    error = (got.double() - exact).abs().max().item()
    assert error <= bound, f"error {error:.3g}, at most {bound:.3g} expected"
