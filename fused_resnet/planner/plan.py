"""The plan of a chain of units, from shapes; which engine convolves also from measurements."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch

from .. import backends
from ..backends import engines
from . import measure
from .shape import ConvShape

MEMORY_MODES = ("speed", "balanced", "min")


class Plan(NamedTuple):
    """fold: per unit, then the projection: batch statistics from the Gram matrix; recompute: convolve again
    in backward; engines: as fold, who convolves: a backend with convolutions of its own, which normalise what
    they load, or "library", for which operands are written out."""

    fold: tuple[bool, ...]
    recompute: bool
    engines: tuple[str, ...]


def can_fold(shape: ConvShape) -> bool:
    """The Gram identity holds for 1x1, ungrouped, unpadded convolutions."""
    return shape.kernel == (1, 1) and shape.groups == 1 and shape.padding == (0, 0)


def folding_pays(shape: ConvShape, synced: bool) -> bool:
    """Folding costs rows*C² multiply-adds twice and K*C² three times, and keeps C² values; it saves keeping
    rows*K values.

    It pays where that is no more than the convolution's own passes, of rows*C*K multiply-adds each: C <= K/2
    and C <= rows. Processes that share their statistics must all decide alike, so that their number of rows,
    which may differ, does not count.
    """
    c, k = shape.in_channels, shape.out_channels
    return can_fold(shape) and 2 * c <= k and (synced or c <= shape.rows)


def fold_chain(
    shapes: Sequence[ConvShape], norms: Sequence[str], memory: str, synced: bool
) -> tuple[bool, ...]:
    """Which layers of a chain take their batch statistics from the Gram matrix.

    Args: shapes and norms ("batch", "frozen" or "none") per unit, then of the projection if there is one;
    memory: "speed" stores every convolution's output, "balanced" folds where that pays, "min" recomputes too;
    synced: are batch statistics taken over several processes?
    """
    return tuple(
        [
            memory != "speed" and norm == "batch" and folding_pays(shape, synced)
            for shape, norm in zip(shapes, norms, strict=True)
        ]
    )


def plan_chain(
    shapes: Sequence[ConvShape],
    norms: Sequence[str],
    fold: tuple[bool, ...],
    memory: str,
    x: torch.Tensor,
    main: int,
) -> Plan:
    """Plan a chain.

    Args: fold: what `fold_chain` says, the others as there; x: the chain's input, in the dtype that it
    computes in; main: how many of the units are the main path.
    """
    return Plan(fold, memory == "min", _engines(shapes, norms, fold, x, main))


def _engines(shapes, norms, fold, x, main) -> tuple[str, ...]:
    nhwc = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    device, dtype, found = x.device, x.dtype, []
    kernels = tuple([shape.kernel for shape in shapes])
    if x.is_cpu and not backends.forced() and not engines.contested(dtype):
        return _settled_engines(dtype, nhwc, kernels)
    owners = {kernel: _own_engines(device, dtype, nhwc, kernel) for kernel in kernels}
    for i, shape in enumerate(shapes):
        own = owners[shape.kernel]
        if not own:
            engine = engines.LIBRARY
        elif torch.compiler.is_compiling():
            engine = _known_engine(own, *shape.convolution(dtype))
        elif backends.forced():
            engine = own[0]
        else:
            conv = shape.convolution(dtype)
            reads_raw = 0 < i < main and norms[i - 1] == "batch" and not fold[i - 1]
            problem = measure.Problem(shape, dtype, norms[i], fold[i], reads_raw, torch.is_grad_enabled())
            engine = engines.table(own)[conv] = measure.engine(problem, x, own)
        found.append(engine)
    return tuple(found)


# torch.compile runs the functions below when it traces, and takes their results for constants; it would look
# through functools.cache on the outside, and trace what is cached.


@torch.compiler.assume_constant_result
def _own_engines(device: torch.device, dtype: torch.dtype, nhwc: bool, kernel: tuple) -> tuple[str, ...]:
    if device.type == "cpu" and not backends.forced():
        return _own_cpu_engines(dtype, nhwc, kernel)
    return backends.convolution_engines(device, dtype, nhwc, kernel)


@torch.compiler.assume_constant_result
def _settled_engines(dtype: torch.dtype, nhwc: bool, kernels: tuple) -> tuple[str, ...]:
    """On a CPU where nothing is measured."""
    return _settled(dtype, nhwc, kernels)


@functools.cache
def _settled(dtype: torch.dtype, nhwc: bool, kernels: tuple) -> tuple[str, ...]:
    return tuple([(*_own_cpu_engines(dtype, nhwc, kernel), engines.LIBRARY)[0] for kernel in kernels])


@functools.cache
def _own_cpu_engines(dtype: torch.dtype, nhwc: bool, kernel: tuple) -> tuple[str, ...]:
    """On the CPU they depend on nothing that changes while a process runs."""
    return backends.convolution_engines(torch.device("cpu"), dtype, nhwc, kernel)


@torch.compiler.assume_constant_result
def _known_engine(own: tuple[str, ...], *convolution) -> str:
    """What ops will find at run time, unless the planner chooses again."""
    if backends.forced():
        return own[0]
    engine = engines.engine_of(engines.Convolution(*convolution), own)
    return engine if engine in (*own, engines.LIBRARY) else own[0]
