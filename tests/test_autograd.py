"""The autograd Functions in fp64: against plain torch, gradcheck; what they compute, keep, leave alone."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from fused_resnet import backends
from tests.autograd_cases import FUNCTIONS, SHORTCUTS, WIDTH, Case, Problem, cases, gradients
from tests.tolerances import assert_close


def parity_cases():
    flags = (False, True)
    for recompute, prologue, stride in itertools.product(flags, flags, (1, 2)):
        modes = {"recompute": recompute, "prologue": prologue, "bias": recompute == prologue}
        for case in cases(stride=stride, momentum=0.1, **modes):
            if case.shortcut != "identity" or stride == 1:
                yield case
        yield from cases(affine=False, **modes)


def check_parity(case):
    problem, stock = Problem(case), Problem(case)
    out, want = problem.fused(), stock.plain()
    assert_close(out, want, what=f"{case}: output")
    dout = torch.randn_like(out)
    got, expected = gradients(out, problem, dout), gradients(want, stock, dout)
    scale = max(t.norm().item() for t in expected.values() if t is not None)
    for name, gradient in expected.items():
        # a convolution's bias under batch statistics has gradient 0 up to rounding
        size = max(gradient.norm().item(), 1e-3 * scale)
        assert_close(got[name], gradient, what=f"{case}: gradient of {name}", scale=size)
    for mine, theirs in zip(problem.params, stock.params, strict=True):
        for name in ("running_mean", "running_var"):
            if getattr(mine, name) is not None:
                assert_close(getattr(mine, name), getattr(theirs, name), what=f"{case}: {name}")


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_parity(kind):
    """Output, every gradient and the running statistics, in every combination of modes."""
    count = 0
    for case in parity_cases():
        if case.kind == kind:
            check_parity(case)
            count += 1
    assert count >= 60


def differentiable_inputs(problem):
    """The tensors that want a gradient as a tuple, and the fused unit as a function of them."""
    wanted = problem.wanted()

    def function(*values):
        given = dict(zip(wanted, values, strict=True))
        names = [f"{i}.{n}" for i, p in enumerate(problem.params) for n in p._fields]
        tensors = [given.get(n, t) for n, t in zip(names, problem.tensors, strict=True)]
        return problem.fused(given["x"], given.get("residual"), tensors)

    return function, tuple(wanted.values())


@pytest.mark.parametrize("case", cases(stride=1), ids=str)
@pytest.mark.parametrize("prologue", [False, True], ids=["written", "prologue"])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recompute"])
def test_gradcheck(case, recompute, prologue):
    """Against finite differences along random directions, with and without the convolution's bias."""
    case = replace(case, recompute=recompute, prologue=prologue, bias=recompute != prologue)
    assert gradcheck(*differentiable_inputs(Problem(case, seed=1)), fast_mode=True)


SLOW_CASES = (
    Case("bottleneck", "projection", "batch", fold=True, prologue=True),
    Case("basic_block", "identity", "batch"),
    Case("conv_bn_act", "none", "frozen", bias=True),
    Case("stem", "none", "batch"),
)


@pytest.mark.parametrize("case", SLOW_CASES, ids=str)
def test_gradcheck_of_every_element(case):
    assert gradcheck(*differentiable_inputs(Problem(case, seed=1, size=(3, 2))))


@pytest.mark.parametrize("case", [*cases(), *cases(stride=2, bias=True, recompute=True)], ids=str)
def test_gradgradcheck(case):
    if case.shortcut == "identity" and case.stride == 2:
        case = replace(case, stride=1)
    assert gradgradcheck(*differentiable_inputs(Problem(case, seed=2)), fast_mode=True)


def test_gradient_penalty():
    """Double backward through a loss, as gradient penalties do, against plain torch."""
    case = Case("bottleneck", "projection", "batch", fold=True)
    results = []
    for method in (Problem.fused, Problem.plain):
        problem = Problem(case)
        (dx,) = torch.autograd.grad(method(problem).square().sum(), problem.x, create_graph=True)
        dx.square().sum().backward()
        results.append({n: t.grad for n, t in problem.wanted().items()})
    for name, want in results[1].items():
        if want.norm() > 1e-6:
            assert_close(results[0][name], want, what=name)


@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16])
def test_double_backward_in_bf16(parameters):
    """In the dtype of x, whatever autocast says when backward runs, for bf16 models and for fp32 ones."""
    problem = Problem(Case("basic_block", "projection", "mixed"))
    x = problem.x.detach().bfloat16().requires_grad_()
    tensors = [
        None if t is None else t.detach().to(parameters).requires_grad_(t.requires_grad)
        for t in problem.tensors
    ]
    out = problem.fused(x, None, tensors)
    with torch.autocast("cpu", torch.float16):
        (dx,) = torch.autograd.grad(out.float().square().sum(), x, create_graph=True)
        dx.float().square().sum().backward()
    assert dx.dtype == torch.bfloat16
    for t in tensors:
        if t is not None and t.grad is not None:
            assert t.grad.dtype == t.dtype and t.grad.isfinite().all()


# ---- only what is asked for --------------------------------------------------------------------------------

CONV_GRADIENTS = (
    *("conv_wgrad", "conv_wgrad_masked", "conv_dgrad", "conv_dgrad_reduce"),
    *("folded_dgrad", "folded_dgrad_reduce"),
)


def backward_ops(problem, names):
    """How often each convolution op runs in a backward that only the named tensors take part in."""
    for name, t in problem.wanted().items():
        t.requires_grad_(name in names)
    out = problem.fused()
    calls = Counter()
    with backends.observe(lambda op, backend: calls.update([op])):
        grads = gradients(out, problem, torch.ones_like(out))
    assert set(grads) == set(names) and all(g is not None for g in grads.values())
    return {op: calls[op] for op in CONV_GRADIENTS if calls[op]}


def bottleneck(**kwargs):
    return Problem(Case("bottleneck", kwargs.pop("shortcut", "identity"), **kwargs))


@pytest.mark.parametrize("prologue", [False, True])
@pytest.mark.parametrize("norm", ["batch", "frozen", "none"])
def test_frozen_weights_have_no_wgrad(norm, prologue):
    calls = backward_ops(bottleneck(norm=norm, prologue=prologue), ["x"])
    assert "conv_wgrad" not in calls and sum(calls.values()) == 3


@pytest.mark.parametrize("norm", ["batch", "frozen", "none"])
def test_input_without_gradient_has_no_dgrad(norm):
    calls = backward_ops(bottleneck(norm=norm), [f"{i}.weight" for i in range(3)])
    assert calls.pop("conv_wgrad") == 3 and sum(calls.values()) == 2


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_frozen_prefix(norm):
    """Nothing below the last unit needs a gradient: one wgrad and no dgrad."""
    assert backward_ops(bottleneck(norm=norm), ["2.weight", "2.norm_weight"]) == {"conv_wgrad": 1}


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_only_norm_biases(norm):
    assert backward_ops(bottleneck(norm=norm), ["2.norm_bias"]) == {}


def test_only_norm_weights_of_batch_statistics():
    assert "conv_wgrad" not in backward_ops(bottleneck(), [f"{i}.norm_weight" for i in range(3)])


def test_only_the_residual():
    assert backward_ops(bottleneck(shortcut="tensor"), ["residual"]) == {}


def test_only_the_projection():
    calls = backward_ops(bottleneck(shortcut="projection"), ["3.weight", "3.norm_bias"])
    assert calls == {"conv_wgrad": 1}


def test_frozen_projection():
    problem = bottleneck(shortcut="projection")
    calls = backward_ops(problem, [n for n in problem.wanted() if n[0] in "012"])
    assert calls["conv_wgrad"] == 3 and sum(calls.values()) == 5


def test_folded_units_need_one_product_each():
    """P = gᵀz serves the weight's gradient and BN's sums alike."""
    calls = backward_ops(bottleneck(fold=True, prologue=True), list(bottleneck().wanted()))
    assert calls == {
        **{"conv_wgrad": 2, "conv_wgrad_masked": 1},
        **{"folded_dgrad_reduce": 1, "conv_dgrad": 1, "folded_dgrad": 1},
    }


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        (dict(fold=True), True),
        (dict(fold=True, bias=True), True),  # batch statistics take a bias away
        (dict(norm="frozen"), True),
        (dict(fold=True, stride=2), True),
        (dict(norm="frozen", bias=True), False),
        (dict(), False),
        (dict(norm="none"), False),
        (dict(norm="mixed"), False),
    ],
    ids=str,
)
def test_tail_and_projection_in_one_op(kwargs, expected):
    """Where both know their BN beforehand, the projection's output is never written."""
    problem, calls = bottleneck(shortcut="projection", **kwargs), Counter()
    with backends.observe(lambda op, backend: calls.update([op])):
        problem.fused()
    assert calls["conv_fprop_dual"] == expected


@pytest.mark.parametrize("shortcut", SHORTCUTS["bottleneck"])
@pytest.mark.parametrize("which", list(itertools.product([False, True], repeat=3)), ids=str)
def test_engines_of_their_own(which, shortcut):
    """Some convolutions of a chain normalise what they load, others do not."""
    problem, stock = (Problem(Case("bottleneck", shortcut, fold=True, momentum=0.1)) for _ in range(2))
    units = [u._replace(prologue=p) for u, p in zip(problem.spec.units, which, strict=True)]
    problem.spec = problem.spec._replace(units=tuple(units))
    out, want = problem.fused(), stock.plain()
    assert_close(out, want)
    dout = torch.randn_like(out)
    got = gradients(out, problem, dout)
    for name, gradient in gradients(want, stock, dout).items():
        assert_close(got[name], gradient, what=name, scale=max(1.0, gradient.norm().item()))


class Stop(torch.autograd.Function):
    """Passes no gradient on: what is above it gets None, not zeros."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, dout):
        return None


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_nothing_runs_without_an_incoming_gradient(kind):
    problem = Problem(Case(kind, SHORTCUTS[kind][-1]))
    out = Stop.apply(problem.fused())
    with backends.observe(lambda op, backend: pytest.fail(op)):
        assert not any(g is not None for g in gradients(out, problem, torch.ones_like(out)).values())


# ---- what is kept ------------------------------------------------------------------------------------------


def kept_activations(case):
    """Names of the activations that forward keeps, each once: x, out, residual, or the shape of another."""
    problem, kept = Problem(case, size=(8, 8)), {}

    def pack(t):
        kept[t.data_ptr()] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = problem.fused()
    known = {problem.x.data_ptr(): "x", out.data_ptr(): "out"}
    parameters = {t.data_ptr() for t in problem.tensors if t is not None}
    if problem.residual is not None:
        known[problem.residual.data_ptr()] = "residual"
    large = {p: t for p, t in kept.items() if p not in parameters and t.dim() == 4}
    vectors = sum(t.numel() for p, t in kept.items() if p not in parameters and t.dim() < 4)
    return sorted(known.get(p, str(tuple(t.shape))) for p, t in large.items()), vectors


@pytest.mark.parametrize("shortcut", SHORTCUTS["bottleneck"])
def test_kept_when_storing(shortcut):
    kept, _ = kept_activations(Case("bottleneck", shortcut))
    out = {"pad": WIDTH + 2, "projection": WIDTH + 1}.get(shortcut, WIDTH)
    last = [f"(2, {out}, 8, 8)"] * (1 + (shortcut == "projection"))
    residual = ["residual"] if shortcut == "tensor" else []
    assert kept == sorted([*last, "(2, 4, 8, 8)", "(2, 4, 8, 8)", "out", *residual, "x"])


@pytest.mark.parametrize("shortcut", ["identity", "pad", "projection"])
def test_no_wide_activation_is_kept_when_folding(shortcut):
    """Of a folded unit (here the first, the last and the projection) only the output exists."""
    kept, _ = kept_activations(Case("bottleneck", shortcut, fold=True))
    assert kept == ["(2, 4, 8, 8)", "(2, 4, 8, 8)", "out", "x"]


@pytest.mark.parametrize("case", cases(recompute=True), ids=str)
def test_recompute_keeps_vectors_only(case):
    kept, vectors = kept_activations(case)
    expected = {"out", "x", *(["residual"] if case.shortcut == "tensor" else [])}
    if case.kind == "stem":
        expected = {"x", "(2, 4, 4, 4)"}  # the argmax, one byte per output
    assert set(kept) == expected
    assert vectors <= 5 * 8 * 4  # at most norm [4, K] and the input's mean, of at most 4 units with K <= 8


def test_nothing_is_kept_without_grad():
    problem = bottleneck()
    with (
        torch.no_grad(),
        torch.autograd.graph.saved_tensors_hooks(lambda t: pytest.fail("kept"), lambda t: t),
    ):
        assert not problem.fused().requires_grad
    with torch.inference_mode():
        assert problem.fused().is_inference()


# ---- gradients that arrive, inputs, repetition -------------------------------------------------------------


def odd_gradients(out):
    """The same values in other strides."""
    dense = torch.randn_like(out)
    yield dense
    yield dense.contiguous()
    yield dense.repeat_interleave(2, 3)[..., ::2]
    yield dense.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)


@pytest.mark.parametrize("case", [c for c in cases(bias=True) if c.norm in ("batch", "mixed")], ids=str)
def test_strides_of_the_incoming_gradient(case):
    problem = Problem(case)
    out = problem.fused()
    results = [gradients(out, problem, d, retain_graph=True) for d in odd_gradients(out)]
    for other in results[1:]:
        for name, want in results[0].items():
            assert_close(other[name], want, what=name, scale=max(1.0, want.norm().item()))


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_expanded_incoming_gradient(kind):
    """``out.sum().backward()`` sends one value expanded over the output."""
    problem = Problem(Case(kind, SHORTCUTS[kind][-1], fold=True))
    out = problem.fused()
    got = gradients(out, problem, torch.ones((), dtype=out.dtype).expand(out.shape), retain_graph=True)
    want = gradients(out, problem, torch.ones_like(out))
    assert all(torch.equal(got[n], want[n]) for n in want)


@pytest.mark.parametrize("case", cases(), ids=str)
def test_incoming_gradient_is_not_touched_and_backward_repeats(case):
    """Twice through one graph, and through a second, gives the same bits; dout, shared with others, stays."""
    problem = Problem(case)
    out = problem.fused()
    dout = torch.randn_like(out)
    before, version = dout.clone(), dout._version
    first = gradients(out, problem, dout, retain_graph=True)
    clones = {n: t.clone() for n, t in first.items()}
    again = gradients(out, problem, dout)
    repeated = gradients(problem.fused(), problem, dout)
    assert dout._version == version and torch.equal(dout, before)
    for name, want in clones.items():
        for other in (first, again, repeated):
            assert torch.equal(other[name], want), name
    assert all(t.data_ptr() != dout.data_ptr() for t in first.values())


@pytest.mark.parametrize("case", [*cases(prologue=True), *cases(recompute=True)], ids=str)
def test_any_view_as_input(case):
    """Input and residual as strided views."""
    problem = Problem(case)
    out = problem.fused()
    dout = torch.randn_like(out)
    want = gradients(out, problem, dout)

    def strided(t):
        return None if t is None else t.detach().repeat_interleave(2, 3)[..., ::2].requires_grad_()

    assert not strided(problem.x).is_contiguous(memory_format=torch.channels_last)
    problem.x, problem.residual = strided(problem.x), strided(problem.residual)
    other = problem.fused()
    assert_close(other, out)
    for name, gradient in gradients(other, problem, dout).items():
        assert_close(gradient, want[name], what=name, scale=max(1.0, want[name].norm().item()))


def test_input_as_residual_too():
    """One tensor as input and as residual gets both gradients."""
    problem = Problem(Case("basic_block", "tensor"))
    problem.residual = problem.x
    same = Problem(Case("basic_block", "identity"))
    dout = torch.randn_like(problem.x)
    got = torch.autograd.grad(problem.fused(), problem.x, dout)
    want = torch.autograd.grad(same.plain(), same.x, dout)
    assert_close(got[0], want[0])


# ---- running statistics ------------------------------------------------------------------------------------


def running(problem):
    return [t.clone() for p in problem.params for t in p[4:] if t is not None]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("fold", [False, True])
def test_running_statistics_move_once(fold, recompute):
    """In forward; not again when backward recomputes or differentiates a second time."""
    case = Case("bottleneck", "projection", fold=fold, recompute=recompute, momentum=0.1)
    problem = Problem(case)
    out = problem.fused()
    after = running(problem)
    gradients(out, problem, torch.ones_like(out), retain_graph=True)
    gradients(out, problem, torch.ones_like(out), create_graph=True)
    assert all(map(torch.equal, running(problem), after))


@pytest.mark.parametrize("case", cases(momentum=None), ids=str)
def test_momentum_none_leaves_running_statistics_alone(case):
    problem = Problem(case)
    before = running(problem)
    problem.fused().sum().backward()
    assert all(map(torch.equal, running(problem), before))


@pytest.mark.parametrize("case", cases(momentum=0.1), ids=str)
def test_two_forwards_then_backward(case):
    """Running statistics move with the second batch while the first still waits for its backward.

    As with a shared backbone, or a loss over two views; frozen ones may move in between, too.
    """
    problem, stock = Problem(case), Problem(case)
    outs = [problem.fused(), problem.fused(problem.x * 2)]
    for params in problem.params:
        if params.running_mean is not None:
            params.running_mean.mul_(2)
    want = stock.plain()
    dout = torch.randn_like(want)
    got, expected = gradients(outs[0], problem, dout, retain_graph=True), gradients(want, stock, dout)
    twice = gradients(outs[0], problem, dout, create_graph=True)
    for name, gradient in expected.items():
        assert_close(got[name], gradient, what=name)
        assert_close(twice[name], gradient, what=f"{name} with create_graph")
    outs[1].sum().backward()


# ---- modes of torch ----------------------------------------------------------------------------------------


def test_parameters_keep_their_dtype_under_autocast():
    """x arrives in bf16, parameters in fp32: so do their gradients."""
    problem = Problem(Case("bottleneck", "projection", fold=True, bias=True))
    tensors = [
        None if t is None else t.detach().float().requires_grad_(t.requires_grad) for t in problem.tensors
    ]
    x = problem.x.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = problem.fused(x, None, tensors)
    out.sum().backward()
    assert out.dtype == x.grad.dtype == torch.bfloat16
    assert all(t.grad.dtype == torch.float32 for t in tensors if t is not None and t.requires_grad)


def test_modified_weight_is_noticed():
    """A weight that changes between forward and backward is an error, as in stock modules."""
    problem = bottleneck()
    out = problem.fused()
    with torch.no_grad():
        problem.params[1].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_forward_mode_is_refused():
    problem = bottleneck()
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward mode AD"):
        problem.fused(torch.autograd.forward_ad.make_dual(problem.x.detach(), torch.ones_like(problem.x)))


def test_functorch_transforms_are_refused():
    problem = bottleneck()
    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.grad(lambda x: problem.fused(x).sum())(problem.x.detach())
