"""Which backend every op of a model goes to, without a GPU and without values."""

import contextlib
import importlib.util

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import fused_resnet
from fused_resnet import backends
from fused_resnet.backends import engines, signatures
from fused_resnet.nn import FusedUnit, record
from tests.op_samples import NHWC

BF16 = torch.bfloat16
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
needs_cuda_build = pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="torch without CUDA")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def calls():
    """A list that receives (op, arguments, backend) of every op, but for those inside the library's."""
    found, select = [], backends.select

    def keep(op, args):
        name, function = select(op, args)
        found.append((op, args, name))
        return name, function

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "select", keep)
        yield found


class Step:
    """Forward and backward of a fused model on fake tensors that say they are on a GPU.

    Attributes: calls: (op, arguments, backend) of every op that GPUs have kernels for; plans: (modules, plan)
    of every unit.
    """

    def __init__(self, make, size, dtype=BF16, layout=NHWC, **kwargs):
        self.plans, outputs, call = [], [], FusedUnit.__call__

        def record_unit(unit, x, modules, shapes, plan, spec):
            self.plans.append((modules, shapes, plan))

        def call_and_keep(unit, *args):
            outputs.append(call(unit, *args))
            return outputs[-1]

        modes = FakeTensorMode(), record(record_unit), calls()
        with pytest.MonkeyPatch.context() as patch, modes[0], modes[1], modes[2] as found:
            patch.setattr(FusedUnit, "__call__", call_and_keep)
            with torch.device("cuda"), default_dtype(dtype):
                fused_resnet.fuse(make(), **kwargs)(torch.empty(size).to(memory_format=layout))
            with torch.no_grad():
                for out in outputs:  # autograd's engine would ask for the device
                    out.grad_fn._forward_cls.backward(out.grad_fn, torch.empty_like(out))
        self.calls = [call for call in found if call[0] not in signatures.CPU_ONLY]

    def backends(self):
        """(op, (in channels, kernel) of its convolutions) -> backends; of other ops: op -> backends."""
        found = {}
        for op, args, name in self.calls:
            convs = engines.convolutions(op, args)
            key = (op, *((c.weight_size[1], c.weight_size[2]) for c in convs)) if convs else op
            found.setdefault(key, set()).add(name)
        return found


def resnet50():
    return fused_resnet.models.create("resnet50", fused=False)
