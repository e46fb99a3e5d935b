"""The experiments' images: digits, CIFAR-10, crops and flips."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tolerances import assert_close

pytest.importorskip("sklearn")

from fused_resnet.study import data
from tests.study_support import SHORT, some_images


@pytest.fixture(scope="module")
def images():
    return some_images()


def test_digits_are_whole_and_apart():
    images = data.handwritten_digits()
    assert images.train.shape == (1437, 3, 16, 16) and images.test.shape == (360, 3, 16, 16)
    assert images.train.is_contiguous(memory_format=torch.channels_last)
    flat = {part.numpy().tobytes() for part in images.train}
    assert len(flat) == 1437 and not flat & {part.numpy().tobytes() for part in images.test}


@given(st.data())
def test_crops(draw):
    size, padding, count = (draw.draw(st.integers(1, most)) for most in (5, 3, 6))
    padded = torch.randn(count, 2, size + 2 * padding, size + 2 * padding)
    integers = st.integers(0, 2 * padding)
    corners = torch.tensor(draw.draw(st.lists(st.tuples(integers, integers), min_size=count, max_size=count)))
    mirrored = torch.tensor(draw.draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    found = data.crops(padded, corners, mirrored, size)
    for crop, image, (y, x), mirror in zip(found, padded, corners.tolist(), mirrored, strict=True):
        expected = image[:, y : y + size, x : x + size]
        assert torch.equal(crop, expected.flip(-1) if mirror else expected)


def epoch_of(recipe, images, seed):
    generator = torch.Generator().manual_seed(seed)
    found = list(data.batches(images, recipe, generator))
    return torch.cat([part for part, _ in found]), torch.cat([labels for _, labels in found])


def test_an_epoch_has_every_image_once_and_moved(images):
    """Marked by a pixel in the middle, which no crop loses."""
    marked = torch.zeros(64, 3, 8, 8)
    marked[:, :, 4, 4] = torch.arange(1.0, 65.0)[:, None]
    of_data = replace(images, train=marked, train_labels=torch.arange(64))
    recipe = replace(SHORT, padding=1, flips=True)
    cut, labels = epoch_of(recipe, of_data, 0)
    assert cut.is_contiguous(memory_format=torch.channels_last)
    assert sorted(labels.tolist()) == list(range(64)) and labels.tolist() != list(range(64))
    assert torch.equal(cut[:, 0].flatten(1).max(1).values, labels + 1.0)
    places = cut[:, 0].flatten(1).argmax(1)
    rows, columns = places // 8, places % 8
    assert set(rows.tolist()) == {3, 4, 5}
    assert set(columns.tolist()) == {2, 3, 4, 5}  # 3 to 5, and mirrored 2 to 4


def test_randomness_is_the_generators(images):
    recipe = replace(SHORT, flips=True)
    first, labels = epoch_of(recipe, images, 1)
    torch.manual_seed(123)
    again, same = epoch_of(recipe, images, 1)
    _, different = epoch_of(recipe, images, 2)
    assert torch.equal(first, again) and torch.equal(labels, same)
    assert not torch.equal(labels, different)


def test_what_fills_no_batch_is_left_out(images):
    _, labels = epoch_of(replace(SHORT, batch=24), images, 0)
    assert len(labels) == 48


@pytest.fixture
def cifar_folder(tmp_path, monkeypatch):
    """A small data set in CIFAR-10's format, with its own checksums in place of the published ones."""
    torchvision = pytest.importorskip("torchvision")
    folder = tmp_path / "cifar" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(name, count):
        images = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        return write(name, {"data": images, "labels": [i % 10 for i in range(count)]})

    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "train_list", [batch(f"data_batch_{i}", 8) for i in range(1, 6)])
    monkeypatch.setattr(kind, "test_list", [batch("test_batch", 6)])
    name, checksum = write("batches.meta", {"label_names": [f"class {i}" for i in range(10)]})
    meta = {"filename": name, "key": "label_names", "md5": checksum}
    monkeypatch.setattr(kind, "meta", meta)
    return folder.parent


def test_cifar10(cifar_folder):
    found = data.cifar10(cifar_folder)
    assert found.train.shape == (40, 3, 32, 32) and found.test.shape == (6, 3, 32, 32)
    raw = [
        pickle.loads((cifar_folder / "cifar-10-batches-py" / f"data_batch_{i}").read_bytes())
        for i in range(1, 6)
    ]
    pixels = np.concatenate([part["data"] for part in raw]).reshape(40, 3, 32, 32) / 255
    assert_close(found.train, torch.from_numpy(pixels - pixels.mean(0)), "op", torch.float32)
    tested = pickle.loads((cifar_folder / "cifar-10-batches-py" / "test_batch").read_bytes())["data"]
    expected = tested.reshape(6, 3, 32, 32) / 255 - pixels.mean(
        0
    )  # the mean of the training images here, too
    assert_close(found.test, torch.from_numpy(expected), "op", torch.float32)
    assert found.train_labels.tolist() == [label for part in raw for label in part["labels"]]
    assert found.train.is_contiguous(memory_format=torch.channels_last)


def test_cifar10_is_verified(cifar_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="data: expected a folder with CIFAR-10"):
        data.cifar10(tmp_path / "nothing")
    file = cifar_folder / "cifar-10-batches-py" / "data_batch_3"
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(FileNotFoundError, match="unchanged"):
        data.cifar10(cifar_folder)
