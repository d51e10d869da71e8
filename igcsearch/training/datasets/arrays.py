"""Data from one .npz file of arrays: x_train, y_train, x_test, y_test, and class_names if given; nothing is unpickled."""

import zipfile
from pathlib import Path

import numpy as np
import torch

from igcsearch.errors import UsageError
from igcsearch.training.datasets.source import Part, Source
from igcsearch.training.datasets.spec import DataSpec

_KEYS = ("x_train", "y_train", "x_test", "y_test")


def read_npz(spec: DataSpec) -> Source:
    """The source of a spec whose name is a .npz file: images uint8 (N, H, W, C) or (N, H, W), labels whole numbers
    (N,) or (N, 1).

    Raises:
        UsageError: no readable .npz, a missing array, or one of another dtype or shape.
    """
    path = Path(spec.name).expanduser()
    arrays, names = _read(path)
    train = _part(path, arrays["x_train"], arrays["y_train"], "train")
    test = _part(path, arrays["x_test"], arrays["y_test"], "test")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise UsageError(f"{path}: x_train holds images {_hwc(train)} and x_test {_hwc(test)}; they must be alike")
    highest = int(max(train.labels.max(), test.labels.max()))
    if highest >= len(train.labels):
        raise UsageError(
            f"{path}: labels go up to {highest} with {len(train.labels)} training images; labels are 0, 1, ... classes - 1, "
            "each with training images"
        )
    return Source(
        path.stem,
        train,
        None,
        test,
        _class_names(path, names, highest),
        "not stated",
        False,
        origin=f"npz file {path.name}",
    )


def _read(path: Path) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """The arrays that are needed, and class_names if there."""
    try:
        # numpy leaves a file open that it opened itself and then cannot read
        with open(path, "rb") as handle, np.load(handle, allow_pickle=False) as file:
            there = list(file.files)
            missing = [key for key in _KEYS if key not in there]
            if not missing:
                return {key: file[key] for key in _KEYS}, file["class_names"] if "class_names" in there else None
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:  # TypeError: a single array
        cure = "save plain arrays, not objects" if "allow_pickle" in str(error) else "write it with numpy.savez"
        raise UsageError(f"{path} cannot be read as .npz ({error}); {cure}") from None
    raise UsageError(
        f"{path} lacks {', '.join(missing)} (it has {', '.join(there) or 'nothing'}); needed: {', '.join(_KEYS)}"
    )


def _part(path: Path, x: np.ndarray, y: np.ndarray, part: str) -> Part:
    if x.dtype != np.uint8:
        raise UsageError(f"{path}: x_{part} is {x.dtype}; it must be uint8 (values 0..255)")
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4 or x.shape[3] not in (1, 2, 3, 4):
        raise UsageError(
            f"{path}: x_{part} has shape {x.shape}; it must be (N, H, W) or (N, H, W, C) with C from 1 to 4"
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise UsageError(f"{path}: y_{part} is {y.dtype}; it must be whole numbers 0, 1, ...")
    if y.shape not in ((len(x),), (len(x), 1)):
        raise UsageError(
            f"{path}: y_{part} has shape {y.shape}; it must be ({len(x)},), one label for each image of x_{part}"
        )
    if not x.size:
        raise UsageError(f"{path}: x_{part} is empty, shape {x.shape}; it must hold images")
    if int(y.min()) < 0:
        raise UsageError(f"{path}: y_{part} holds {int(y.min())}; labels are 0, 1, ...")
    images = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    return Part(images, torch.from_numpy(y.reshape(-1).astype(np.int64)))


def _class_names(path: Path, names: np.ndarray | None, highest: int) -> tuple[str, ...]:
    if names is None:
        return tuple(str(label) for label in range(highest + 1))
    if names.ndim != 1 or names.dtype.kind != "U" or len(names) <= highest:
        raise UsageError(
            f"{path}: class_names has dtype {names.dtype}, shape {names.shape}; it must be at least {highest + 1} texts"
        )
    return tuple(names.tolist())


def _hwc(part: Part) -> str:
    _, channels, height, width = part.images.shape
    return f"{height}x{width}x{channels}"
