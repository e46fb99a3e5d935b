"""Which engine is faster for a unit: its ops on random data with each of them, measured once."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..autograd import Geometry, UnitParams, UnitSpec, unit
from ..autograd.spec import Operand
from ..backends import engines, gpu, tuning
from .shape import ConvShape


class Problem(NamedTuple):
    """norm: "batch", "frozen" or "none"; reads_raw: the unit's input is a convolution's raw output; backward:
    will there be one?"""

    shape: ConvShape
    dtype: torch.dtype
    norm: str
    fold: bool
    reads_raw: bool
    backward: bool


class _Data(NamedTuple):
    """Random operands of a unit: its parameters, what it reads, the gradient before its activation."""

    params: UnitParams
    x: Operand
    up: unit.Upstream


def engine(problem: Problem, x: Tensor, own: Sequence[str]) -> str:
    """The faster engine on the device of x; the rule's where that is neither known nor can be measured.

    Args: own: our backends that have this convolution, best first by preference.
    """
    conv = problem.shape.convolution(problem.dtype)
    first = engines.rule(conv, own)
    candidates = first, *(name for name in (*own, engines.LIBRARY) if name != first)
    data = cache(lambda: _data(problem, x.device))

    def run(candidate: str) -> None:
        engines.table(own)[conv] = candidate
        with torch.autocast(x.device.type, enabled=False):  # as the unit itself runs
            _run(problem, candidate, data())

    try:
        with gpu.current(x):
            return tuning.choose(("engine", *problem), candidates, run, (x,), engines.CPU in own)
    except torch.OutOfMemoryError:  # no room to measure beside what is there; another time, perhaps
        return first


def _data(problem: Problem, device: torch.device) -> _Data:
    generator = torch.Generator(device).manual_seed(0)  # the user's random numbers stay as they are
    shape = problem.shape

    def activation(channels: int, size: tuple[int, int]) -> Tensor:
        t = torch.empty(
            (shape.images, channels, *size),
            dtype=problem.dtype,
            device=device,
            memory_format=torch.channels_last,
        )
        return t.normal_(generator=generator)

    def vectors(count: int, channels: int) -> Tensor:
        return torch.rand((count, channels), device=device, generator=generator) + 0.5

    weight = torch.randn(shape.weight_size, device=device, generator=generator).to(problem.dtype)
    bn = vectors(4, shape.out_channels) if problem.norm != "none" else (None,) * 4
    x = Operand(activation(shape.in_channels, shape.in_size))
    if problem.reads_raw:
        x = Operand(x.tensor, vectors(4, shape.in_channels), "relu")
    g = activation(shape.out_channels, shape.out_size)
    return _Data(UnitParams(weight, None, *bn), x, unit.Upstream(g, vectors(2, shape.out_channels)))


@torch.no_grad()
def _run(problem: Problem, engine: str, data: _Data) -> None:
    """Forward and, where there is one, backward of the unit."""
    shape = problem.shape
    geometry = Geometry(shape.stride, shape.padding, shape.dilation, shape.groups)
    spec = UnitSpec(geometry, problem.norm, "relu", fold=problem.fold, prologue=engine != engines.LIBRARY)
    params, raw, up = data
    x = unit.read(spec, raw)
    _, saved = unit.forward(spec, params, x)
    if not problem.backward:
        return
    need = True, False, False, False
    _, pull = unit.backward(spec, params, saved, unit.read(spec, raw), up, need, True)
    if raw.norm is None:
        unit.input_gradient(spec, pull, x, None)
    else:
        unit.input_gradient_reduce(spec, pull, x, raw)
