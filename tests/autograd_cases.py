"""Small problems in fp64 for every autograd Function, and the same computations by torch's own."""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from fused_resnet import autograd
from fused_resnet.autograd import ChainSpec, Geometry, Pool, UnitParams, UnitSpec

FUNCTIONS = {
    "conv_bn_act": autograd.ConvBNAct,
    "conv_bn_add_act": autograd.ConvBNAddAct,
    "basic_block": autograd.BasicBlock,
    "bottleneck": autograd.Bottleneck,
    "stem": autograd.ConvBNActMaxPool,
}
SHORTCUTS = {
    "conv_bn_act": ("none",),
    "conv_bn_add_act": ("tensor", "identity", "pad", "projection"),
    "basic_block": ("identity", "pad", "projection", "tensor"),
    "bottleneck": ("identity", "pad", "projection", "tensor"),
    "stem": ("none",),
}
# statistics, and whether 1x1 convolutions fold theirs; "mixed" units are frozen, batch, none in turn
MODES = (("batch", False), ("batch", True), ("frozen", False), ("none", False), ("mixed", True))
POOL = Pool((3, 3), (2, 2), (1, 1))
WIDTH = 3


@dataclass(frozen=True)
class Case:
    kind: str
    shortcut: str
    norm: str = "batch"
    fold: bool = False
    recompute: bool = False
    prologue: bool = False
    stride: int = 1
    bias: bool = False
    affine: bool = True
    momentum: float | None = None

    def __str__(self):
        flags = [f for f in ("fold", "recompute", "prologue", "bias") if getattr(self, f)]
        plain = [] if self.affine else ["plain"]
        return "-".join([self.kind, self.shortcut, self.norm, *flags, *plain, f"s{self.stride}"])

    def norms(self, count):
        return [
            ("frozen", "batch", "none")[i % 3] if self.norm == "mixed" else self.norm for i in range(count)
        ]


def geometry(kernel, stride=1, groups=1):
    return Geometry((stride, stride), (kernel // 2, kernel // 2), (1, 1), groups)


def unit(case, norm, c, k, kernel, stride=1, groups=1, act="relu"):
    """A unit's spec and its tensors."""

    def vector(given=True, positive=False):
        t = torch.randn(k, dtype=torch.float64)
        return (t.abs() + 0.5 if positive else t) if given else None

    fold = case.fold and norm == "batch" and kernel == 1
    momentum = case.momentum if norm == "batch" else None
    conv = geometry(kernel, stride, groups)
    spec = UnitSpec(conv, norm, act, 1e-5, momentum, fold, prologue=case.prologue)
    has_norm = norm != "none"
    params = UnitParams(
        torch.randn(k, c // groups, kernel, kernel, dtype=torch.float64),
        vector(case.bias),
        vector(case.affine and has_norm),
        vector(case.affine and has_norm),
        vector(has_norm),
        vector(has_norm, positive=True),
    )
    for t in params[:4]:
        if t is not None:
            t.requires_grad_()
    return spec, params


class Problem:
    """A case with its spec, input, residual and parameters."""

    def __init__(self, case, seed=0, size=(4, 3)):
        torch.manual_seed(seed)
        out = {"pad": WIDTH + 2, "projection": WIDTH + 1}.get(case.shortcut, WIDTH)
        last = 1 if case.fold else 3
        layers = {
            "conv_bn_act": [(WIDTH, out, last, case.stride)],
            "conv_bn_add_act": [(WIDTH, out, last, case.stride)],
            "basic_block": [(WIDTH, 2, 3, case.stride), (2, out, 3)],
            "bottleneck": [(WIDTH, 4, 1), (4, 4, 3, case.stride, 2), (4, out, 1)],
            "stem": [(WIDTH, 4, 3, case.stride)],
        }[case.kind]
        norms = case.norms(len(layers) + 1)
        units = [unit(case, n, *layer) for n, layer in zip(norms, layers, strict=False)]
        specs, params = [u[0] for u in units], [u[1] for u in units]
        projection = None
        if case.shortcut == "projection":
            projection, extra = unit(case, norms[-1], WIDTH, out, 1, case.stride, 1, "identity")
            params.append(extra)
        self.case = case
        self.spec = ChainSpec(tuple(specs), case.shortcut, projection, case.stride, case.recompute)
        x = torch.randn(2, WIDTH, *size, dtype=torch.float64)
        self.x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        reduced = [-(-n // case.stride) for n in size]
        given = case.shortcut == "tensor"
        self.residual = torch.randn(2, out, *reduced, dtype=torch.float64).requires_grad_() if given else None
        self.params = params

    @property
    def tensors(self):
        return [t for p in self.params for t in p]

    def wanted(self):
        every = {"x": self.x, "residual": self.residual}
        every |= {f"{i}.{n}": t for i, p in enumerate(self.params) for n, t in p._asdict().items()}
        return {n: t for n, t in every.items() if t is not None and t.requires_grad}

    def fused(self, x=None, residual=None, tensors=None):
        x = self.x if x is None else x
        tensors = self.tensors if tensors is None else tensors
        if self.case.kind == "stem":
            return autograd.ConvBNActMaxPool.apply(self.spec, POOL, x, *tensors)
        residual = self.residual if residual is None else residual
        return FUNCTIONS[self.case.kind].apply(self.spec, x, residual, *tensors)

    def plain(self):
        """The same by torch's own functions; moves the running statistics too."""
        main, h = len(self.spec.units), self.x
        for i, (spec, params) in enumerate(zip(self.spec.units, self.params, strict=False)):
            h = plain_unit(spec, params, h)
            if i == main - 1 and self.spec.shortcut != "none":
                h = h + self.plain_shortcut(h)
            h = F.relu(h) if spec.act == "relu" else h
        return F.max_pool2d(h, *POOL) if self.case.kind == "stem" else h

    def plain_shortcut(self, h):
        if self.spec.shortcut == "projection":
            return plain_unit(self.spec.projection, self.params[-1], self.x)
        if self.spec.shortcut == "pad":
            s = self.spec.pad_stride
            return F.pad(self.x[:, :, ::s, ::s], (0, 0, 0, 0, 0, h.shape[1] - self.x.shape[1]))
        return self.x if self.spec.shortcut == "identity" else self.residual


def plain_unit(spec, params, x):
    y = F.conv2d(x, params.weight, params.conv_bias, *spec.conv)
    if spec.norm == "none":
        return y
    batch = spec.norm == "batch"
    frozen = batch and spec.momentum is None  # batch statistics that leave the running ones alone
    running = (None, None) if frozen else (params.running_mean, params.running_var)
    return F.batch_norm(
        y, *running, params.norm_weight, params.norm_bias, batch, spec.momentum or 0.0, spec.eps
    )


def gradients(out, problem, dout, **kwargs):
    wanted = problem.wanted()
    grads = torch.autograd.grad(out, list(wanted.values()), dout, allow_unused=True, **kwargs)
    return dict(zip(wanted, grads, strict=True))


def cases(**fixed):
    """Every kind, shortcut and mode of statistics; a stem always has a batch norm."""
    return [
        Case(kind, shortcut, norm, fold, **fixed)
        for kind, shortcuts in SHORTCUTS.items()
        for shortcut, (norm, fold) in itertools.product(shortcuts, MODES)
        if (kind, norm) != ("stem", "none")
    ]
