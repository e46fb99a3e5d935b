"""examples/train_imagenet.py on real images: many processes against one, resumes bit for bit, refusals."""

# ruff: noqa: E402 (the examples are no package: their folder has to be found first)

from __future__ import annotations

import csv
import inspect
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import fused_resnet
from tests.tolerances import absolute_error, assert_close, relative_error, tolerance

for package in ("PIL", "rich", "sklearn", "torchvision", "typer"):
    pytest.importorskip(package)

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "examples"))

import train_imagenet
from imagenet import checkpoint, data, model
from imagenet.job import Job
from imagenet.options import Options, complete
from PIL import Image
from typer.testing import CliRunner

SCRIPT = str(ROOT / "examples" / "train_imagenet.py")
NET = ("--arch", "cifar_resnet20", "--size", "32", "--lr", "0.01", "--workers", "0", "--deterministic")
TRAIN, VAL = 80, 29  # images; 5 steps of 16 are an epoch, and two processes cannot halve 29
ALONE = Job(0, 1, torch.device("cpu"), False)
gloo = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo"
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> str:
    """scikit-learn's handwritten digits as 32x32 PNGs: 8 of each to train, 3 (of 9: two) to validate."""
    from sklearn.datasets import load_digits

    root = tmp_path_factory.mktemp("digits")
    found = load_digits()
    for digit in range(10):
        for index, pixels in enumerate(found.images[found.target == digit][: 10 if digit == 9 else 11]):
            folder = root / ("train" if index < 8 else "val") / str(digit)
            folder.mkdir(parents=True, exist_ok=True)
            grey = Image.fromarray((pixels * 15.9).astype("uint8"))
            grey.resize((32, 32), Image.Resampling.BILINEAR).save(folder / f"{index}.png")
    return str(root)


@pytest.fixture(autouse=True)
def _as_before():
    """--deterministic is for a process."""
    with fused_resnet.tuning.policy("off"):
        yield
    torch.use_deterministic_algorithms(False)


def alone(*arguments: object, status: int = 0) -> str:
    """Everything that a run in this process prints."""
    done = CliRunner().invoke(train_imagenet.app, [str(a) for a in arguments], env={"COLUMNS": "400"})
    assert done.exit_code == status, f"{done.output}\n{done.exception!r}"
    return done.output


def on_two(*arguments: object, well: bool = True) -> str:
    """What a run of two processes prints."""
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
    done = subprocess.run(
        [sys.executable, *launcher, SCRIPT, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode == 0) == well, done.stderr
    return done.stdout


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": str(ROOT)}


def state(output: Path) -> dict[str, Any]:
    return checkpoint.read(output / "checkpoint.pt")


def tensors(value: Any, path: str = "") -> dict[str, Tensor]:
    """Every tensor and number in a checkpoint by its place; without what time it took."""
    if isinstance(value, Tensor):
        return {path: value}
    if isinstance(value, dict):
        items = [(k, v) for k, v in value.items() if k not in ("seconds", "images_per_s")]
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    elif isinstance(value, int | float):
        return {path: torch.tensor(value)}
    else:
        return {}
    return {name: t for k, v in items for name, t in tensors(v, f"{path}/{k}").items()}


def log(output: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader((output / "log.csv").open()))
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_s")} for row in rows]


def assert_same_bits(got: Path, want: Path) -> None:
    theirs, ours = tensors(state(want)), tensors(state(got))
    assert ours.keys() == theirs.keys()
    assert sum(t.numel() for t in ours.values()) > 3 * 270_000  # weights, their average, momentum
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    assert log(got) == log(want)


def weights(output: Path) -> Tensor:
    """All parameters as one vector."""
    found = state(output)["model"]
    return torch.cat([t.flatten() for n, t in found.items() if "running" not in n and "num_" not in n])


# ---- many processes ------------------------------------------------------------------------------


@gloo
def test_two_processes_are_one_with_the_whole_batch(digits, tmp_path):
    """Fused with synchronised batch norms on two, against stock on one: an epoch, in fp64."""
    one, two, apart = tmp_path / "one", tmp_path / "two", tmp_path / "apart"
    common = (digits, *NET, "--dtype", "fp64", "--epochs", 1, "--ema", 0.9)
    alone(*common, "--stock", "--batch", 16, "--output", one)
    on_two(*common, "--sync-bn", "--batch", 8, "--output", two)
    on_two(*common, "--batch", 8, "--output", apart)
    got, want = state(two), state(one)
    for part in ("model", "ema", "optimizer"):
        ours, theirs = tensors(got[part]), tensors(want[part])
        assert ours.keys() == theirs.keys()
        for name, t in theirs.items():
            assert_close(ours[name].double(), t.double(), what=f"{part}{name}")
    row, expected = got["history"][0], want["history"][0]
    for name in ("train_loss", "val_loss", "ema_loss"):
        assert row[name] == pytest.approx(expected[name], rel=tolerance("parity", torch.float64).relative)
    for name in ("train_top1", "train_top5", "val_top1", "val_top5", "ema_top1", "ema_top5"):
        assert row[name] == expected[name]  # 29 images on two processes: none is missing or counts twice
    assert relative_error(weights(apart), weights(one)) > 1e-3, (
        "without --sync-bn it would be another training"
    )


@gloo
def test_two_processes_in_fp32(digits, tmp_path):
    """As fp32 rounds: two steps, before training has made much of a rounding."""
    one, two = tmp_path / "one", tmp_path / "two"
    common = (digits, *NET, "--stop-after", 2)
    alone(*common, "--stock", "--dtype", "fp64", "--batch", 16, "--output", one, status=75)
    on_two(*common, "--sync-bn", "--batch", 8, "--output", two, well=False)
    assert_close(weights(two), weights(one), "training curve")


def test_processes_share_each_step(digits):
    """Two processes' batches of a step are one process' batch, in every epoch, wherever one begins."""

    def batches(rank: int, processes: int, epoch: int, start: int) -> list[list[tuple[int, int]]]:
        options = some_options(digits, batch=12 // processes)
        found = data.EpochBatches(TRAIN, options, Job(rank, processes, torch.device("cpu"), False))
        found.epoch, found.start = epoch, start
        assert len(found) == len(list(found)) == TRAIN // 12 - start
        return list(found)

    whole = batches(0, 1, 3, 0)
    assert len({key for step in whole for key in step}) == 12 * (TRAIN // 12)
    for pair in zip(whole, *(batches(rank, 2, 3, 0) for rank in range(2)), strict=True):
        assert sorted(pair[0]) == sorted(pair[1] + pair[2])
    assert batches(1, 2, 3, 4) == batches(1, 2, 3, 0)[4:]
    assert [index for _, index in whole[0]] != [index for _, index in batches(0, 1, 4, 0)[0]]


def test_shares_of_the_validation_images(digits):
    options = some_options(digits, batch=4)
    folders = data.folders(options, 2)
    found: list[int] = []
    for rank in range(2):
        _, _, loader = data.loaders(*folders, options, Job(rank, 2, torch.device("cpu"), False))
        found += list(loader.dataset.indices)
    assert sorted(found) == list(range(VAL))


# ---- images --------------------------------------------------------------------------------------


def some_options(root: str, processes: int = 1, **changes: Any) -> Options:
    """Options as the command line would make them."""
    given = {name: p.default for name, p in inspect.signature(train_imagenet.main).parameters.items()}
    given |= {"data": Path(root), "output": Path("unused"), "size": 32, "workers": 0}
    return complete(given | changes, processes)


@pytest.mark.parametrize("recipe", ["standard", "paper"])
def test_a_sample_is_a_function_of_seed_epoch_and_index(digits, recipe):
    """Not of workers, nor of what was drawn before, nor of the samples before it."""

    def images(workers: int, start: int, seed: int = 1, epoch: int = 0) -> list[Tensor]:
        options = some_options(digits, recipe=recipe, batch=16, workers=workers, seed=seed)
        loader, batches, _ = data.loaders(*data.folders(options, 1), options, ALONE)
        batches.epoch, batches.start = epoch, start
        return [batch for batch, _ in loader]

    before = torch.get_rng_state()
    want = images(0, 0)
    assert torch.equal(torch.get_rng_state(), before), "loading images leaves the global generator alone"
    torch.rand(3)
    for got in (images(2, 0)[3:], images(0, 3)):
        assert len(got) == 2 and all(map(torch.equal, got, want[3:]))
    first = data.SeededImages(data.folders(some_options(digits, recipe=recipe, batch=1), 1)[0], seed=1)
    assert not torch.equal(first[0, 0][0], first[1, 0][0])
    other = data.SeededImages(first.images, seed=2)
    assert not torch.equal(first[0, 0][0], other[0, 0][0])
    assert not torch.equal(images(0, 0, epoch=1)[0], want[0])


# ---- resuming ------------------------------------------------------------------------------------


@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
def test_resume_bit_for_bit(digits, tmp_path, amp):
    """Two epochs, against two that were interrupted within each and resumed with other numbers of workers."""
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    common = (digits, *NET, "--size", 16, "--batch", 16, "--epochs", 2, "--milestone", 1)
    common += ("--ema", 0.9, "--amp", amp)
    alone(*common, "--output", straight)
    out = alone(*common, "--output", parts, "--stop-after", 3, status=75)
    assert "stopped after 3 steps" in out and state(parts)["step"] == 3
    alone(*common, "--output", parts, "--resume", "--stop-after", 3, "--workers", 2, status=75)
    assert (state(parts)["epoch"], state(parts)["step"]) == (1, 1)
    alone(*common, "--output", parts, "--restart", "--checkpoint-every", 2)
    assert_same_bits(parts, straight)
    assert [row["lr"] for row in log(parts)] == ["0.01", "0.001"]
    found = state(parts)
    assert not torch.equal(found["ema"]["module.bn1.running_mean"], found["model"]["bn1.running_mean"])
    assert bool(found["scaler"]) == (amp == "fp16")
    assert all(t.isfinite().all() for part in ("model", "ema") for t in found[part].values())


@gloo
def test_resume_on_two_processes(digits, tmp_path):
    """Without synchronised batch norms: each process has running statistics of its own between two steps."""
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    common = (digits, *NET, "--batch", 8, "--epochs", 2, "--ema", 0.9, "--amp", "bf16")
    on_two(*common, "--output", straight)
    on_two(*common, "--output", parts, "--stop-after", 7, well=False)
    on_two(*common, "--output", parts, "--resume")
    assert_same_bits(parts, straight)


def test_killed_at_any_moment(digits, tmp_path):
    """SIGKILL while it trains and writes checkpoints all the time."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    common = (digits, *NET, "--batch", 16, "--ema", 0.9)
    endless = [*common, "--output", killed, "--epochs", 10_000, "--checkpoint-every", 1]
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, endless)], env=environment(), stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while not (killed / "checkpoint.pt").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(random.Random().uniform(0, 1))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    epochs = state(killed)["epoch"] + 1
    alone(*common, "--output", killed, "--epochs", epochs, "--resume")
    alone(*common, "--output", straight, "--epochs", epochs)
    assert_same_bits(killed, straight)


def test_a_write_that_fails_leaves_the_former_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.pt"
    checkpoint.write(path, {"format": checkpoint.FORMAT, "step": 1})

    def full(value, file):
        file.write(b"half of a")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(path, {"format": checkpoint.FORMAT, "step": 2})
    monkeypatch.undo()
    assert checkpoint.read(path)["step"] == 1
    checkpoint.write(path, {"format": checkpoint.FORMAT, "step": 3})
    assert checkpoint.read(path)["step"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_another_format_is_refused(tmp_path):
    checkpoint.write(tmp_path / "checkpoint.pt", {"format": 99})
    with pytest.raises(ValueError, match="expected a checkpoint of format 1, got 99"):
        state(tmp_path)


def test_random_state():
    def draw() -> tuple[float, float]:
        return torch.rand(()).item(), random.random()

    saved = checkpoint.random_state(torch.device("cpu"))
    want = draw()
    assert draw() != want
    checkpoint.set_random_state(saved, torch.device("cpu"))
    assert draw() == want


def test_resume_of_another_training_is_refused(digits, tmp_path):
    common = (digits, *NET, "--batch", 16, "--output", tmp_path, "--epochs", 1)
    alone(*common, "--stop-after", 1, status=75)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    out = alone(*common, "--resume", "--seed", 1, "--batch", 8, "--allow-rounding", status=2)
    assert "of another training: batch was 16, is 8, seed was 0, is 1" in out
    out = alone(*common, "--resume", "--recipe", "paper", status=2)
    assert "training: recipe was 'standard', is 'paper', milestones was [30, 60], is []" in out
    out = alone(*common, "--resume", "--memory", "min", status=2)
    assert "other roundings: memory was 'balanced', is 'min'; --allow-rounding" in out
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_resume_with_other_images_is_refused(digits, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(digits, images)
    common = (images, *NET, "--batch", 16, "--output", tmp_path / "out")
    alone(*common, "--stop-after", 1, status=75)
    (images / "train" / "3" / "0.png").rename(images / "train" / "3" / "another.png")
    assert "of another training: training images was" in alone(*common, "--resume", status=2)


def test_stock_and_fused_share_checkpoints(digits, tmp_path):
    """fp64: four steps that change their kind half way are four steps of either kind."""
    common = (digits, *NET, "--batch", 16, "--dtype", "fp64", "--ema", 0.9)
    runs = {}
    for first, second in (("--stock", "--stock"), ("--stock", "--fused"), ("--fused", "--stock")):
        output = tmp_path / f"{first}{second}"
        alone(*common, first, "--output", output, "--stop-after", 2, status=75)
        more = ("--resume", "--allow-rounding", "--stop-after", 2)
        alone(*common, second, "--output", output, *more, status=75)
        runs[first, second] = state(output)
    want = runs.pop(("--stock", "--stock"))
    for run in runs.values():
        assert run["step"] == 4
        for part in ("model", "ema", "optimizer"):
            ours, theirs = tensors(run[part]), tensors(want[part])
            assert ours.keys() == theirs.keys()
            for name, t in theirs.items():
                assert_close(ours[name].double(), t.double(), what=f"{part}{name}")
    net = fused_resnet.models.create("cifar_resnet20", fused=False).double()
    net.load_state_dict(run["model"])  # and into a network that this script has not made


# ---- options -------------------------------------------------------------------------------------


def test_compile(digits, tmp_path):
    """torch.compile computes the same training."""
    runs = [tmp_path / "eager", tmp_path / "compiled"]
    common = (digits, *NET, "--batch", 16, "--dtype", "fp64", "--stop-after", 3)
    try:
        for output, more in zip(runs, ((), ("--compile",)), strict=True):
            alone(*common, *more, "--output", output, status=75)
    finally:
        torch._dynamo.reset()
    eager, compiled = (tensors(state(output)["model"]) for output in runs)
    assert all(absolute_error(compiled[n], t) <= 1e-10 * t.double().norm() for n, t in eager.items())
    assert state(runs[1])["identity"]["arithmetic"]["compile"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_graph(digits, tmp_path):
    runs = [tmp_path / "eager", tmp_path / "graph"]
    common = (digits, *NET, "--batch", 16, "--amp", "bf16", "--stop-after", 2)
    for output, more in zip(runs, ((), ("--cuda-graph",)), strict=True):
        alone(*common, *more, "--output", output, status=75)
    assert_close(weights(runs[1]), weights(runs[0]), "training curve")


@pytest.mark.parametrize(
    "arguments, words",
    [
        ("--arch resnet51", "--arch must be one of resnet101,"),
        ("--arch vgg16", "got 'vgg16'"),
        ("--memory least", "--memory must be one of speed, balanced, min; got 'least'"),
        ("--amp int8", "--amp must be one of none, bf16, fp16; got 'int8'"),
        ("--dtype fp16", "--dtype must be one of fp32, fp64; got 'fp16'"),
        ("--dtype fp64 --amp fp16", "--dtype fp64 goes with --amp none, got --amp fp16"),
        ("--recipe mine", "--recipe must be one of standard, paper; got 'mine'"),
        ("--recipe paper --milestone 3", "--milestone and --recipe paper, whose rate falls at plateaus"),
        ("--test twice", "--test must be one of centre, ten-crop, multi-scale; got 'twice'"),
        ("--epochs 0", "--epochs must be at least 1, got 0"),
        ("--batch 0", "--batch must be at least 1, got 0"),
        ("--workers -1", "--workers must be at least 0, got -1"),
        ("--checkpoint-every -1", "--checkpoint-every must be at least 0, got -1"),
        ("--lr nan", "--lr must be above 0, got nan"),
        ("--weight-decay nan", "--weight-decay must be at least 0, got nan"),
        ("--milestone 3 --milestone 2", "epochs from 1 on, rising, expected; got [3, 2]"),
        ("--ema 1", "--ema must be between 0 and 1, got 1.0"),
        ("--batch 81", "--batch 81 on 1 processes: more than the 80 training images"),
        ("--resume", "--resume: no checkpoint at"),
        ("--resume --restart", "--resume and --restart: only one of them"),
    ],
)
def test_wrong_options(digits, tmp_path, arguments, words):
    out = alone(digits, "--output", tmp_path / "out", *arguments.split(), status=2)
    assert words in re.sub(r"\s*│\s*", " ", out)
    assert not (tmp_path / "out").exists()


def test_options_of_many_processes(digits, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    out = alone(digits, "--output", tmp_path / "out", "--stock", "--sync-bn", status=2)
    assert "torch's SyncBatchNorm runs on GPUs only" in out
    monkeypatch.setenv("WORLD_SIZE", "3")
    out = alone(digits, "--output", tmp_path / "out", "--recipe", "paper", status=2)
    assert "--recipe paper: 256 images per step cannot be shared by 3 processes; give --batch" in out
    monkeypatch.setenv("WORLD_SIZE", "2")
    out = alone(digits, "--output", tmp_path / "out", "--batch", 41, status=2)
    assert "--batch 41 on 2 processes: more than the 80 training images" in out


def test_capture_leaves_running_statistics(digits, monkeypatch):
    """What a capture runs before it captures; nothing is captured here."""
    options = some_options(digits, arch="cifar_resnet20", batch=4, amp="bf16", cuda_graph=True)
    net = model.build(options, 10)
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    moved = []

    def warm_up(module, arguments):
        assert torch.is_autocast_enabled("cpu") and not torch.is_autocast_cache_enabled()
        assert arguments[0].shape == (4, 3, 32, 32)
        module(*arguments)
        moved.extend(name for name, buffer in module.named_buffers() if not torch.equal(buffer, before[name]))

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", warm_up)
    model.capture(net, options, ALONE)
    assert len(moved) == len(before)
    assert all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())


def test_sync_bn_on_cpus_needs_fused_batch_norms(digits):
    """Pre-activation blocks have others."""
    two = Job(0, 2, torch.device("cpu"), False)
    model.prepare(some_options(digits, arch="resnet18", sync_bn=True), two, 10)
    with pytest.raises(ValueError, match=r"wrn_28_10 has others, among them layer1\.0\.bn1"):
        model.prepare(some_options(digits, arch="wrn_28_10", sync_bn=True), two, 10)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_cuda_graph_needs_cuda(digits, tmp_path):
    out = alone(digits, "--output", tmp_path / "out", "--cuda-graph", status=2)
    assert "--cuda-graph needs a CUDA device" in out


def test_wrong_folders(digits, tmp_path):
    out = alone(tmp_path, "--output", tmp_path / "out", status=2)
    assert "DATA must have a folder 'train'" in out
    for part, digit in (("train", "3"), ("val", "4")):
        (tmp_path / part / digit).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / part / digit / "one.png")
    out = alone(tmp_path, "--output", tmp_path / "out", status=2)
    assert "these are in one only: ['3', '4']" in out
    (tmp_path / "val" / "4" / "one.png").unlink()
    assert "Found no valid file" in alone(tmp_path, "--output", tmp_path / "out", status=2)


def test_a_checkpoint_is_not_overwritten(digits, tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"precious")
    assert "exists: --resume it" in alone(digits, "--output", tmp_path, status=2)
    assert (tmp_path / "checkpoint.pt").read_bytes() == b"precious"


def test_a_loss_that_is_no_number_ends_with_an_error(digits, tmp_path):
    """And leaves the last good checkpoint."""
    common = (digits, *NET, "--batch", 16, "--output", tmp_path)
    done = CliRunner().invoke(train_imagenet.app, [str(a) for a in (*common, "--lr", 1e30)])
    assert done.exit_code == 1
    assert isinstance(done.exception, FloatingPointError) and "epoch 1: the loss is" in str(done.exception)
    assert not (tmp_path / "checkpoint.pt").exists()
