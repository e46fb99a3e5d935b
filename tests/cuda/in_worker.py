"""What the tests of the kernels' source do in a process of its own, which a fault ends."""

import torch

from fused_resnet.analysis.cuda_emulation import emulate_cuda
from fused_resnet.analysis.kernel_problems import PROBLEMS, Make, every_configuration
from tests.kernels_support import FORMATS, assert_right, assert_same_bits, run


def check(name, number_format, sanitizer="none", seeds=(0, 1, 2), sizes=slice(None)):
    """A problem in every tile, bitwise the same in every schedule, against the truth."""
    torch.use_deterministic_algorithms(True)  # torch.empty gives NaN
    problem, make = PROBLEMS[name], Make(FORMATS[number_format].use(), seed=1)
    for args in problem.arguments(make)[sizes]:
        for configuration in every_configuration(problem, args, "cuda"):
            first = None
            for seed in seeds:
                with emulate_cuda("source", seed=seed, sanitizer=sanitizer) as records:
                    results = run(configuration)
                assert records
                first = results if first is None else first
                assert_same_bits(results, first, f"seed {seed}")
            assert_right(configuration, first)
