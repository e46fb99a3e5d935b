"""Which engine runs a convolution: on a CUDA device our backends "triton" and "cuda", or "library" (cuDNN).

The planner chooses per fused unit and writes its choice into `assigned`; `select` reads it whenever one of
the convolution's ops runs. A table, because ops run where no argument can tell: inside a compiled graph, in
autograd's backward threads. It is keyed by what an op call knows, but for the sizes of the batch and the
image, which a compiled graph may leave open; of units that have this in common the last one planned decides.

On a CPU there is a choice only where the library may win, between "cpu" and "library" (oneDNN): `contested`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from .. import _extension

OWN = ("triton", "cuda")  # in order of preference, where nothing was measured
LIBRARY = "library"
CPU = "cpu"
COMPUTE_BOUND = 256  # input channels of a group, from which cuDNN's 3x3 convolutions are hard to beat


class Convolution(NamedTuple):
    """weight_size ``[K, C/groups, R, S]``; stride, padding and dilation as (height, width)."""

    weight_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    dtype: torch.dtype


assigned: dict[Convolution, str] = {}
assigned_on_cpu: dict[Convolution, str] = {}  # where it is contested

# Where each op has its weight (or the weight's size) and its stride; padding, dilation and groups follow.
_POSITIONS = {
    "conv_fprop": (1, 5),
    "conv_fprop_stats": (1, 4),
    "conv_dgrad": (1, 3),
    "conv_dgrad_reduce": (1, 2),
    "conv_wgrad": (4, 5),
}


def rule(conv: Convolution, own: Sequence[str] = OWN) -> str:
    """The engine of a convolution that nobody measured. Args: own: our backends that take it, best first.

    A CPU's, which is asked for only where it is contested, is the library.
    """
    if CPU in own:
        return LIBRARY
    _, channels, *kernel = conv.weight_size
    return LIBRARY if not own or (kernel != [1, 1] and channels >= COMPUTE_BOUND) else own[0]


# Asked here: torch.compile traces none of it.
_BUILT = _extension.build_info() if _extension.load() is not None else None

# Our kernels are then what the compiler makes for any such processor; the library's may be for this one.
_ON_BASELINE = _BUILT is not None and _BUILT["cpu_instruction_set"] == "baseline"

_ONLY_THE_LIBRARY_HAS_BF16: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported() and (
    _BUILT is None or _BUILT["matrix_engine"] == "none"
)


def contested(dtype: torch.dtype) -> bool:
    """Whether the library's convolutions on this CPU may be faster than ours.

    In bf16, where it alone multiplies in the processor's bf16 instructions, and in fp32, where ours have no
    kernels for this processor's instruction set.
    """
    return (dtype == torch.bfloat16 and _ONLY_THE_LIBRARY_HAS_BF16) or (
        dtype == torch.float32 and _ON_BASELINE
    )


def table(own: Sequence[str]) -> dict[Convolution, str]:
    """Where the planner's choices are. Args: own: our backends that take the convolution."""
    return assigned_on_cpu if CPU in own else assigned


def engine_of(conv: Convolution, own: Sequence[str] = OWN) -> str:
    """The engine that the planner chose, else the rule's."""
    try:
        return table(own).get(conv) or rule(conv, own)
    except TypeError:  # sizes that a graph leaves open have no hash
        return rule(conv, own)


def engine_of_call(op: str, args: tuple, own: Sequence[str] = OWN) -> str | None:
    """The engine of the convolution that `op` runs on `args`; None where there is none.

    Of two convolutions in one op it is the first one's, and the library if either is the library's.
    """
    found = [engine_of(conv, own) for conv in convolutions(op, args)]
    return LIBRARY if LIBRARY in found else next(iter(found), None)


def convolutions(op: str, args: tuple) -> tuple[Convolution, ...]:
    """The convolutions that `op` runs on `args` and that the library knows, too."""
    dtype = args[0].dtype
    if op == "conv_fprop_dual":
        main, shortcut, stride = args[1], args[6], args[7]
        return _unpadded(main.shape, (1, 1), dtype), _unpadded(shortcut.shape, stride, dtype)
    if op == "conv_wgrad_masked":
        return (_unpadded(args[5], args[6], dtype),)
    if op == "conv_chain_fprop":
        return _chained(args)
    if op not in _POSITIONS:
        return ()
    weight, stride = _POSITIONS[op]
    size: Any = args[weight]
    size = size.shape if isinstance(size, torch.Tensor) else size
    steps, padding, dilation, groups = args[stride : stride + 4]
    return (Convolution(tuple(size), tuple(steps), tuple(padding), tuple(dilation), groups, dtype),)


def _chained(args: tuple) -> tuple[Convolution, ...]:
    """Those of a block: the main path's, then the projection's."""
    dtype, weights, groups, projection = args[0].dtype, args[1], args[7], args[8]
    found = []
    for i, weight in enumerate(weights):
        stride, padding, dilation = (tuple(values[2 * i : 2 * i + 2]) for values in args[4:7])
        found.append(Convolution(tuple(weight.shape), stride, padding, dilation, groups[i], dtype))
    if projection is not None:
        found.append(_unpadded(projection.shape, args[10], dtype))
    return tuple(found)


def _unpadded(weight_size: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> Convolution:
    """An ungrouped convolution without padding and dilation."""
    return Convolution(tuple(weight_size), tuple(stride), (0, 0), (1, 1), 1, dtype)
