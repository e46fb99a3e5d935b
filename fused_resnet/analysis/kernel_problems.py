"""Problems that the GPU kernels are proven on: together they reach every kernel in every variant it has.

A problem is one op in one variant, on several sizes for which the same compiled code serves. The sizes end
everywhere in a tile: inside, exactly at the edge, after a few rows only. To cover another kernel, add a line
to `_PROBLEMS`.

    problem = PROBLEMS["conv_fprop-3x3"]
    for args in problem.arguments(Make(torch.bfloat16, seed=0)):
        for configuration in every_configuration(problem, args, backend="triton"):
            results = configuration.run()
            assert max(kernel_truth.check(problem.op, args, results).values()) <= 1
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any
from unittest import mock

from torch import Tensor

from .kernel_arguments import BUILDERS, Conv, Make, Window

__all__ = [
    "BUILDERS",
    "PROBLEMS",
    "Configuration",
    "Conv",
    "Make",
    "Problem",
    "Window",
    "every_configuration",
    "host",
    "host_modules",
    "run",
]

BACKENDS = "fused_resnet.backends"
# Modules of each backend with host functions of ops, or what chooses between launch configurations.
_MODULES = {
    "triton": ("norm", "pool", "fprop", "dgrad", "wgrad", "gram", "folded"),
    "cuda": ("products",),
}


# ---- running an op with each of its configurations


@functools.cache
def host(op: str, backend: str = "triton") -> Callable[..., Any]:
    """The backend's function for `op`; all its modules are imported."""
    for module in host_modules(backend):
        if hasattr(module, op):
            return getattr(module, op)
    return importlib.import_module(f"{BACKENDS}.{backend}").OPS[op]


def host_modules(backend: str) -> list[ModuleType]:
    return [importlib.import_module(f"{BACKENDS}.{backend}.{name}") for name in _MODULES.get(backend, ())]


def run(op: str, args: Sequence[Any], backend: str = "triton") -> tuple[Tensor, ...]:
    """The results of the backend's function; of an op that works in place, what it wrote to copies."""
    if op == "bn_update_running":
        written = args[0].clone(), args[1].clone()
        host(op, backend)(*written, *args[2:])
        return written
    results = host(op, backend)(*args)
    return results if isinstance(results, tuple) else (results,)


@dataclass(frozen=True)
class Problem:
    """One op in one variant.

    Attributes:
        arguments: from a `Make` the arguments of the op, for several sizes.
        thresholds: "backend.module.NAME" -> value: from which size on that backend works in another way, so
            low that small problems take the ways of large ones.
    """

    name: str
    op: str
    arguments: Callable[[Make], list[tuple]]
    thresholds: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Configuration:
    """One of an op's launch configurations; `chosen` is what it was, known after `run`."""

    problem: Problem
    args: Sequence[Any]
    index: int
    backend: str = "triton"
    chosen: Any = None
    choices: int = 1

    def run(self) -> tuple[Tensor, ...]:
        with contextlib.ExitStack() as patches:
            for name, value in self.problem.thresholds.items():
                if name.startswith(f"{self.backend}."):
                    patches.enter_context(mock.patch(f"{BACKENDS}.{name}", value))
            for module in host_modules(self.backend):
                if hasattr(module, "tuned"):
                    patches.enter_context(mock.patch.object(module, "tuned", self._tuned))
            return run(self.problem.op, self.args, self.backend)

    def _tuned(self, key: Any, candidates: Sequence[Any], run: Callable[[Any], Any]) -> Any:
        """In place of `backends.tuning.tuned`: the candidate of this number."""
        self.choices = max(self.choices, len(candidates))
        self.chosen = candidates[min(self.index, len(candidates) - 1)]
        return run(self.chosen)


def every_configuration(
    problem: Problem, args: Sequence[Any], backend: str = "triton"
) -> Iterator[Configuration]:
    """A configuration for each candidate. Running one tells how many there are: run each before the next."""
    index, choices = 0, 1
    while index < choices:
        configuration = Configuration(problem, args, index, backend)
        yield configuration
        index, choices = index + 1, configuration.choices


# ---- the problems

# No size is 1 or a multiple of 16, and all channels or none are multiples of 16: by these Triton specialises.
PIXELS = (3, 10, 10), (2, 8, 8), (2, 5, 13), (2, 3, 4)  # 300, 128, 130 and 24 rows
PIXELS_2 = (3, 19, 20), (2, 15, 15), (2, 9, 26), (2, 5, 7)  # the same after a stride of 2
FEW = PIXELS[0], PIXELS[3]
FEW_2 = PIXELS_2[0], PIXELS_2[3]
CHANNELS = (48, 80), (64, 64), (16, 144), (80, 48)
MANY = (48, 80), (64, 128), (16, 144), (144, 96)
# Of the shortcut; the main path has half as many, of which 144 are more than two steps of any tile.
DUAL = (288, 80), (64, 64), (32, 144)
ODD = (13, 21), (24, 70), (70, 6), (3, 33)
BN_EVEN = [(size,) for size in ((3, 80, 10, 13), (2, 64, 8, 8), (2, 144, 3, 2), (2, 48, 15, 18))]
BN_ODD = [(size,) for size in ((3, 70, 10, 13), (2, 5, 9, 7), (2, 33, 3, 2))]
VECTORS = (300,), (13,), (130,)


def _convs(
    pixels: Sequence[tuple[int, int, int]], channels: Sequence[tuple[int, int]], **more: Any
) -> list[tuple[Conv]]:
    return [(Conv(*p, *c, **more),) for p, c in zip(pixels, channels, strict=False)]


POINTWISE = _convs(PIXELS, CHANNELS)
POINTWISE_MANY = _convs(PIXELS, MANY)
POINTWISE_MANY_BACK = _convs(PIXELS, [(k, c) for c, k in MANY])
POINTWISE_ODD = _convs(PIXELS, ODD)
POINTWISE_2 = _convs(PIXELS_2, CHANNELS, stride=(2, 2))
POINTWISE_2_ODD = _convs(PIXELS_2, ODD, stride=(2, 2))
PADDED = _convs(FEW, CHANNELS, padding=(1, 1))
THREE = _convs(PIXELS, CHANNELS, kernel=(3, 3), padding=(1, 1))
THREE_ODD = _convs(PIXELS, ODD, kernel=(3, 3), padding=(1, 1))
THREE_2 = _convs(PIXELS_2, CHANNELS, kernel=(3, 3), stride=(2, 2), padding=(1, 1))
DILATED = _convs(PIXELS, ODD, kernel=(3, 3), padding=(2, 3), dilation=(2, 3))
DILATED_2 = _convs(PIXELS_2, ODD, kernel=(3, 3), stride=(2, 2), padding=(2, 1), dilation=(2, 1))
FEW_FILTERS = _convs(FEW[:1], ((48, 16),))
WIDE = _convs(PIXELS, ((80, 144), (128, 128)))
LOPSIDED = _convs(FEW, CHANNELS, kernel=(1, 3), stride=(2, 1), padding=(0, 1))
SKIPPING = _convs(FEW_2, CHANNELS, kernel=(2, 2), stride=(3, 3))  # some input pixels are never read
STEM = _convs(FEW_2, ((3, 64), (3, 64)), kernel=(7, 7), stride=(2, 2), padding=(3, 3))
GROUPED = _convs(FEW, ((64, 64), (64, 192)), kernel=(3, 3), padding=(1, 1), groups=4)
FLAT = _convs(FEW, ((32, 32), (32, 32)), kernel=(3, 3), padding=(1, 1), groups=8)
FLAT_2 = _convs(FEW_2, ((32, 32), (32, 32)), kernel=(3, 3), stride=(2, 2), padding=(1, 1), groups=8)
DEPTHWISE = _convs(FEW, ((5, 5), (5, 5)), kernel=(3, 3), padding=(1, 1), groups=5)
OBLONG = Window((2, 3), (1, 2), (0, 1))
LARGE, OVERLAPPING = Window((5, 5), (2, 3), (2, 2)), Window((5, 5), (1, 1), (2, 2))

# A GPU of so few programs that these problems fill it; sums that are split for so few rows.
# Thresholds of csrc/cuda are as low wherever its kernels run on the CPU.
FILLED = {"triton.configs.PROGRAMS": 1, "cuda.tiles.BLOCKS": 1}
SPLIT = {"triton.configs.SPLIT_ROWS": 64}
LARGE_TILES = {"cuda.tiles.BLOCKS": 1}
CHUNKED = {"triton.merge.DIRECT": 2, "triton.merge.CHUNK": 2}
LOOPING = {"triton.configs.REDUCING": 2}

# op-variant, what the op's builder gets (first: of each size), thresholds
_Row = tuple[str, Sequence[tuple], Mapping[str, Any], Mapping[str, int]]
_PROBLEMS: tuple[_Row, ...] = (
    ("conv_fprop-1x1", POINTWISE, dict(act="identity"), {}),
    ("conv_fprop-1x1-tail", POINTWISE_MANY, dict(prologue="relu", epilogue="norm residual"), FILLED),
    ("conv_fprop-1x1-stride2", POINTWISE_2, dict(prologue="identity", epilogue="norm"), {}),
    ("conv_fprop-1x1-odd", POINTWISE_ODD, dict(prologue="relu", epilogue="bias residual"), {}),
    ("conv_fprop-1x1-padded", PADDED, dict(prologue="relu", epilogue="bias"), {}),
    ("conv_fprop-3x3", THREE, dict(prologue="relu", epilogue="bias norm"), {}),
    ("conv_fprop-3x3-stride2", THREE_2, dict(epilogue="norm"), {}),
    ("conv_fprop-3x3-dilated-odd", DILATED, dict(prologue="relu", epilogue="norm residual"), {}),
    ("conv_fprop-1x3", LOPSIDED, dict(prologue="relu", act="identity"), {}),
    ("conv_fprop-stem", STEM, dict(epilogue="norm"), {}),
    ("conv_fprop-groups", GROUPED, dict(prologue="relu", epilogue="norm"), {}),
    ("conv_fprop-groups-flat", FLAT, dict(prologue="relu", epilogue="norm"), {}),
    ("conv_fprop-depthwise", DEPTHWISE, dict(prologue="relu", epilogue="norm"), {}),
    ("conv_fprop_stats-1x1", POINTWISE_MANY, dict(prologue="relu"), FILLED),
    ("conv_fprop_stats-1x1-stride2-odd", POINTWISE_2_ODD, dict(prologue="identity"), {}),
    ("conv_fprop_stats-3x3", THREE, dict(prologue="relu"), CHUNKED),
    ("conv_fprop_stats-3x3-stride2", THREE_2, dict(), {}),
    ("conv_fprop_stats-stem", STEM, dict(), {}),
    ("conv_fprop_stats-groups", GROUPED, dict(prologue="relu"), {}),
    ("conv_fprop_stats-groups-flat", FLAT_2, dict(prologue="relu"), {}),
    ("conv_dgrad-1x1", POINTWISE, dict(residual=True), {}),
    ("conv_dgrad-1x1-plain", POINTWISE_MANY_BACK, dict(gradient="g"), FILLED),
    ("conv_dgrad-1x1-stride2", POINTWISE_2, dict(gradient="a*g", residual=True), {}),
    ("conv_dgrad-1x1-padded", PADDED, dict(), {}),
    ("conv_dgrad-3x3", THREE, dict(), {}),
    ("conv_dgrad-3x3-odd", THREE_ODD, dict(gradient="g", residual=True), {}),
    ("conv_dgrad-3x3-stride2", THREE_2, dict(residual=True), {}),
    ("conv_dgrad-3x3-stride2-dilated-odd", DILATED_2, dict(), {}),
    ("conv_dgrad-2x2-stride3", SKIPPING, dict(residual=True), {}),
    ("conv_dgrad-1x3", LOPSIDED, dict(gradient="a*g"), {}),
    ("conv_dgrad-stem", STEM, dict(), {}),
    ("conv_dgrad-groups", GROUPED, dict(), {}),
    ("conv_dgrad-groups-flat", FLAT_2, dict(), {}),
    ("conv_dgrad_reduce-1x1", POINTWISE_MANY_BACK, dict(), FILLED),
    ("conv_dgrad_reduce-3x3", THREE, dict(), CHUNKED),
    ("conv_dgrad_reduce-3x3-stride2", THREE_2, dict(gradient="a*g"), {}),
    ("conv_dgrad_reduce-3x3-odd", THREE_ODD, dict(gradient="g", act="identity"), {}),
    ("conv_dgrad_reduce-groups-flat", FLAT, dict(), {}),
    ("conv_wgrad-1x1", POINTWISE, dict(), SPLIT),
    ("conv_wgrad-1x1-wide", WIDE, dict(prologue="identity"), SPLIT),
    ("conv_wgrad-1x1-stride2-odd", POINTWISE_2_ODD, dict(prologue=None, gradient="g"), SPLIT),
    ("conv_wgrad-3x3", THREE[:3], dict(), SPLIT),
    ("conv_wgrad-3x3-stride2", THREE_2[:3], dict(gradient="a*g"), {}),
    ("conv_wgrad-3x3-dilated-odd", DILATED, dict(), SPLIT),
    ("conv_wgrad-stem", STEM, dict(prologue=None), SPLIT),
    ("conv_wgrad-groups", GROUPED, dict(), {}),
    ("conv_wgrad-groups-flat", FLAT, dict(), SPLIT),
    ("conv_wgrad_masked-1x1", [*POINTWISE, *FEW_FILTERS], dict(), SPLIT),
    ("conv_wgrad_masked-1x1-wide", WIDE, dict(prologue="identity"), SPLIT),
    ("conv_wgrad_masked-1x1-stride2-odd", POINTWISE_2_ODD, dict(prologue=None), SPLIT),
    ("gram-relu", POINTWISE, dict(), SPLIT),
    ("gram-stride2", POINTWISE_2, dict(prologue="identity"), SPLIT),
    ("gram-odd", POINTWISE_ODD, dict(prologue=None), {}),
    ("folded_dgrad-residual", POINTWISE, dict(residual=True), LARGE_TILES),
    ("folded_dgrad-odd", POINTWISE_ODD, dict(prologue="identity"), {}),
    ("folded_dgrad-stride2", POINTWISE_2, dict(), {}),
    ("folded_dgrad-stride2-residual-odd", POINTWISE_2_ODD, dict(prologue=None, residual=True), {}),
    ("folded_dgrad_reduce-relu", POINTWISE, dict(), CHUNKED | LARGE_TILES),
    ("folded_dgrad_reduce-odd", POINTWISE_ODD, dict(act="identity"), {}),
    ("conv_fprop_dual-relu", _convs(PIXELS, DUAL), dict(), FILLED),
    ("conv_fprop_dual-stride2", _convs(PIXELS_2, DUAL, stride=(2, 2)), dict(), {}),
    ("conv_fprop_dual-stride2-odd", POINTWISE_2_ODD, dict(prologue=None, act="identity"), {}),
    ("bn_stats-even", BN_EVEN, dict(), CHUNKED),
    ("bn_stats-odd", BN_ODD, dict(offset=10.0), LOOPING),
    ("bn_finalize-affine", VECTORS, dict(), {}),
    ("bn_finalize-plain", VECTORS, dict(affine=False), {}),
    ("bn_update_running-small", VECTORS, dict(momentum=0.1), {}),
    ("bn_update_running-all", VECTORS, dict(momentum=1.0), {}),
    ("bn_act-relu", BN_EVEN, dict(), {}),
    ("bn_act-identity-odd", BN_ODD, dict(act="identity"), {}),
    ("bn_add_act-residual", BN_EVEN, dict(), {}),
    ("bn_add_act-dual", BN_EVEN, dict(dual=True), {}),
    ("bn_add_act-identity-odd", BN_ODD, dict(act="identity"), {}),
    ("bn_act_bwd_reduce-y", BN_EVEN, dict(given="y"), CHUNKED),
    ("bn_act_bwd_reduce-y-out", BN_EVEN, dict(given="y out"), LOOPING),
    ("bn_act_bwd_reduce-out", BN_EVEN, dict(given="out"), {}),
    ("bn_act_bwd_reduce-dual", BN_EVEN, dict(given="y out dual"), {}),
    ("bn_act_bwd_reduce-dual-odd", BN_ODD, dict(given="y out dual"), {}),
    ("bn_act_bwd_reduce-dual-alone", BN_ODD, dict(given="out dual"), {}),
    ("bn_act_bwd_reduce-y-odd", BN_ODD, dict(given="y"), LOOPING),
    ("bn_act_bwd_reduce-identity", BN_EVEN, dict(given="", act="identity"), {}),
    ("bn_bwd_finalize-sums", VECTORS, dict(), {}),
    ("bn_act_bwd_apply-y", BN_EVEN, dict(), {}),
    ("bn_act_bwd_apply-frozen-odd", BN_ODD, dict(with_y=False), {}),
    ("bn_act_maxpool-stem", BN_EVEN, dict(), {}),
    ("bn_act_maxpool-odd", BN_ODD, dict(act="identity", window=OBLONG), {}),
    ("bn_act_maxpool-5x5", BN_EVEN[:2], dict(window=LARGE), {}),
    ("bn_act_maxpool_bwd_reduce-stem", BN_EVEN, dict(), CHUNKED),
    ("bn_act_maxpool_bwd_reduce-odd", BN_ODD, dict(act="identity", window=OBLONG), LOOPING),
    ("bn_act_maxpool_bwd_reduce-5x5", BN_EVEN[:2], dict(window=OVERLAPPING), {}),
)  # fmt: skip


def _problem(name: str, sizes: Sequence[tuple], options: Mapping[str, Any], thresholds) -> Problem:
    op = name.partition("-")[0]

    def arguments(make: Make) -> list[tuple]:
        return [BUILDERS[op](make, *size, **options) for size in sizes]

    return Problem(name, op, arguments, thresholds)


PROBLEMS = {row[0]: _problem(*row) for row in _PROBLEMS}
