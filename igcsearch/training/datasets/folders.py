"""Data from folders of image files, as torchvision's ImageFolder reads them: one folder a class.

FOLDER/train, FOLDER/test and, if there is one, FOLDER/val; or the class folders in FOLDER itself, which `load_data`
cuts. With train and val alone, val is the test part, as ImageNet is used.
"""

from collections import Counter
from pathlib import Path

import torch

from igcsearch.errors import UsageError
from igcsearch.training.datasets.images import ImageFiles
from igcsearch.training.datasets.source import Part, Source
from igcsearch.training.datasets.spec import DataSpec

_PARTS = {"train": ("train", "training"), "validation": ("val", "valid", "validation"), "test": ("test", "testing")}
_HEADERS = 512  # so many files are looked into for size and colour
_LARGEST_DEFAULT = 224


def read_folder(spec: DataSpec) -> Source:
    """The source of a spec whose name is a folder.

    Without an image size, square images of one size keep it; otherwise it is the median shorter side, cut down to a
    multiple of 32 and to at most 224. Grey images give one channel, anything else three.

    Raises:
        UsageError: no class folders, a class folder without images, parts with other classes.
    """
    folder = Path(spec.name).expanduser()
    folders = {part: next((folder / n for n in names if (folder / n).is_dir()), None) for part, names in _PARTS.items()}
    if folders["train"] is None:
        found = {"train": _list(folder)}
    else:
        found = {part: _list(path) for part, path in folders.items() if path is not None}
    classes = found["train"][0]
    for part, (names, _) in found.items():
        if not set(names) <= set(classes):
            extra = sorted(set(names) - set(classes))
            raise UsageError(
                f"{folders[part]} has class {extra[0]!r}, which {folders['train']} lacks; every class needs training images"
            )
    if "test" not in found and "validation" in found:
        found["test"] = found.pop("validation")
    paths = [path for _, samples in found.values() for path, _ in samples]
    size, channels = _size_and_channels(paths)
    size = spec.image_size or size
    parts = {}
    for part, (names, samples) in found.items():
        files = ImageFiles(tuple(path for path, _ in samples), size, channels, str(folder))
        parts[part] = Part(files, torch.tensor([classes.index(names[label]) for _, label in samples]))
    name = folder.resolve().name
    layout = "/".join(found) if folders["train"] else "one tree"
    return Source(
        name,
        parts["train"],
        parts.get("validation"),
        parts.get("test"),
        tuple(classes),
        "not stated",
        True,
        origin=f"image folder {name} ({layout})",
    )


def _list(folder: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """Class names and (path, label) of every image below a folder."""
    from torchvision.datasets import ImageFolder

    try:
        listing = ImageFolder(folder)
    except FileNotFoundError as error:
        text = str(error)
        if "Found no valid file" in text:
            empty = text.split("classes", 1)[-1].split(".")[0].strip()
            raise UsageError(
                f"data folder {folder}: no images in class {empty}; add images or remove the class folder"
            ) from None
        raise UsageError(
            f"data folder {folder} holds no class folders; lay it out as FOLDER/train/CLASS/IMAGE or FOLDER/CLASS/IMAGE"
        ) from None
    if len(listing.classes) < 2:
        raise UsageError(
            f"data folder {folder} has one class, {listing.classes[0]!r}; there must be at least two class folders"
        )
    return listing.classes, listing.samples


def _size_and_channels(paths: list[str]) -> tuple[int, int]:
    from PIL import Image

    rows = torch.linspace(0, len(paths) - 1, min(len(paths), _HEADERS)).round().long().tolist()
    sizes: Counter[tuple[int, int]] = Counter()
    grey = True
    for row in rows:
        try:
            with Image.open(paths[row]) as file:
                sizes[file.size] += 1
                grey &= file.mode in ("1", "L")
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and its own, by format
            raise UsageError(f"image {paths[row]} cannot be read ({error}); repair or remove it") from None
    channels = 1 if grey else 3
    if len(sizes) == 1:
        width, height = next(iter(sizes))
        if width == height:
            return width, channels
    sides = sorted(min(size) for size in sizes.elements())
    median = sides[len(sides) // 2]
    return min(_LARGEST_DEFAULT, max(median // 32 * 32, min(median, 32))), channels
