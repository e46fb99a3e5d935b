"""Products of bf16 as matrix hardware does them: on an emulation with the same contract, on it where it is.

Also the products' loops for AVX-512 without its instructions, whose vectors and panels are as wide.
"""

import contextlib

import pytest
import torch

from fused_resnet import _extension
from fused_resnet.analysis.kernel_arguments import BUILDERS, Make
from fused_resnet.backends import cpu
from tests.cpu.problems import PROBLEMS, SIZES, VARIANTS, VARIED, assert_right, run, with_a_nan

BF16 = torch.bfloat16
PRODUCTS = {name: problem for name, problem in (PROBLEMS | VARIED).items() if problem.op in VARIANTS}


@contextlib.contextmanager
def using(engine="auto", kernels="auto"):
    module = _extension.load()
    module.use_matrix_engine(engine)
    module.use_product_kernels(kernels)
    try:
        yield
    finally:
        module.use_matrix_engine("auto")
        module.use_product_kernels("auto")


def why_missing(engine):
    if _extension.load() is None:
        return "no extension"
    if engine == "emulated_tiles" and _extension.build_info()["cpu_instruction_set"] != "avx512":
        return "tiles are made for AVX-512's panels; test_wide_panels has them everywhere"
    try:
        with using(engine):
            return None
    except RuntimeError as error:
        return str(error).partition("\n")[0]


EMULATED = ("emulated", "emulated_rows", "emulated_tiles")
HARDWARE = ("amx", "avx512_bf16")
ENGINES = [
    pytest.param(engine, marks=pytest.mark.skipif(why is not None, reason=str(why)))
    for engine in (*EMULATED, *HARDWARE)
    for why in [why_missing(engine)]
]


def taken(problem, dtype, seed=0):
    return [
        args for args in problem.arguments(Make(dtype, seed=seed)) if cpu.refuses(problem.op, args) is None
    ]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", PRODUCTS)
def test_truth(name, engine):
    problem = PRODUCTS[name]
    with using(engine):
        for args in taken(problem, BF16):
            results = run(problem.op, args, cpu.OPS[problem.op])
            assert_right(problem.op, args, results)
            again = run(problem.op, args, cpu.OPS[problem.op])
            assert all(torch.equal(a, b) for a, b in zip(results, again, strict=True))


NAMES = [name for name in PRODUCTS if name.endswith((": 17 channels", ": stem", ": 3x3 at stride 2", "-odd"))]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NAMES)
def test_nan(name, engine):
    """A NaN is where torch has it, and nowhere else: not beside what fills up pairs."""
    problem = PRODUCTS[name]
    with using(engine):
        for args in taken(problem, BF16, seed=1):
            for planted in with_a_nan(args):
                assert_right(problem.op, planted, run(problem.op, planted, cpu.OPS[problem.op]))


WIDE = [
    (name, engine) for name in PRODUCTS for engine in EMULATED if name in NAMES or engine == "emulated_tiles"
]


@pytest.mark.parametrize(("name", "engine"), WIDE)
def test_wide_panels(name, engine):
    """As AVX-512 cuts them. Norm-wise: without fused multiply-adds an operand may be rounded otherwise."""
    problem = PRODUCTS[name]
    for args in taken(problem, BF16):
        with using("emulated"):
            narrow = run(problem.op, args, cpu.OPS[problem.op])
        with using(engine, "wide"):
            wide = run(problem.op, args, cpu.OPS[problem.op])
        for a, b in zip(narrow, wide, strict=True):
            assert (a.double() - b.double()).norm() <= 4e-3 * b.double().norm()


@pytest.mark.parametrize("dtype", (torch.float32, BF16))
@pytest.mark.parametrize("kernels", ("baseline", "wide"))
@pytest.mark.parametrize("name", [name for name in PROBLEMS if name in PRODUCTS])
def test_kernels_of_other_processors(name, kernels, dtype):
    problem = PRODUCTS[name]
    with using("none", kernels):
        for args in taken(problem, dtype):
            assert_right(problem.op, args, run(problem.op, args, cpu.OPS[problem.op]))


@pytest.mark.parametrize("op", [op for op in VARIANTS if op != "gram"])
def test_both_ways_agree(op):
    """In fp32 and in bf16, without a prologue: operands are the same."""
    args = BUILDERS[op](Make(BF16, seed=0), SIZES["17 channels"], **{**VARIANTS[op][0]})
    results = []
    for engine in ("none", "emulated", "emulated_rows"):
        with using(engine):
            for _ in range(5):  # weights that are kept are not kept for the other way
                results.append(run(op, args, cpu.OPS[op]))
    for other in results:
        for a, b in zip(results[0], other, strict=True):
            assert (a.double() - b.double()).norm() <= 1e-2 * b.double().norm()


def test_names():
    module = _extension.load()
    best = next((engine for engine in HARDWARE if why_missing(engine) is None), "none")
    assert _extension.build_info()["matrix_engine"] == best
    for engine in EMULATED:
        with using(engine):
            assert _extension.build_info()["matrix_engine"] == engine
    with pytest.raises(
        RuntimeError, match="expected auto, amx, avx512_bf16, emulated, emulated_rows, emulated_tiles"
    ):
        module.use_matrix_engine("fast")
    with pytest.raises(ValueError, match="expected auto, baseline or, on x86, wide, got avx1024"):
        module.use_product_kernels("avx1024")
