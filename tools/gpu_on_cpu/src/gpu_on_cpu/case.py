"""A kernel with everything that a check of it needs: data, launch shape, and what must come out."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch

# Half a unit in the last place of a stored value, relative; fp32 leaves room for the order of a sum.
HALF_ULP = {
    torch.bfloat16: 2.0**-8,
    torch.float16: 2.0**-11,
    torch.float32: 2.0**-20,
    torch.float64: 2.0**-45,
}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclasses.dataclass(frozen=True)
class Expected:
    """What a tensor must hold after the kernel.

    Attributes:
        value: the reference, best in fp64; or a function of the arguments, called after the kernel, for what depends
            on other results (statistics of stored, rounded values).
        absolute: error allowed besides the rounding of the stored value: that of the sums inside.
        ulps: how many halves of a unit in the last place a stored value may be off.
    """

    value: torch.Tensor | Callable[[Mapping[str, Any]], torch.Tensor]
    absolute: float = 0.0
    ulps: float = 1.02

    def error(self, name: str, args: Mapping[str, Any]) -> float:
        """The largest error in units of what is allowed: above 1 is wrong; NaN is infinitely wrong."""
        got = args[name]
        want = self.value(args) if callable(self.value) else self.value
        if got.shape != want.shape:
            raise ValueError(f"{name} has shape {tuple(got.shape)}, its reference {tuple(want.shape)}")
        if not got.is_floating_point():
            return 0.0 if torch.equal(got.to(torch.int64), want.to(torch.int64)) else math.inf
        if not got.numel():
            return 0.0
        allowed = HALF_ULP[got.dtype] * self.ulps * want.double().abs() + self.absolute + 1e-30
        ratio = float(((got.double() - want.double()).abs() / allowed).max())
        return math.inf if math.isnan(ratio) else ratio


@dataclasses.dataclass(frozen=True)
class Case:
    """One problem size of a kernel.

    Attributes:
        kernel: a @triton.jit function.
        args: tensors and numbers by name.
        grid: numbers of programs.
        constexprs: compile-time arguments and options (num_warps, num_stages).
        expected: what outputs must hold, by name; nothing else may be written.
    """

    kernel: Any
    args: Mapping[str, Any]
    grid: Sequence[int]
    expected: Mapping[str, Expected]
    constexprs: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def poison(self) -> None:
        """Fills every output with NaN (all bits set for integers): a kernel must write all of it."""
        for name in self.expected:
            out = self.args[name]
            out.fill_(math.nan) if out.is_floating_point() else out.view(torch.uint8).fill_(255)

    def errors(self) -> dict[str, float]:
        """Errors of all outputs, in units of what is allowed."""
        return {name: e.error(name, self.args) for name, e in self.expected.items()}

    def wrong(self) -> dict[str, float]:
        """The errors that are larger than allowed."""
        return {name: error for name, error in self.errors().items() if not error <= 1}


Builder = Callable[[str], Sequence[Case]]  # dtype -> problem sizes


def load(path: str | pathlib.Path) -> dict[str, Builder]:
    """The dictionary ``CASES`` of a Python file: for every kernel a function that takes a dtype ("bf16", "fp16",
    "fp32") and returns problem sizes that share one compiled kernel.

    Raises:
        ValueError: the file does not exist or has no such dictionary.
    """
    found = getattr(_import(pathlib.Path(path)), "CASES", None)
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{path} has no dictionary CASES")
    return found


def _import(path: pathlib.Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    name = f"gpu_on_cpu_cases_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module
