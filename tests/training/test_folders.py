"""Trees of image files: layouts, sizes, colours, what is refused, and the path through loader processes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from igcsearch.errors import UsageError
from igcsearch.spec import Architecture
from igcsearch.training import DataSpec, Recipe, load_data, train
from igcsearch.training.batches import Batches
from igcsearch.training.datasets.images import ImageFiles

_TWO = {"cat": 10, "dog": 15}


def test_one_tree_is_cut(write_tree: Callable[..., Path]) -> None:
    # Rule: class folders alone are cut 60/20/20, stratified; the pixels are the files'.
    data = load_data(DataSpec(str(write_tree("pets", _TWO))))
    assert (data.name, data.class_names, data.image_size, data.in_channels, data.flip) == (
        "pets",
        ("cat", "dog"),
        12,
        3,
        True,
    )
    assert data.split["sizes"] == {"train": 15, "validation": 5, "test": 5}
    rows = torch.cat([data.train.indices, data.validation.indices, data.test.indices])
    assert sorted(rows.tolist()) == list(range(25))


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [
        (("train", "val", "test"), (25, 7, 9)),
        (("train", "test"), (22, 3, 9)),
        (("train", "val"), (22, 3, 7)),
        (("train",), (15, 5, 5)),
    ],
)
def test_layouts(
    parts: tuple[str, ...], sizes: tuple[int, int, int], tmp_path: Path, write_tree: Callable[..., Path]
) -> None:
    # Rule: parts that are there are used as they are; a missing validation part is a tenth of train; val alone is the
    # test part.
    counts = {"train": _TWO, "val": {"cat": 3, "dog": 4}, "test": {"cat": 4, "dog": 5}}
    for part in parts:
        write_tree(f"pets/{part}", counts[part])
    data = load_data(DataSpec(str(tmp_path / "pets")))
    assert tuple(data.split["sizes"].values()) == sizes


def test_sizes_and_colour(write_tree: Callable[..., Path]) -> None:
    # Rule: one square size is kept; else the median shorter side down to a multiple of 32; grey stays one channel.
    mixed = load_data(DataSpec(str(write_tree("mixed", _TWO, sizes=((80, 70), (100, 72), (69, 99))))))
    assert (mixed.image_size, mixed.in_channels) == (64, 3)
    grey = load_data(DataSpec(str(write_tree("grey", _TWO, sizes=((10, 14),), mode="L"))))
    assert (grey.image_size, grey.in_channels) == (10, 1)
    asked = load_data(DataSpec(str(write_tree("asked", _TWO, sizes=((80, 70),))), image_size=16))
    assert asked.train.images.shape == (15, 3, 16, 16)


def test_resize_keeps_the_centre(tmp_path: Path) -> None:
    # Rule: shorter side to the size, centre kept: the red middle third of a wide image fills the square.
    pixels = np.zeros((30, 90, 3), np.uint8)
    pixels[:, 30:60, 0] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    image = ImageFiles((str(tmp_path / "wide.png"),), 10, 3).decode([0])[0]
    assert image.shape == (3, 10, 10)
    assert (image[0, :, 1:-1] == 255).all()
    assert (image[1:] == 0).all()


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda p: None, "not found"),
        (lambda p: (p / "pets").mkdir(), "no class folders"),
        (lambda p: (p / "pets" / "cat").mkdir(parents=True), "no images in class cat"),
        (lambda p: (p / "pets" / "train").mkdir(parents=True), "no class folders"),
        (lambda p: (p / "pets").write_text("a file"), "is a file but no .npz"),
    ],
)
def test_missing_and_empty_folders(make: Callable[[Path], object], part: str, tmp_path: Path) -> None:
    # Rule: one line with the folder and how to lay it out.
    make(tmp_path)
    with pytest.raises(UsageError) as caught:
        load_data(DataSpec(str(tmp_path / "pets")))
    assert part in str(caught.value)
    assert "pets" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_class_is_refused(write_tree: Callable[..., Path]) -> None:
    # Rule: nothing to tell apart.
    with pytest.raises(UsageError, match="one class, 'cat'"):
        load_data(DataSpec(str(write_tree("pets", {"cat": 5}))))


def test_a_class_that_train_lacks_is_refused(tmp_path: Path, write_tree: Callable[..., Path]) -> None:
    # Rule: every class of the test part has training images.
    write_tree("pets/train", _TWO)
    write_tree("pets/test", {"cat": 3, "owl": 3})
    with pytest.raises(UsageError, match="'owl'"):
        load_data(DataSpec(str(tmp_path / "pets")))


def test_a_broken_image_is_named(write_tree: Callable[..., Path]) -> None:
    # Rule: by its path, whoever decodes it.
    folder = write_tree("pets", _TWO)
    broken = folder / "cat" / "003.png"
    broken.write_bytes(broken.read_bytes()[:40])
    with pytest.raises(UsageError, match=r"003\.png cannot be read"):
        load_data(DataSpec(str(folder)))


def test_files_give_the_same_training_as_memory(
    write_tree: Callable[..., Path], make_architecture: Callable[..., Architecture]
) -> None:
    # Rule: a set too large for memory goes through loader processes and gives the same numbers, bit for bit.
    folder = write_tree("pets", _TWO, sizes=((12, 12), (14, 13)))
    spec = DataSpec(str(folder), image_size=12)
    resident, lazy = load_data(spec), load_data(spec, resident_bytes=0)
    assert isinstance(resident.train.images, torch.Tensor)
    assert isinstance(lazy.train.images, ImageFiles)
    assert (lazy.mean, lazy.std, lazy.train.images.shape) == (resident.mean, resident.std, resident.train.images.shape)
    recipe = Recipe(epochs=2, batch_size=8, lr=0.05)
    architecture = make_architecture(resident)
    one, two = (train(architecture, data, recipe, device="cpu") for data in (resident, lazy))
    assert [epoch["train_loss"] for epoch in one.curve] == [epoch["train_loss"] for epoch in two.curve]
    assert all(torch.equal(one.state_dict[name], two.state_dict[name]) for name in one.state_dict)
    broken = Path(lazy.train.images.paths[3])
    broken.write_bytes(b"no image")  # it breaks after it was listed
    with (
        Batches({"train": lazy.train}, torch.device("cpu")) as batches,
        pytest.raises(UsageError, match=f"{broken.name} cannot be read"),
    ):
        list(batches.in_order("train", 4))


def test_the_fingerprint_of_files_is_that_of_the_folders_content(
    tmp_path: Path, write_tree: Callable[..., Path]
) -> None:
    # Rule: the same wherever the folder lies and however its path is written; another when a file's size or name changes.
    folder = write_tree("a/pets", _TWO)

    def fingerprints(place: Path) -> tuple[str, str]:
        data = load_data(DataSpec(str(place)), resident_bytes=0)
        return data.fingerprint, data.test.fingerprint

    before = fingerprints(folder)
    shutil.copytree(folder, tmp_path / "b" / "pets")
    assert fingerprints(tmp_path / "b" / "pets") == before
    assert fingerprints(tmp_path / "b" / ".." / "a" / "pets") == before
    with open(folder / "cat" / "003.png", "ab") as file:
        file.write(b"x")
    changed = fingerprints(folder)
    assert sum(new != old for new, old in zip(changed, before, strict=True)) == 1, "the file is in one of the splits"
    data = load_data(DataSpec(str(folder)), resident_bytes=0)
    assert isinstance(data.train.images, ImageFiles)
    Path(data.train.images.paths[0]).unlink()
    with pytest.raises(UsageError, match=r"cannot be read .*restore it"):
        data.fingerprint  # noqa: B018
