"""The experiments that count and measure networks: counts, rows of a tiny run, figures."""

from __future__ import annotations

import copy
import gc

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import fused_resnet
from fused_resnet.analysis import Timing, saved_activation_bytes
from fused_resnet.analysis.printing import Printer
from fused_resnet.models import BasicBlock, Bottleneck, create
from tests.tolerances import tolerance

pytest.importorskip("pandas")
pytest.importorskip("matplotlib")

from fused_resnet.study import bottleneck, cost, measured

CPU = torch.device("cpu")
TINY = {"batch": 2, "size": 64, "rounds": 1, "device": CPU, "memory": "balanced"}
SHARED_COLUMNS = {
    "network",
    "variant",
    "parameters",
    "multiply_adds",
    "batch",
    "size",
    "training_s",
    "training_first_quartile_s",
    "training_third_quartile_s",
    "inference_s",
    "inference_first_quartile_s",
    "inference_third_quartile_s",
    "rounds",
    "kept_bytes",
    "peak_bytes",
    "output_gap",
    "others_share",
}
TOLERANCE = tolerance("parity", torch.float32).relative


@pytest.fixture(scope="module", autouse=True)
def _frozen_garbage():
    """Garbage is collected before every timed run: what was there before is not looked through each time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def costs():
    return cost.cost(Printer(as_json=False), depths=(18,), **TINY)


@pytest.fixture(scope="module")
def pairs():
    """The blocks, and in place of the networks two that take less time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bottleneck, "NETWORKS", {"ResNet-18": "resnet18", "ResNet-34": "resnet34"})
        yield bottleneck.bottleneck(Printer(as_json=False), **TINY)


# ---- counts --------------------------------------------------------------------------------------


def multiply_adds_by_torch(model: nn.Module, input: torch.Tensor) -> int:
    """A multiplication and an addition are two to torch's counter."""
    with FlopCounterMode(display=False) as counter:
        model(input)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("depth", cost.DEPTHS)
def test_counts_are_torchvisions(depth):
    torchvision = pytest.importorskip("torchvision")
    image = torch.empty(1, 3, 224, 224, device="meta")
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"resnet{depth}")()
    counts = cost.counts(depth)
    assert counts["network"] == f"ResNet-{depth}"
    assert counts["parameters"] == sum(p.numel() for p in theirs.parameters())
    assert counts["multiply_adds"] == multiply_adds_by_torch(theirs, image)

    for block in theirs.modules():
        if isinstance(block, torchvision.models.resnet.Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, (1, 1)
    assert counts["multiply_adds_paper_stride"] == multiply_adds_by_torch(theirs, image)


@pytest.mark.parametrize("depth, paper", [(18, 1.8), (34, 3.6), (50, 3.8), (101, 7.6), (152, 11.3)])
def test_counts_with_the_papers_stride_are_the_papers(depth, paper):
    counts = cost.counts(depth)
    assert counts["paper_multiply_adds"] == paper * 1e9
    # The paper cuts some digits off and rounds others.
    assert abs(counts["multiply_adds_paper_stride"] / 1e9 - paper) < 0.1
    assert (counts["multiply_adds"] > counts["multiply_adds_paper_stride"]) == (depth >= 50)


def test_moved_stride_keeps_shapes():
    block = create("resnet50", fused=False).layer2[0].eval()
    x = torch.randn(1, 256, 8, 8)
    shape = block(x).shape
    cost.with_paper_stride(block)
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
    assert block(x).shape == shape == (1, 512, 4, 4)


def test_counts_of_figure_5():
    counts = bottleneck.counts()
    assert list(counts) == ["basic block", "bottleneck block", "ResNet-34", "ResNet-50"]
    of_norms = {"basic block": 2 * (64 + 64), "bottleneck block": 2 * (64 + 64 + 256)}
    weights = {"basic block": 2 * 9 * 64 * 64, "bottleneck block": 256 * 64 + 9 * 64 * 64 + 64 * 256}
    for name, expected in weights.items():
        assert counts[name] == {
            "parameters": expected + of_norms[name],
            "multiply_adds": expected * 56 * 56,
        }
    assert round(counts["ResNet-34"]["parameters"] / 1e6, 1) == 21.8
    assert round(counts["ResNet-50"]["parameters"] / 1e6, 1) == 25.6
    for depth in (34, 50):
        assert counts[f"ResNet-{depth}"]["multiply_adds"] == cost.counts(depth)["multiply_adds"]


# ---- rows ----------------------------------------------------------------------------------------


def assert_measured(frame) -> None:
    """What holds of the rows of any run of `TINY`."""
    assert list(frame["variant"]) == ["stock", "fused"] * (len(frame) // 2)
    assert (frame["rounds"] == 1).all() and (frame["batch"] == 2).all()
    for work in ("training", "inference"):
        median, first, third = (frame[column] for column in measured.times(work))
        assert (median > 0).all() and (first == median).all() and (third == median).all()
    for _, rows in frame.groupby("network", sort=False):
        stock, fused = (row for _, row in rows.iterrows())
        assert fused["kept_bytes"] < stock["kept_bytes"]
        assert stock["output_gap"] == 0 and fused["output_gap"] <= TOLERANCE
        assert stock["parameters"] == fused["parameters"]


def test_rows_of_cost(costs):
    assert set(costs.columns) == SHARED_COLUMNS | {"multiply_adds_paper_stride", "paper_multiply_adds"}
    assert list(costs["network"]) == ["ResNet-18"] * 2
    assert (costs["size"] == 64).all()
    assert_measured(costs)
    assert costs["multiply_adds"].iloc[0] == cost.counts(18)["multiply_adds"]


def kept(stock: nn.Module, input: torch.Tensor) -> list[int]:
    stock = stock.to(memory_format=torch.channels_last)
    input = input.to(memory_format=torch.channels_last)
    fused = fused_resnet.fuse(copy.deepcopy(stock), memory="balanced")
    assert fused_resnet.explain(fused).fused
    return [saved_activation_bytes(model, input) for model in (stock, fused)]


def test_kept_bytes_of_cost(costs):
    assert list(costs["kept_bytes"]) == kept(create("resnet18", fused=False), torch.randn(2, 3, 64, 64))
    assert (costs["peak_bytes"] >= costs["kept_bytes"]).all()


def test_rows_of_bottleneck(pairs):
    assert set(pairs.columns) == SHARED_COLUMNS
    assert list(pairs["network"].unique()) == ["basic block", "bottleneck block", "ResNet-18", "ResNet-34"]
    assert list(pairs["size"]) == [16] * 4 + [64] * 4
    assert_measured(pairs)


@pytest.mark.parametrize(
    "name, block, channels", [("basic block", BasicBlock, 64), ("bottleneck block", Bottleneck, 256)]
)
def test_kept_bytes_of_blocks(pairs, name, block, channels):
    input = torch.randn(2, channels, 16, 16).requires_grad_()
    found = pairs.loc[pairs["network"] == name, "kept_bytes"]
    assert list(found) == kept(nn.Sequential(block(channels, 64)), input)


# ---- measuring -----------------------------------------------------------------------------------


class Scaled(nn.Module):
    """Its input times a factor: one in training, another one in evaluation."""

    def __init__(self, training: float, evaluation: float) -> None:
        super().__init__()
        self.factors = {True: training, False: evaluation}

    def forward(self, x):
        return x * self.factors[self.training]


@pytest.mark.parametrize(
    "factors, gap", [((1.5, 1.0), 0.5), ((1.0, 1.25), 0.25), ((1.0, float("nan")), None)]
)
def test_output_gap_is_the_larger_one(factors, gap):
    found = measured.output_gap(Scaled(1.0, 1.0), Scaled(*factors), torch.tensor([-4.0, 1.0]))
    assert np.isnan(found) if gap is None else found == gap


def small_subject() -> measured.Subject:
    block = nn.Sequential(BasicBlock(64, 64)).to(memory_format=torch.channels_last)
    input = torch.randn(1, 64, 8, 8).to(memory_format=torch.channels_last)
    return measured.Subject(block, input, lambda output: output.sum().backward())


def test_times_stand_where_they_belong(monkeypatch):
    subject, inferred = small_subject(), []
    subject.stock.register_forward_hook(lambda *_: inferred.append(torch.is_inference_mode_enabled()))

    def pretended(runs, rounds, **_):
        """Five runs of 1 to 5 s: a fused training step. 10 s more for stock, 100 s more in inference."""
        taken = {}
        for name, run in runs.items():
            inferred.clear()
            run()
            more = 10 * (name == "stock") + 100 * inferred[0]
            taken[name] = Timing(tuple(more + second for second in (3.0, 1.0, 5.0, 4.0, 2.0)))
        return taken

    monkeypatch.setattr(measured, "interleaved", pretended)
    stock, fused = measured.measure(
        Printer(as_json=False), {"a block": lambda: subject}, rounds=5, device=CPU, memory="balanced"
    )
    for row, more in ((stock, 10), (fused, 0)):
        assert [row[column] - more for column in measured.times("training")] == [3, 2, 4]
        assert [row[column] - more for column in measured.times("inference")] == [103, 102, 104]


@pytest.mark.parametrize("name", bottleneck.BLOCKS)
def test_blocks_give_a_gradient_to_their_input(name):
    subject = bottleneck._block(name, batch=2, size=8, device=CPU)
    subject.backward(subject.stock(subject.input))
    assert subject.input.grad.abs().max() > 0


def test_networks_train_on_cross_entropy():
    subject = measured.network("resnet18", batch=2, size=64, device=CPU)
    logits = torch.randn(2, 1000, requires_grad=True)
    subject.backward(logits)
    assert not subject.input.requires_grad
    # Its gradient by logits: (softmax - 1 at the label) / batch.
    difference = logits.grad * 2 - logits.detach().softmax(1)
    assert sorted(difference.sum(1).round().tolist()) == [-1, -1]
    assert torch.allclose(difference.min(1).values, torch.tensor(-1.0))


class Disturbed:
    share = 0.5

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def test_disturbed_times_are_told(monkeypatch, capsys):
    monkeypatch.setattr(measured, "OtherProcesses", Disturbed)
    rows = measured.measure(
        Printer(as_json=False), {"a block": small_subject}, rounds=1, device=CPU, memory="balanced"
    )
    assert "a block: other processes had 50% of the processors" in capsys.readouterr().out
    assert [row["others_share"] for row in rows] == [0.5, 0.5]


WRONG = [
    ({"batch": 0}, "batch: expected at least 1, got 0"),
    ({"rounds": 0}, "rounds: expected at least 1, got 0"),
    ({"size": 32}, "size: expected at least 64, got 32"),
    ({"memory": "most"}, "memory: expected one of"),
]


@pytest.fixture
def nothing_runs(monkeypatch):
    def run(*args, **kwargs):
        pytest.fail("something was run")

    monkeypatch.setattr(measured, "measure", run)
    monkeypatch.setattr(cost, "create", run)
    monkeypatch.setattr(bottleneck, "create", run)


@pytest.mark.parametrize("experiment", [cost.cost, bottleneck.bottleneck])
@pytest.mark.parametrize("wrong, message", WRONG)
def test_wrong_arguments(experiment, wrong, message, nothing_runs):
    with pytest.raises(ValueError, match=message):
        experiment(Printer(as_json=False), **(TINY | wrong))


@pytest.mark.parametrize("depths", [(18, 20), ()])
def test_unknown_depths(depths, nothing_runs):
    with pytest.raises(ValueError, match=r"depths: expected some of \(18, 34, 50, 101, 152\)"):
        cost.cost(Printer(as_json=False), depths=depths, **TINY)
    with pytest.raises(ValueError, match=r"depth: expected one of .*, got 20"):
        cost.counts(20)


# ---- figures -------------------------------------------------------------------------------------


def several(frame, depths):
    """The rows of other networks: `frame`'s with other figures."""
    rows = []
    for index, depth in enumerate(depths):
        row = frame.assign(network=f"ResNet-{depth}", multiply_adds=cost.counts(depth)["multiply_adds"])
        for column in [c for work in ("training", "inference") for c in measured.times(work)]:
            row[column] = row[column] * (index + 1)
        row["training_third_quartile_s"] *= 1.5
        row["peak_bytes"] *= index + 1
        rows.append(row)
    return type(frame)(np.concatenate([row.to_numpy() for row in rows]), columns=frame.columns)


def test_cost_is_drawn(costs):
    frame = several(costs, (18, 34, 50))
    left, right = cost.draw(frame).axes
    lines = {container.get_label(): container.lines for container in left.containers}
    assert set(lines) == {
        f"{work}, {name}" for work in ("training", "inference") for name in ("stock", "fused")
    }
    assert {line.get_label() for line in right.lines} == {"stock", "fused"}
    for name, color in (("stock", "#5f6b76"), ("fused", "#d1495b")):
        part = frame[frame["variant"] == name]
        x = list(part["multiply_adds"] / 1e9)
        for work in ("training", "inference"):
            data, _, (bars,) = lines[f"{work}, {name}"]
            assert data.get_color() == color
            assert list(data.get_xdata()) == x
            np.testing.assert_allclose(list(data.get_ydata()), list(part[f"{work}_s"] / 2 * 1e3))
            ends = [[low[1], high[1]] for low, high in bars.get_segments()]
            quartiles = part[[f"{work}_first_quartile_s", f"{work}_third_quartile_s"]] / 2 * 1e3
            np.testing.assert_allclose(ends, quartiles.to_numpy(dtype=float))
        memory = next(line for line in right.lines if line.get_label() == name)
        assert memory.get_color() == color
        assert list(memory.get_xdata()) == x
        assert list(memory.get_ydata()) == list(part["peak_bytes"] / 2**20)


def test_bottleneck_is_drawn(pairs):
    axes = bottleneck.draw(pairs).axes
    assert len(axes) == 6
    for index, rows in enumerate((pairs[:4], pairs[4:])):
        heights = [rows["training_s"] / 2 * 1e3, rows["inference_s"] / 2 * 1e3, rows["peak_bytes"] / 2**20]
        for panel, expected in zip(axes[3 * index : 3 * index + 3], heights, strict=True):
            assert [tick.get_text() for tick in panel.get_xticklabels()] == list(rows["network"].unique())
            found = [bar.get_height() for bar in panel.patches]
            # Stock's bars come first, then fused ones.
            np.testing.assert_allclose(found, [*expected[::2], *expected[1::2]])
