"""What to load, as pure data (no torch): a data set's name, folder or file, and how it is cut down. Kept in studies."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from igcsearch.errors import UsageError, near

DATA_NAMES = ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "svhn")
SMALLEST_IMAGE = 4


@dataclass(frozen=True)
class DataSpec:
    """One data set and the part of it that is used.

    Attributes:
        name: one of DATA_NAMES, a folder of images (train/ [val/] [test/] with a folder for each class, or the class
            folders alone), or a file FILE.npz with x_train, y_train, x_test, y_test.
        root: folder in which the named sets' files lie (or are downloaded to); None: the user's cache folder. digits
            needs none.
        download: fetch a named set that is not there.
        train_images: train on a stratified subset of so many images; None: all.
        image_size: resize all images to this side, in pixels; None: as they are.
        split_seed: of the split and of the subset.

    Raises:
        UsageError: a value outside its range. Whether the data exist is looked at by `load_data`.
    """

    name: str
    root: str | None = None
    download: bool = False
    train_images: int | None = None
    image_size: int | None = None
    split_seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise UsageError(
                f"data name {self.name!r} is no text; use one of {', '.join(DATA_NAMES)}, FOLDER or FILE.npz"
            )
        least = {"train_images": 2, "image_size": SMALLEST_IMAGE, "split_seed": 0}
        for key, bound in least.items():
            value = getattr(self, key)
            if value is None and key != "split_seed":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < bound:
                raise UsageError(f"{key.replace('_', ' ')} is {value!r}; it must be a whole number of at least {bound}")

    @property
    def kind(self) -> str:
        """named, npz or folder.

        Raises:
            UsageError: neither a known name nor an existing folder or file.
        """
        if self.name in DATA_NAMES:
            return "named"
        path = Path(self.name).expanduser()
        if path.suffix == ".npz":
            if not path.is_file():
                raise UsageError(f"data file {self.name} not found; give the path of an existing .npz file")
            return "npz"
        if path.is_dir():
            return "folder"
        if path.exists():
            raise UsageError(f"data {self.name} is a file but no .npz; give a folder of images or a .npz file")
        if any(mark in self.name for mark in "/\\~.") and not near(self.name, DATA_NAMES):
            raise UsageError(f"data folder {self.name} not found; give an existing folder of images")
        raise UsageError(
            f"unknown data {self.name!r}{near(self.name, DATA_NAMES)}; known: {', '.join(DATA_NAMES)}, "
            "an existing FOLDER, a FILE.npz"
        )

    def to_dict(self) -> dict[str, Any]:
        """All entries, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DataSpec":
        """The specification of a JSON object; unknown entries are refused."""
        names = [field.name for field in fields(cls)]
        for key in values:
            if key not in names:
                raise UsageError(f"data: unknown entry {key!r}{near(str(key), names)}; known: {', '.join(names)}")
        if "name" not in values:
            raise UsageError("data: the entry 'name' is missing")
        return cls(**values)
