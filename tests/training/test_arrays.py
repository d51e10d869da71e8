"""Data from .npz files: what is taken, and what is refused with which words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from igcsearch.errors import UsageError
from igcsearch.training import DataSpec, load_data


def test_images_come_as_written(write_npz: Callable[..., Path]) -> None:
    # Rule: the npz's arrays are a set with its own test part; labels may be a column; no mirroring unless asked for.
    path = write_npz(y_test=np.arange(40)[:, None] % 4)
    data = load_data(DataSpec(str(path)))
    assert (data.name, data.image_size, data.in_channels, data.num_classes) == ("quarters", 8, 3, 4)
    assert (data.flip, data.licence, data.class_names) == (False, "not stated", ("0", "1", "2", "3"))
    assert data.split["sizes"] == {"train": 108, "validation": 12, "test": 40}
    with np.load(path) as file:
        x_train, x_test = file["x_train"], file["x_test"]
    for split, x in ((data.train, x_train), (data.validation, x_train), (data.test, x_test)):
        assert isinstance(split.images, torch.Tensor)
        np.testing.assert_array_equal(split.images.numpy(), x[split.indices.numpy()].transpose(0, 3, 1, 2))
        assert split.labels.tolist() == (split.indices % 4).tolist()
    assert data.problem().num_classes == 4


def test_grey_images_and_class_names(write_npz: Callable[..., Path]) -> None:
    # Rule: (N, H, W) is one channel; class_names are taken where they are given.
    data = load_data(DataSpec(str(write_npz(channels=None, class_names=np.array(["a", "b", "c", "d"])))))
    assert (data.in_channels, data.class_names) == (1, ("a", "b", "c", "d"))


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"y_test": None}, "lacks y_test"),
        ({"x_train": np.zeros((120, 8, 8, 3), np.float32)}, "x_train is float32; it must be uint8"),
        ({"x_train": np.zeros((120, 8), np.uint8)}, r"shape (120, 8)"),
        ({"x_train": np.zeros((120, 8, 8, 5), np.uint8)}, "C from 1 to 4"),
        ({"x_train": np.zeros((119, 8, 8, 3), np.uint8)}, "y_train has shape (120,); it must be (119,)"),
        ({"x_test": np.zeros((40, 9, 9, 3), np.uint8)}, "they must be alike"),
        ({"x_test": np.zeros((0, 8, 8, 3), np.uint8), "y_test": np.zeros(0, int)}, "x_test is empty"),
        ({"y_train": np.zeros(120)}, "y_train is float64"),
        ({"y_train": np.arange(120) % 4 - 1}, "y_train holds -1"),
        ({"y_train": np.zeros(120, int), "y_test": np.zeros(40, int)}, "one class"),
        ({"y_train": np.arange(120) % 4 * 2}, "no training image of class '1'"),
        ({"y_test": np.full(40, 4)}, "no training image of class '4'"),
        ({"y_test": np.full(40, 2**40)}, "labels go up to"),
        ({"y_train": np.array([object()] * 120)}, "save plain arrays"),
        ({"class_names": np.array(["a"])}, "at least 4 texts"),
        ({"x_train": np.zeros((120, 8, 6, 3), np.uint8), "x_test": np.zeros((40, 8, 6, 3), np.uint8)}, "not square"),
        ({"x_train": np.zeros((120, 3, 3), np.uint8), "x_test": np.zeros((40, 3, 3), np.uint8)}, "at least 4x4"),
    ],
)
def test_bad_arrays_are_refused(arrays: dict[str, Any], part: str, write_npz: Callable[..., Path]) -> None:
    # Rule: one line that names the file or its data set, what is wrong and what is wanted.
    path = write_npz(**arrays)
    with pytest.raises(UsageError) as caught:
        load_data(DataSpec(str(path)))
    assert part in str(caught.value)
    assert "quarters" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\3\4 cut off"])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    # Rule: a file that is no .npz inside is named, without a traceback of the archive reader.
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"broken\.npz cannot be read"):
        load_data(DataSpec(str(path)))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    # Rule: an object array that would run code when unpickled is refused before it does.
    marker = tmp_path / "ran"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(marker), "w"))

    path = tmp_path / "trap.npz"
    np.savez(path, **{key: np.array([Trap()], dtype=object) for key in ("x_train", "y_train", "x_test", "y_test")})
    with pytest.raises(UsageError, match="cannot be read"):
        load_data(DataSpec(str(path)))
    assert not marker.exists()
