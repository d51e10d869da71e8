"""The data sets known by name: digits from scikit-learn, the others from files in torchvision's layout.

Files that are there are read without the network; `download` has torchvision fetch what is missing. The MNIST family's
idx files are read here, since torchvision wants them unpacked and in its own folder; the pickled CIFAR archives are
opened by torchvision alone, which holds them against their MD5 first.
"""

import gzip
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from igcsearch.errors import UsageError
from igcsearch.training.datasets.source import Part, Source
from igcsearch.training.datasets.spec import DataSpec

_DIGITS = tuple(str(digit) for digit in range(10))
# torchvision's class, licence as the set's own page states it, whether mirroring keeps the label
_TORCHVISION = {
    "mnist": ("MNIST", "not stated", False),
    "fashion-mnist": ("FashionMNIST", "MIT (Zalando SE)", True),
    "cifar10": ("CIFAR10", "not stated", True),
    "cifar100": ("CIFAR100", "not stated", True),
    "svhn": ("SVHN", "non-commercial use only", False),
}
_IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def read_named(spec: DataSpec) -> Source:
    """The source of a spec whose name is one of DATA_NAMES.

    Raises:
        UsageError: files that are missing or damaged, or a download that failed.
    """
    if spec.name == "digits":
        return _digits()
    class_name, licence, flip = _TORCHVISION[spec.name]
    root = Path(spec.root).expanduser() if spec.root is not None else default_root()
    if spec.root is not None and not root.is_dir() and not spec.download:
        raise UsageError(
            f"data folder {root} not found; give the folder of {spec.name}'s files with --data-root, or add --download"
        )
    read = {"MNIST": _mnist_family, "FashionMNIST": _mnist_family, "SVHN": _svhn}.get(class_name, _cifar)
    train, test, class_names = read(spec.name, class_name, root, spec.download)
    return Source(spec.name, train, None, test, class_names, licence, flip, origin=f"torchvision {class_name} files")


def default_root() -> Path:
    """Where named sets are looked for and downloaded to unless told otherwise."""
    from platformdirs import user_cache_path

    return user_cache_path("igcsearch") / "data"


def _digits() -> Source:
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # counts 0..16 of a 4x4 field
    part = Part(torch.from_numpy(pixels)[:, None], torch.from_numpy(digits.target.astype(np.int64)))
    licence = "CC BY 4.0 (UCI Machine Learning Repository, Optical Recognition of Handwritten Digits)"
    return Source("digits", part, None, None, _DIGITS, licence, False, origin="scikit-learn load_digits")


def _mnist_family(name: str, class_name: str, root: Path, download: bool) -> tuple[Part, Part, tuple[str, ...]]:
    import torchvision

    dataset = getattr(torchvision.datasets, class_name)
    places = (root / class_name / "raw", root / "raw", root)
    found = _find_idx(places)
    if found is None and download:
        _fetch(name, lambda: dataset(root, train=True, download=True))
        found = _find_idx(places)
    if found is None:
        raise _missing(
            name, places[0], f"{_IDX_FILES['train'][0]}[.gz] and its three companions, there or in {root} itself"
        )
    parts = []
    for images_file, labels_file in (found["train"], found["test"]):
        images, labels = _read_idx(images_file, 3), _read_idx(labels_file, 1)
        if len(images) != len(labels) or not len(labels) or int(labels.max()) > 9:
            highest = int(labels.max()) if len(labels) else None
            raise UsageError(
                f"{images_file} has {len(images)} images and {labels_file} {len(labels)} labels up to {highest}; "
                "they must match, with labels 0 to 9; remove them and use --download"
            )
        parts.append(Part(torch.from_numpy(images)[:, None], torch.from_numpy(labels.astype(np.int64))))
    class_names = _DIGITS if class_name == "MNIST" else tuple(dataset.classes)
    return parts[0], parts[1], class_names


def _find_idx(places: tuple[Path, ...]) -> dict[str, tuple[Path, Path]] | None:
    for place in places:
        found = {}
        for part, names in _IDX_FILES.items():
            files = [next((f for f in (place / name, place / f"{name}.gz") if f.is_file()), None) for name in names]
            if files[0] and files[1]:
                found[part] = (files[0], files[1])
        if len(found) == len(_IDX_FILES):
            return found
    return None


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """An idx file of bytes, packed or not: 0, 0, type 8, number of dimensions, each as a big-endian uint32, the values."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError) as error:
        raise UsageError(f"{path} cannot be read ({error}); remove it and use --download") from None
    header = 4 + 4 * dimensions
    if content[:4] == bytes((0, 0, 8, dimensions)) and len(content) >= header:
        shape = np.frombuffer(content[4:header], dtype=">u4").astype(np.int64)
        if len(content) == header + shape.prod():
            return np.frombuffer(bytearray(content[header:]), dtype=np.uint8).reshape(shape)
    raise UsageError(
        f"{path} is damaged or no idx file of bytes in {dimensions} dimensions; remove it and use --download"
    )


def _cifar(name: str, class_name: str, root: Path, download: bool) -> tuple[Part, Part, tuple[str, ...]]:
    import torchvision

    dataset = getattr(torchvision.datasets, class_name)
    if root.name == dataset.base_folder:
        root = root.parent  # the folder of the batches itself was given
    parts = []
    for train in (True, False):
        loaded = _open(name, root / dataset.base_folder, download, partial(dataset, root, train=train))
        images = torch.from_numpy(np.ascontiguousarray(loaded.data.transpose(0, 3, 1, 2)))
        parts.append(Part(images, torch.tensor(loaded.targets, dtype=torch.int64)))
    return parts[0], parts[1], tuple(loaded.classes)


def _svhn(name: str, class_name: str, root: Path, download: bool) -> tuple[Part, Part, tuple[str, ...]]:
    import torchvision

    dataset = getattr(torchvision.datasets, class_name)
    parts = []
    for split in ("train", "test"):
        loaded = _open(name, root, download, partial(dataset, root, split=split))
        parts.append(Part(torch.from_numpy(np.ascontiguousarray(loaded.data)), torch.from_numpy(loaded.labels)))
    return parts[0], parts[1], _DIGITS


def _open(name: str, folder: Path, download: bool, make: Callable[..., Any]) -> Any:
    """torchvision's data set; downloaded only where it is not complete."""
    with warnings.catch_warnings():
        # numpy 2.4 deprecates the form in which the CIFAR archives were pickled
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        try:
            return make(download=False)
        except RuntimeError:
            if not download:
                raise _missing(name, folder, "its complete files with the published MD5") from None
        _fetch(name, lambda: make(download=True))
        return make(download=False)


def _fetch(name: str, action: Callable[[], object]) -> None:
    try:
        action()
    except (OSError, RuntimeError) as error:  # URLError is an OSError
        reason = " ".join(str(error).split())
        raise UsageError(
            f"download of {name} failed ({reason[:200]}); check the connection, or lay its files under --data-root"
        ) from None


def _missing(name: str, folder: Path, what: str) -> UsageError:
    return UsageError(
        f"{name} not found: looked in {folder} for {what}; give its folder with --data-root, or add --download"
    )
