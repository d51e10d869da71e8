"""Data sets by name, read from small files of the very formats that they are published in."""

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from igcsearch.errors import UsageError
from igcsearch.training import DATA_NAMES, DataSpec, load_data


def test_digits() -> None:
    # Rule: 1797 images 8x8 of 10 classes, counts 0..16 scaled to bytes, cut 60/20/20, not to be mirrored.
    data = load_data(DataSpec("digits"))
    assert (data.image_size, data.in_channels, data.num_classes, data.flip) == (8, 1, 10, False)
    sizes = {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)}
    assert data.split["sizes"] == sizes
    assert sum(sizes.values()) == 1797
    for name, share in (("train", 0.6), ("validation", 0.2), ("test", 0.2)):
        assert sizes[name] == pytest.approx(share * 1797, abs=5)
    rows = torch.cat([data.train.indices, data.validation.indices, data.test.indices])
    assert sorted(rows.tolist()) == list(range(1797))
    assert isinstance(data.train.images, torch.Tensor)
    values = data.train.images.unique().tolist()
    assert values == [round(count * 255 / 16) for count in range(17)]


@pytest.mark.parametrize(
    ("name", "folder", "packed"),
    [
        ("fashion-mnist", "FashionMNIST/raw", True),
        ("fashion-mnist", "FashionMNIST/raw", False),
        ("fashion-mnist", ".", True),
        ("mnist", "MNIST/raw", True),
        ("mnist", ".", False),
    ],
)
def test_mnist_family(name: str, folder: str, packed: bool, tmp_path: Path, write_idx: Callable[..., Path]) -> None:
    # Rule: idx files, packed or not, in torchvision's folder or in the root; images and labels as written.
    write_idx(folder, packed)
    data = load_data(DataSpec(name, root=str(tmp_path)))
    assert data.split["sizes"] == {"train": 40, "validation": 10, "test": 20}
    assert data.flip == (name == "fashion-mnist")
    assert data.class_names[3] == ("Dress" if data.flip else "3")
    assert isinstance(data.test.images, torch.Tensor)
    expected = np.random.default_rng(20).integers(0, 256, (20, 28, 28))
    np.testing.assert_array_equal(data.test.images[:, 0].numpy(), expected)
    assert data.test.labels.tolist() == [index % 10 for index in range(20)]
    assert not set(data.train.indices.tolist()) & set(data.validation.indices.tolist())


@pytest.mark.parametrize("name", [name for name in DATA_NAMES if name != "digits"])
def test_missing_files_name_folder_and_cure(name: str, tmp_path: Path) -> None:
    # Rule: one line that names the folder looked at, --data-root and --download; the same for a folder that is not
    # there.
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError) as caught:
            load_data(DataSpec(name, root=str(root)))
        message = str(caught.value)
        assert str(root) in message
        assert "--data-root" in message
        assert "--download" in message
        assert "\n" not in message


@pytest.mark.parametrize("damage", ["cut", "magic", "packed"])
def test_damaged_idx_files_are_named(damage: str, tmp_path: Path, write_idx: Callable[..., Path]) -> None:
    # Rule: a file that is cut off or of another form is refused by its path, never read as something else.
    write_idx(".", packed=damage == "packed")
    suffix = ".gz" if damage == "packed" else ""
    path = tmp_path / f"t10k-images-idx3-ubyte{suffix}"
    content = path.read_bytes()
    path.write_bytes(b"\1" + content[1:] if damage == "magic" else content[:-100])
    with pytest.raises(UsageError, match="t10k-images-idx3-ubyte"):
        load_data(DataSpec("mnist", root=str(tmp_path)))


def test_images_without_their_labels_are_refused(tmp_path: Path, write_idx: Callable[..., Path]) -> None:
    # Rule: as many labels as images.
    write_idx(".", packed=False)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes((tmp_path / "train-labels-idx1-ubyte").read_bytes())
    with pytest.raises(UsageError, match=r"20 images and .* 50 labels"):
        load_data(DataSpec("mnist", root=str(tmp_path)))


def test_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Rule: a connection that fails becomes a message with a cure.
    def fail(*arguments: object, **options: object) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "download", fail)
    with pytest.raises(UsageError, match=r"download of fashion-mnist failed .no route to host.; check the connection"):
        load_data(DataSpec("fashion-mnist", root=str(tmp_path), download=True))


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("inside", [False, True])
def test_cifar_archive(inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Rule: the pickled batches are read where their MD5 is the published one (here: ours), and only there.
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = {}
    for name, count in (("data_batch_1", 40), ("test_batch", 20)):
        pixels[name] = rng.integers(0, 256, (count, 3072)).astype(np.uint8)
        content: dict[str, Any] = {"data": pixels[name], "labels": [index % 4 for index in range(count)]}
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["plane", "car", "bird", "cat"]}))
    spec = DataSpec("cifar10", root=str(folder if inside else tmp_path))
    with pytest.raises(UsageError, match="cifar10 not found"):
        load_data(spec)
    dataset = torchvision.datasets.CIFAR10
    monkeypatch.setattr(dataset, "train_list", [["data_batch_1", _md5(folder / "data_batch_1")]])
    monkeypatch.setattr(dataset, "test_list", [["test_batch", _md5(folder / "test_batch")]])
    monkeypatch.setattr(dataset, "meta", dataset.meta | {"md5": _md5(folder / "batches.meta")})
    data = load_data(spec)
    assert data.class_names == ("plane", "car", "bird", "cat")
    assert (data.split["sizes"], data.flip) == ({"train": 36, "validation": 4, "test": 20}, True)
    assert isinstance(data.test.images, torch.Tensor)
    np.testing.assert_array_equal(data.test.images.numpy(), pixels["test_batch"].reshape(20, 3, 32, 32))


def test_svhn_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Rule: MATLAB files as published: (H, W, C, N), label 10 for the digit 0.
    from scipy.io import savemat

    listed = {}
    for part, count in (("train", 40), ("test", 20)):
        path = tmp_path / f"{part}_32x32.mat"
        x = np.random.default_rng(count).integers(0, 256, (32, 32, 3, count)).astype(np.uint8)
        savemat(path, {"X": x, "y": (np.arange(count) % 10 + 1)[:, None].astype(np.uint8)})
        listed[part] = ["", path.name, _md5(path)]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", listed)
    data = load_data(DataSpec("svhn", root=str(tmp_path)))
    assert data.test.labels.tolist() == [(index + 1) % 10 for index in range(20)]
    assert isinstance(data.test.images, torch.Tensor)
    np.testing.assert_array_equal(data.test.images.numpy(), x.transpose(3, 2, 0, 1))
    assert not data.flip


def test_real_fashion_mnist(real_data: Path) -> None:
    # Rule: the published files give 54,000 / 6,000 / 10,000 images, 6,000 a class, with the known mean and deviation.
    data = load_data(DataSpec("fashion-mnist", root=str(real_data)))
    assert data.split["sizes"] == {"train": 54_000, "validation": 6_000, "test": 10_000}
    assert torch.bincount(data.train.labels).tolist() == [5_400] * 10
    assert data.mean == pytest.approx((0.286,), abs=0.002)
    assert data.std == pytest.approx((0.353,), abs=0.002)
