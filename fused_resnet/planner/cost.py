"""What a plan moves and computes, counted from shapes: bounds for tables, never a measured speed."""

from collections.abc import Sequence
from typing import NamedTuple

from .plan import Plan
from .shape import ConvShape


class Cost(NamedTuple):
    """Of forward and backward: bytes of activations read and written, multiply-adds, bytes kept."""

    bytes_moved: int
    multiply_adds: int
    bytes_kept: int


def _multiply_adds(s: ConvShape) -> int:
    return s.rows * s.out_channels * s.in_channels // s.groups * s.kernel[0] * s.kernel[1]


def chain_cost(
    shapes: Sequence[ConvShape], plan: Plan, itemsize: int, training: bool, main: int, residual: bool
) -> Cost:
    """Cost of a chain whose ideal cache reads every operand once per op (docs/design.md, traffic table).

    Args: shapes per unit, then of the projection; main: how many of the main path; residual: is one added?
    """
    reads = sum(s.in_rows * s.in_channels for s in shapes)
    writes = sum(s.rows * s.out_channels for s in shapes)
    tail = shapes[main - 1].rows * shapes[main - 1].out_channels
    forward = reads + writes + (tail if residual else 0)
    macs = sum(_multiply_adds(s) for s in shapes)
    if not training:
        return Cost(forward * itemsize, macs, 0)
    folded = [s for s, f in zip(shapes, plan.fold, strict=True) if f]
    gram = sum(s.rows * s.in_channels * s.in_channels for s in folded)
    # backward: each convolution reads its gradient and operand twice (dgrad, wgrad), writes its input's
    backward = 2 * (reads + writes) + reads + 2 * tail
    kept = sum(
        s.in_channels**2 * 4 // itemsize if f else s.rows * s.out_channels
        for s, f in zip(shapes, plan.fold, strict=True)
        if not plan.recompute
    )
    repeated = macs if plan.recompute else 0
    return Cost((forward + backward) * itemsize, 3 * macs + 2 * gram + repeated, kept * itemsize)
