"""Single ops at the sizes of a ResNet-50's training step, and who runs them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fused_resnet import backends, ops
from fused_resnet.analysis.counting import Operations, counting
from fused_resnet.analysis.kernel_arguments import BUILDERS, Conv, Make
from fused_resnet.backends import reference

from .cases import DTYPES, Ready, Setting, Task
from .peers import Contestant

THREE, TWO, ONE = (3, 3), (2, 2), (1, 1)
Size = tuple[int, int]  # channels inside a bottleneck; height and width


def _widening(s: Size, n: int) -> Conv:
    """The last convolution of a bottleneck."""
    return Conv(n, s[1], s[1], s[0], 4 * s[0])


def _inner(s: Size, n: int) -> Conv:
    return Conv(n, s[1], s[1], s[0], s[0], THREE, padding=ONE)


def _shortcut(s: Size, n: int) -> Conv:
    """The projection of the block that halves the image."""
    return Conv(n, 2 * s[1], 2 * s[1], 2 * s[0], 4 * s[0], stride=TWO)


def _wide(s: Size, n: int) -> tuple[int, ...]:
    return n, 4 * s[0], s[1], s[1]


def _narrow(s: Size, n: int) -> tuple[int, ...]:
    return n, s[0], s[1], s[1]


def _channels(s: Size, n: int) -> int:
    return 4 * s[0]


# op -> where its sizes come from, its variant
_BUILT: dict[str, tuple[Callable[[Size, int], Any], dict[str, Any]]] = {
    "bn_stats": (_wide, {}),
    "bn_finalize": (_channels, {}),
    "bn_update_running": (_channels, {"momentum": 0.1}),
    "bn_act": (_wide, {}),
    "bn_add_act": (_wide, {}),
    "bn_act_bwd_reduce": (_wide, {"given": "y out"}),
    "bn_bwd_finalize": (_channels, {}),
    "bn_act_bwd_apply": (_wide, {}),
    "bn_act_maxpool": (_narrow, {}),
    "bn_act_maxpool_bwd_reduce": (_narrow, {}),
    "conv_fprop": (_inner, {"prologue": "relu", "epilogue": "norm residual"}),
    "conv_fprop_stats": (_inner, {"prologue": "relu"}),
    "conv_fprop_dual": (_shortcut, {}),
    "conv_dgrad": (_inner, {"residual": True}),
    "conv_dgrad_reduce": (_inner, {}),
    "conv_wgrad": (_inner, {}),
    "conv_wgrad_masked": (_widening, {}),
    "gram": (_widening, {}),
    "folded_dgrad": (_widening, {"residual": True}),
    "folded_dgrad_reduce": (_widening, {}),
}


def _chain(make: Make, s: Size, n: int) -> tuple:
    """A bottleneck with an identity shortcut, in inference."""
    c, wide = s[0], 4 * s[0]
    x = make.activation(*_wide(s, n))
    weights = [make.weight(c, wide, 1, 1), make.weight(c, c, 3, 3), make.weight(wide, c, 1, 1)]
    norms, geometry = [make.norm(len(w)) for w in weights], ([1] * 6, [0, 0, 1, 1, 0, 0], [1] * 6, [1] * 3)
    return x, weights, [None] * 3, norms, *geometry, None, None, [1, 1], x, "relu"


def _vectors_of_folded(make: Make, s: Size, n: int) -> dict[str, tuple]:
    c, wide, count = s[0], 4 * s[0], float(n * s[1] ** 2)
    weight, p, mean = make.weight(wide, c, 1, 1), make.fp32(wide, c, 1, 1), make.fp32(c)
    z, sums = make.fp32(2 * c, c), make.fp32(2, wide)
    return {
        "folded_stats": (weight, mean, z.T @ z, count),
        "folded_sums": (p, sums[:1], weight, make.norm(wide), mean),
        "folded_wgrad": (p, sums, make.dnorm(wide), weight, mean, z.T @ z),
        "folded_matrices": (weight, sums, make.dnorm(wide), mean, count),
    }


def arguments(op: str, size: Size, batch: int, dtype: torch.dtype, device: str = "cpu") -> tuple:
    """Arguments of `op` on random data, the same at every call. Raises: KeyError: no such op."""
    make = Make(dtype)
    if op in _BUILT:
        sizes, variant = _BUILT[op]
        args = BUILDERS[op](make, sizes(size, batch), **variant)
    elif op == "conv_chain_fprop":
        args = _chain(make, size, batch)
    else:
        args = _vectors_of_folded(make, size, batch)[op]
    return tree_map_only(Tensor, lambda t: t.to(device), args)


@dataclass(frozen=True)
class OpCase:
    """One op. size: channels and height (= width) at the bottleneck whose op it is."""

    op: str
    size: Size
    level = "op"

    @property
    def name(self) -> str:
        return f"{self.op} {self.size[0]}x{self.size[1]}x{self.size[1]}"


STAGES = (64, 56), (128, 28), (512, 7)
OP_CASES = tuple(OpCase(op, size) for op in ops.__all__ for size in STAGES)


class OpWork:
    """An op ready to run: a call runs it once and gives its results, or what it wrote to."""

    def __init__(self, task: Task[OpCase], function: Callable[..., Any], upcast: bool = False) -> None:
        """upcast: on the same values in fp64."""
        case, setting = task.case, task.setting
        args = arguments(case.op, case.size, setting.batch, DTYPES[setting.dtype], setting.device)
        if upcast:
            args = tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, args)
        self.args, self._function = args, function
        self._written = [args[i] for i in backends.signatures.WRITTEN.get(case.op, ())]

    @torch.no_grad()
    def __call__(self) -> tuple[Tensor, ...]:
        made = self._function(*self.args)
        return tuple(tree_leaves(made)) if made is not None else tuple(self._written)

    def gradients(self) -> None:
        return None

    def operations(self) -> Operations:
        fake = FakeTensorMode()
        args = tree_map_only(Tensor, fake.from_tensor, self.args)
        with fake, counting() as found, torch.no_grad():
            self._function(*args)
        return found


def expected(task: Task[OpCase]) -> tuple[Tensor, ...]:
    """The results of the reference in fp64."""
    return OpWork(task, reference.OPS[task.case.op], upcast=True)()


def public_op(task: Task[OpCase]) -> Callable[..., Any]:
    """As users call it: by the backend that takes it."""
    return getattr(ops, task.case.op)


# ---- who runs them -------------------------------------------------------------------------------


def _by(backend: str) -> Contestant:
    """One of our backends, through the public op."""

    def prepare(task: Task[OpCase]) -> tuple[Ready, str]:
        function = public_op(task)

        def run(*args: Any) -> Any:
            with backends.use_backend(backend):
                return function(*args)

        return OpWork(task, run), ""

    return Contestant(f"ours, {backend}", prepare, takes=functools.partial(_takes, backend))


def _takes(backend: str, task: Task[OpCase]) -> bool:
    """Has it a kernel of its own for this?"""
    if backends.unavailable(backend) or task.case.op not in backends.BACKENDS[backend].OPS:
        return False
    args = arguments(task.case.op, task.case.size, task.setting.batch, DTYPES[task.setting.dtype], "meta")
    fake = FakeTensorMode()
    with fake:
        there = tree_map_only(
            Tensor,
            lambda t: torch.empty_strided(t.size(), t.stride(), dtype=t.dtype, device=task.setting.device),
            args,
        )
    return backends.BACKENDS[backend].refuses(task.case.op, there) is None


def _eager(task: Task[OpCase]) -> tuple[Ready, str]:
    """PyTorch's operators, one after another, as the op is specified."""
    return OpWork(task, reference.OPS[task.case.op]), ""


def _compiled(task: Task[OpCase]) -> tuple[Ready, str]:
    torch._dynamo.reset()
    work = OpWork(task, torch.compile(reference.OPS[task.case.op]))
    work()
    return work, ""


OP_BASELINE = "eager"
OP_CONTESTANTS: Mapping[str, Contestant] = {
    c.name: c
    for c in (
        Contestant(OP_BASELINE, _eager),
        Contestant("torch.compile", _compiled),
        *(_by(name) for name in backends.BACKENDS if name != "reference"),
    )
}


def op_tasks(setting: Setting, only: str = "") -> Iterator[Task[OpCase]]:
    for case in OP_CASES:
        if only.lower() in case.name.lower():
            yield Task(case, "op", setting)
