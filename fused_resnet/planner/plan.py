"""The plan of a chain of units, from shapes alone."""

from typing import NamedTuple

from .. import backends

MEMORY_MODES = ("speed", "balanced", "min")


class ConvShape(NamedTuple):
    """Sizes of one convolution: `rows` = N*P*Q outputs per channel; kernel (R, S)."""

    rows: int
    in_rows: int
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    groups: int
    padding: tuple[int, int]


class Plan(NamedTuple):
    """fold: per unit, then the projection: batch statistics from the Gram matrix; recompute: convolve again
    in backward;
    prologue: the convolution normalises what it loads."""

    fold: tuple[bool, ...]
    recompute: bool
    prologue: bool


def can_fold(shape: ConvShape) -> bool:
    """The Gram identity holds for 1x1, ungrouped, unpadded convolutions."""
    return shape.kernel == (1, 1) and shape.groups == 1 and shape.padding == (0, 0)


def folding_pays(shape: ConvShape, synced: bool) -> bool:
    """Folding costs rows*C² multiply-adds twice and keeps C² values; it saves keeping rows*K values.

    It pays where both are small beside the convolution itself: C <= K/2, and the matrix at most half of y.
    Processes that share their statistics must all decide alike, so that their number of rows, which may
    differ, does not count.
    """
    c, k = shape.in_channels, shape.out_channels
    return can_fold(shape) and 2 * c <= k and (synced or 2 * c * c <= shape.rows * k)


def plan_chain(
    shapes: list[ConvShape], batch: list[bool], memory: str, device_type: str, synced: bool = False
) -> Plan:
    """Plan a chain.

    Args: shapes and batch (statistics of this batch?) per unit, then of the projection if there is one;
    memory: "speed" stores every convolution's output, "balanced" folds where that pays, "min" recomputes too;
    synced: are batch statistics taken over several processes?
    """
    fold = tuple(
        memory != "speed" and b and folding_pays(s, synced) for s, b in zip(shapes, batch, strict=True)
    )
    return Plan(fold, memory == "min", backends.convolution_engine(device_type) != "library")
