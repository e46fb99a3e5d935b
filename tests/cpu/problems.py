"""What the CPU kernels are proven on, and how: every op on sizes that end everywhere in their tiles.

The GPU kernels' problems serve again (`analysis.kernel_problems`, passes and pools included), and so does
their truth: fp64, with a bound on every single element (`analysis.kernel_truth`). Beside them stand the sizes
that the CPU's tiles find hard, each in one variant of its op or in all of them.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from fused_resnet import _extension, backends, ops
from fused_resnet.analysis import kernel_problems, kernel_truth
from fused_resnet.analysis.kernel_arguments import BUILDERS, Conv, Make
from fused_resnet.backends import cpu
from tests.tolerances import assert_close

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
UNIT = kernel_truth.UNIT

# Every variant of an op: what its builder takes beside the sizes.
PROLOGUES = None, "relu", "identity"
ACTIVATIONS = "relu", "identity"
EPILOGUES = [
    "",
    "bias",
    "norm",
    "residual",
    "bias norm",
    "bias residual",
    "norm residual",
    "bias norm residual",
]


def _all(**options: Sequence[Any]) -> list[dict[str, Any]]:
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


VARIANTS = {
    "conv_fprop": _all(prologue=PROLOGUES, epilogue=EPILOGUES, act=ACTIVATIONS),
    "conv_fprop_stats": _all(prologue=PROLOGUES),
    "conv_fprop_dual": _all(prologue=PROLOGUES, act=ACTIVATIONS),
    "conv_dgrad": _all(gradient=["a*g+b*y+c", "a*g", "g"], residual=[True, False]),
    "conv_dgrad_reduce": _all(gradient=["a*g+b*y+c", "a*g", "g"], act=ACTIVATIONS),
    "conv_wgrad": _all(prologue=PROLOGUES, gradient=["a*g+b*y+c", "a*g", "g"]),
    "conv_wgrad_masked": _all(prologue=PROLOGUES),
    "gram": _all(prologue=PROLOGUES),
    "folded_dgrad": _all(prologue=PROLOGUES, residual=[True, False]),
    "folded_dgrad_reduce": _all(act=ACTIVATIONS),
}

POINTWISE = {
    "one pixel": Conv(1, 1, 1, 24, 40),
    "one pixel of one channel": Conv(1, 1, 1, 1, 1),
    "three pixels": Conv(1, 1, 3, 64, 48),
    "one channel": Conv(2, 5, 7, 1, 1),
    "three channels": Conv(2, 5, 7, 3, 17),
    "to three channels": Conv(2, 5, 7, 17, 3),
    "17 channels": Conv(3, 7, 5, 17, 130),
    "130 channels": Conv(2, 5, 9, 130, 17),
    "many rows": Conv(2, 41, 43, 40, 72),
    "many channels": Conv(1, 3, 5, 1100, 34),
    "many filters": Conv(1, 3, 5, 34, 1100),
    "image of one column": Conv(3, 37, 1, 20, 12),
    "image of one row": Conv(3, 1, 501, 20, 12),
    "stride": Conv(2, 7, 10, 20, 24, stride=(2, 2)),
    "stride of one pixel": Conv(2, 2, 2, 20, 24, stride=(2, 2)),
    "oblong stride": Conv(2, 7, 10, 17, 24, stride=(1, 3)),
    "many rows at a stride": Conv(3, 57, 55, 64, 32, stride=(2, 2)),
}
WINDOWS = {
    "3x3 of one pixel": Conv(1, 1, 1, 24, 40, (3, 3), padding=(1, 1)),
    "3x3 of one channel": Conv(2, 5, 7, 1, 1, (3, 3), padding=(1, 1)),
    "3x3 of 17 channels": Conv(2, 7, 5, 17, 130, (3, 3), padding=(1, 1)),
    "3x3 of 130 channels": Conv(2, 5, 9, 130, 17, (3, 3), padding=(1, 1)),
    "3x3 without padding": Conv(2, 6, 9, 16, 32, (3, 3)),
    "3x3 to one pixel": Conv(3, 3, 3, 16, 32, (3, 3)),
    "3x3 of many rows": Conv(2, 33, 47, 24, 40, (3, 3), padding=(1, 1)),
    "3x3 of many channels": Conv(2, 3, 4, 400, 20, (3, 3), padding=(1, 1)),
    "3x3 of a wide image": Conv(1, 3, 700, 8, 24, (3, 3), padding=(1, 1)),
    "3x3 at stride 2": Conv(3, 15, 13, 32, 48, (3, 3), (2, 2), (1, 1)),
    "3x3 at stride 2, even": Conv(2, 14, 12, 17, 34, (3, 3), (2, 2), (1, 1)),
    "3x3 at stride 3": Conv(2, 14, 12, 16, 16, (3, 3), (3, 3), (1, 1)),
    "3x3 at stride 2 and 1": Conv(2, 9, 8, 16, 24, (3, 3), (2, 1), (1, 1)),
    "2x2 at stride 3": Conv(2, 10, 11, 16, 24, (2, 2), (3, 3)),
    "dilated": Conv(2, 9, 11, 20, 24, (3, 3), (1, 1), (2, 3), (2, 3)),
    "dilated at stride 2": Conv(2, 11, 13, 20, 24, (3, 3), (2, 2), (2, 2), (2, 2)),
    "dilated past the image": Conv(2, 4, 5, 16, 16, (3, 3), (1, 1), (6, 6), (6, 6)),
    "Winograd's, odd": Conv(2, 15, 17, 33, 40, (3, 3), padding=(1, 1)),
    "Winograd's, even, without padding": Conv(3, 16, 14, 48, 32, (3, 3)),
    "Winograd's, much padding": Conv(3, 11, 9, 32, 50, (3, 3), padding=(2, 2)),
    "Winograd's, wide": Conv(1, 3, 257, 32, 96, (3, 3), padding=(1, 1)),
    "Winograd's, of many channels": Conv(4, 13, 16, 260, 72, (3, 3), padding=(1, 1)),
    "Winograd's, of many filters": Conv(40, 5, 4, 34, 1100, (3, 3), padding=(1, 1)),
    "Winograd's, of many rows": Conv(4, 56, 55, 64, 64, (3, 3), padding=(1, 1)),
    "7x7": Conv(2, 9, 11, 16, 24, (7, 7), (1, 1), (3, 3)),
    "stem": Conv(2, 39, 37, 3, 64, (7, 7), (2, 2), (3, 3)),
    "1x7": Conv(2, 6, 11, 16, 24, (1, 7), (1, 1), (0, 3)),
    "7x1": Conv(2, 11, 6, 16, 24, (7, 1), (1, 1), (3, 0)),
    "4x2": Conv(2, 8, 9, 12, 10, (4, 2), (2, 1), (1, 1)),
    "1x1, padded": Conv(2, 5, 6, 20, 24, (1, 1), (1, 1), (1, 1)),
    "1x1, padded, at stride 2": Conv(2, 5, 6, 20, 24, (1, 1), (2, 2), (1, 1)),
    "windows in the padding": Conv(2, 3, 4, 8, 16, (2, 2), (1, 1), (3, 3)),
    "ResNeXt": Conv(2, 9, 7, 128, 128, (3, 3), (1, 1), (1, 1), (1, 1), 32),
    "ResNeXt at stride 2": Conv(2, 9, 7, 128, 128, (3, 3), (2, 2), (1, 1), (1, 1), 32),
    "groups of 17": Conv(2, 5, 7, 34, 38, (3, 3), (1, 1), (1, 1), (1, 1), 2),
    "groups, 1x1": Conv(2, 5, 7, 48, 24, groups=3),
    "depthwise": Conv(2, 7, 9, 21, 21, (3, 3), (1, 1), (1, 1), (1, 1), 21),
    "depthwise, two filters each": Conv(2, 7, 9, 9, 18, (3, 3), (2, 2), (1, 1), (1, 1), 9),
}
SIZES = POINTWISE | WINDOWS
EVERY_VARIANT_ON = "17 channels", "oblong stride", "3x3 at stride 2, even"


def fits(op: str, size: Conv) -> bool:
    """Whether the op's contract has such convolutions."""
    if op in ("gram", "folded_dgrad", "conv_fprop_dual"):
        return size.kernel == (1, 1) and size.padding == (0, 0) and size.groups == 1
    if op == "folded_dgrad_reduce":
        return fits("folded_dgrad", size) and size.stride == (1, 1)
    if op == "conv_wgrad_masked":
        return (size.padding, size.dilation, size.groups) == ((0, 0), (1, 1), 1)
    return True


class Problem(NamedTuple):
    """One op in one variant; arguments: for several sizes."""

    op: str
    arguments: Callable[[Make], Sequence[tuple]]


def _problem(op: str, size: Conv, options: dict[str, Any]) -> Problem:
    return Problem(op, lambda make: [BUILDERS[op](make, size, **options)])


def _problems() -> Iterator[tuple[str, Problem]]:
    """The GPU kernels', and every op on every size."""
    for name, gpu in kernel_problems.PROBLEMS.items():
        yield name, Problem(gpu.op, gpu.arguments)
    for op, variants in VARIANTS.items():
        for i, (name, size) in enumerate(SIZES.items()):
            if fits(op, size):
                yield f"{op}: {name}", _problem(op, size, variants[i % len(variants)])


def _varied() -> Iterator[tuple[str, Problem]]:
    """Every variant of every op."""
    for op, variants in VARIANTS.items():
        for name, options in itertools.product(EVERY_VARIANT_ON, variants):
            if fits(op, SIZES[name]):
                variant = ", ".join(f"{k} {v or 'none'}" for k, v in options.items())
                yield f"{op}: {name}, {variant}", _problem(op, SIZES[name], options)


PROBLEMS, VARIED = dict(_problems()), dict(_varied())
# An op's problems on a few sizes, for what takes long.
FEW_SIZES = ": 17 channels", ": many rows", ": 3x3 of many rows", ": stem", ": ResNeXt at stride 2", "-odd"
FEW = {name: problem for name, problem in PROBLEMS.items() if name.endswith(FEW_SIZES)}
# Sums over rows, and how much more they may be off than the truth allows: GPU kernels add up fewer rows
# before they merge. A sum of n terms of one sign in fp32 errs by about UNIT*sqrt(n/9); this is for some 100.
OVER_ROWS = {"sums": 2.0, "mean": 2.0, "var": 2.0, "dw": 2.0, "gram": 2.0}


def flat(result: Any) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def run(op: str, args: Sequence[Any], call: Callable[..., Any] | None = None) -> tuple[Tensor, ...]:
    """The results of an op by the op table, or of `call`; of one that works in place, written copies."""
    call = call or getattr(ops, op)
    if op == "bn_update_running":
        written = args[0].clone(), args[1].clone()
        call(*written, *args[2:])
        return written
    return flat(call(*args))


def errors(op: str, args: Sequence[Any], results: Sequence[Tensor]) -> dict[str, float]:
    """The largest error of each result in units of what is allowed there; infinite where only one has a NaN.

    A product's truth is that of the same numbers in fp32: what its prologue makes is not rounded before it is
    multiplied, sums and moments are of the results as they were stored. Its result in bf16 may be off by half
    a unit in the last place besides. How often a prologue rounds is left open: with fused multiply-adds or
    without. For the same reason a pass is allowed a unit in the last place.

    Where the processor multiplies bf16, operands are rounded as if they had been stored, and allowed is what
    the GPU kernels promise.
    """
    if multiplied_in_bf16(op, args):
        promised = kernel_truth.check(op, args, results)
        return {name: error / OVER_ROWS.get(name, 1.0) for name, error in promised.items()}
    product = op in VARIANTS
    wide = [widened(a) for a in args] if product else args
    stored = [widened(r) for r in results] if product else results
    in_prologues = of_prologues(op, wide, stored) if product else {}
    found = {}
    for got, (name, want) in zip(results, kernel_truth.expected(op, wide, stored).items(), strict=True):
        value, allowed = want.value, want.allowed
        assert got.shape == value.shape, f"{op}: {name} is {tuple(got.shape)}, not {tuple(value.shape)}"
        if not got.is_floating_point():
            found[name] = 0.0 if torch.equal(got.double(), value) else torch.inf
            continue
        assert got.dtype in (want.dtype, args[0].dtype), f"{op}: {name} is {got.dtype}"
        unit = torch.finfo(got.dtype).eps
        if not product:
            allowed = allowed + unit * value.abs() + 8 * UNIT * value.nan_to_num(0.0).abs().max()
        elif name in OVER_ROWS:
            allowed = OVER_ROWS[name] * allowed + in_prologues.get(name, 0.0)
        else:
            rounding = unit / 2 * value.abs() if got.dtype == torch.bfloat16 else 0.0
            allowed = allowed + rounding + in_prologues[name]
        same = (got.double() == value) | (got.isnan() & value.isnan())
        off = torch.where(same, 0, (got.double() - value).abs() / allowed)
        found[name] = off.nan_to_num(nan=torch.inf).max().item() if off.numel() else 0.0
    return found


def multiplied_in_bf16(op: str, args: Sequence[Any]) -> bool:
    """Gram matrices are not: their deviations would be less exact than variances may be."""
    if op not in VARIANTS or op == "gram" or args[0].dtype != torch.bfloat16:
        return False
    return _extension.build_info()["matrix_engine"] != "none"


def of_prologues(op: str, args: Sequence[Any], results: Sequence[Tensor]) -> dict[str, Tensor]:
    """What roundings of prologues do to results: a few units of what the terms' absolute values give."""
    sizes = [a.abs() if isinstance(a, Tensor) else a for a in args]
    of_sizes = {name: want.value for name, want in kernel_truth.expected(op, sizes, results).items()}
    if op == "gram":  # whatever the deviations are taken from, it is rounded like z
        x, norm, stride = sizes[0], sizes[1], args[3]
        z = x if norm is None else x * norm[2][:, None, None] + norm[3][:, None, None]
        z = z[:, :, :: stride[0], :: stride[1]].transpose(0, 1).flatten(1).double().norm(dim=1)
        of_sizes["gram"] = torch.outer(z, z)
    return {name: 4 * UNIT * size for name, size in of_sizes.items() if name not in ("sums", "var")}


def widened(a: Any) -> Any:
    return a.float() if isinstance(a, Tensor) and a.dtype == torch.bfloat16 else a


def assert_right(op: str, args: Sequence[Any], results: Sequence[Tensor]) -> None:
    found = errors(op, args, results)
    assert max(found.values()) <= 1, f"{op}{described(args)}: {found}"


def assert_roughly_right(op: str, args: Sequence[Any], results: Sequence[Tensor]) -> None:
    """For what the library computed, which rounds in between: norm-wise, by the table of tolerances."""
    expected = kernel_truth.expected(op, [widened(a) for a in args], [widened(r) for r in results])
    for got, (name, want) in zip(results, expected.items(), strict=True):
        scale = max(want.value.norm().item(), want.value.numel() ** 0.5)
        assert_close(got, want.value, "op", args[0].dtype, f"{op}{described(args)}: {name}", scale)


def described(args: Sequence[Any]) -> list[Any]:
    return [(*a.shape,) if isinstance(a, Tensor) else a for a in args]


def bits(t: Tensor) -> Tensor:
    """In the order of memory, so that NaNs can be compared."""
    return torch.empty(0, dtype=torch.uint8).set_(t.clone().untyped_storage())


def assert_same_bits(got: Sequence[Tensor], want: Sequence[Tensor], what: str) -> None:
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(got, want, strict=True)), what


def check(op: str, args: tuple) -> tuple[Tensor, ...]:
    """One op on the CPU backend: right, by the op table and called directly, in the form of fake tensors.

    Arguments that the backend leaves to the library must give right results all the same.
    """
    tensors = [a for a in args if isinstance(a, Tensor)]
    before = [t.clone() for t in tensors]
    taken: list[str] = []
    with backends.use_backend("cpu"), backends.observe(lambda _, name: taken.append(name)):
        results = run(op, args)
    if why := cpu.refuses(op, args):
        assert "ambiguous" in why or "groups" in why or op not in VARIANTS, (
            f"{op}{described(args)} is refused: {why}"
        )
        assert_roughly_right(op, args, results)
    else:
        assert taken == ["cpu"]
        assert_right(op, args, results)
        assert_same_bits(run(op, args, cpu.OPS[op]), results, f"{op}: a direct call gives other bits")
    assert_same_bits(tensors, before, f"{op}{described(args)} wrote to an argument")
    assert all(r.data_ptr() != t.data_ptr() for r in results for t in tensors), (
        f"{op}: a result is an argument"
    )
    if op != "bn_update_running":
        assert_form(op, args, results)
    return results


def assert_form(op: str, args: Sequence[Any], results: Sequence[Tensor]) -> None:
    """Shapes, dtypes and strides are what torch.compile is told."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, backends.use_backend("cpu"):
        fakes = flat(getattr(ops, op)(*[mode.from_tensor(a) if isinstance(a, Tensor) else a for a in args]))
    for i, (got, fake) in enumerate(zip(results, fakes, strict=True)):
        assert form(got) == form(fake), f"{op}{described(args)}: form of result {i}"


def form(t: Tensor) -> tuple:
    """The stride of a dimension of size 1 is nothing that anybody uses."""
    strides = zip(t.shape, t.stride(), strict=True)
    return t.dtype, tuple(t.shape), tuple(stride for size, stride in strides if size > 1)


def with_a_nan(args: tuple) -> Iterator[tuple]:
    """The arguments with a NaN in the middle of one of the activations and weights each."""
    for i, t in enumerate(args):
        if isinstance(t, Tensor) and t.dim() == 4 and t.is_floating_point():
            planted = t.clone()
            planted[tuple(n // 2 for n in t.shape)] = torch.nan
            yield *args[:i], planted, *args[i + 1 :]


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
