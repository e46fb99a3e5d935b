"""Runs PTX of one's own choice with the arguments that a Triton launch would pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gpu_on_cpu.case import Case
from gpu_on_cpu.ptx.module import Launch, Module
from gpu_on_cpu.triton.arguments import launch, parameters
from gpu_on_cpu.triton.launch import by_name, compile_kernel, configured


class Replay:
    """The code of one problem size of a kernel, run on that and on others.

    Triton compiles for what it can tell of the arguments: divisibility by 16, equality to 1. The code for one size
    serves every other for which the same is true.

    Attributes:
        name: of the kernel in the PTX.
        ptx: the code for the first size.

    Raises:
        ValueError: something that the code for the first size relies on is not so for another.
    """

    def __init__(self, cases: Sequence[Case], arch: int) -> None:
        self._compiled = compile_kernel(cases[0].kernel, cases[0].args, arch, **cases[0].constexprs)
        self.name: str = self._compiled.metadata.name
        self.ptx: str = self._compiled.asm["ptx"]
        for i, c in enumerate(cases):
            self._check(i, c)

    def _check(self, index: int, case: Case) -> None:
        names = list(self._compiled.src.signature)
        values = self._values(case)
        for (i, *_), attributes in self._compiled.src.attrs.items():
            value = values[names[i]]
            number = value.data_ptr() if isinstance(value, torch.Tensor) else value
            if any(number % divisor for _, divisor in attributes):
                raise ValueError(f"case {index}: {names[i]} is not a multiple of 16, as it is in case 0")
        for (i, *_), value in self._compiled.src.constants.items():
            if values[names[i]] != value:
                raise ValueError(
                    f"case {index}: {names[i]} is {values[names[i]]}; in case 0, for which the code was made, {value}"
                )

    def launch(
        self, module: Module, case: Case, *, seed: int = 0, traffic: bool = False, timeout: float = 60.0
    ) -> Launch:
        """Runs `module` on the arguments of a case, of which only the expected outputs may be written."""
        values = self._values(case)
        args = parameters(
            self._compiled.src, self._compiled.metadata, [values[n] for n in self._compiled.src.signature]
        )
        return launch(
            module,
            self._compiled.metadata,
            args,
            case.grid,
            seed=seed,
            outputs=list(case.expected),
            traffic=traffic,
            timeout=timeout,
        )

    def _values(self, case: Case) -> dict[str, Any]:
        given: dict[str, Any] = by_name(case.kernel, case.args)
        plain, added = configured(case.kernel, 0, given | dict(case.constexprs))
        defaults = {p.name: p.default for p in plain.params if p.has_default}
        return defaults | given | added | dict(case.constexprs)
