"""What the autograd Functions are told besides tensors: plain, immutable, comparable values."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Geometry(NamedTuple):
    """Stride, padding, dilation as (height, width), and groups of a 2-D convolution."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


class UnitSpec(NamedTuple):
    """One convolution, its normalisation and the activation behind them.

    norm: "batch" (statistics of this batch), "frozen" (of the running statistics) or "none" (just the bias).
    fold: take the batch statistics from the Gram matrix of the input, never storing the convolution's output
        (1x1, ungrouped, unpadded convolutions with batch statistics only).
    momentum: of the running statistics; None leaves them alone.
    group: the process group over which batch statistics are taken (SyncBatchNorm), or None.
    prologue: the convolution ops normalise what they load; else it is written out for a library convolution.
    """

    conv: Geometry
    norm: str
    act: str
    eps: float = 1e-5
    momentum: float | None = None
    fold: bool = False
    group: Any = None
    prologue: bool = False


class ChainSpec(NamedTuple):
    """Units in a row, with a residual added before the activation of the last.

    shortcut: "none"; "tensor" (a given residual); "identity" (the input); "pad" (option A of He et al. 2015:
        the input subsampled by pad_stride, zero channels appended); "projection" (option B: a unit of its
        own).
    recompute: keep only the input, the output and per-channel vectors; run the convolutions again in
        backward.
    """

    units: tuple[UnitSpec, ...]
    shortcut: str = "none"
    projection: UnitSpec | None = None
    pad_stride: int = 1
    recompute: bool = False


class UnitParams(NamedTuple):
    """The tensors of a unit: weight ``[K, C/groups, R, S]``, all others ``[K]`` or None."""

    weight: Tensor
    conv_bias: Tensor | None
    norm_weight: Tensor | None
    norm_bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None


class Operand(NamedTuple):
    """A tensor as its reader sees it: ``act(scale*tensor + shift)``, or itself where norm is None."""

    tensor: Tensor
    norm: Tensor | None = None
    act: str = "identity"


class Saved(NamedTuple):
    """What one unit keeps for backward.

    y: the raw output of the convolution (batch statistics, not folded); out: the unit's output (all others,
    where another unit reads it); norm ``[4, K]``; in_mean ``[C]``, gram ``[C, C]``: mean and centred moments
    of the rows that a folded convolution read; sync_mean: in_mean over all processes; share: this process'
    part of the batch.
    """

    y: Tensor | None = None
    out: Tensor | None = None
    norm: Tensor | None = None
    in_mean: Tensor | None = None
    gram: Tensor | None = None
    sync_mean: Tensor | None = None
    share: Tensor | None = None


PARAMS = len(UnitParams._fields)


def without_running_statistics(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Of units' `UnitParams` in a row what backward may keep: the next batch, which moves the running
    statistics, may come before it."""
    kept = list(tensors)
    kept[PARAMS - 2 :: PARAMS] = kept[PARAMS - 1 :: PARAMS] = [None] * (len(kept) // PARAMS)
    return kept


def take(tensors, count, record):
    """Cut a flat sequence of tensors into `count` records."""
    width = len(record._fields)
    return [record(*tensors[i * width : (i + 1) * width]) for i in range(count)]
