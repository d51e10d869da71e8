"""What data sets are to the training loop: splits of uint8 images, in memory or in files, and all a network must know.

Shapes: N images, C channels, H = W pixels.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from igcsearch.errors import UsageError
from igcsearch.spec import Budget, Problem


@dataclass(frozen=True)
class ImageFiles:
    """Images that stay in their files and are decoded when needed: shorter side resized (antialiased), centre kept.

    Attributes:
        paths: one file an image.
        image_size: H = W of what is decoded.
        channels: 1 (grey) or 3 (RGB).
        root: the data set's folder, in which the paths lie; "" where there is none.
    """

    paths: tuple[str, ...]
    image_size: int
    channels: int
    root: str = ""

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.paths), self.channels, self.image_size, self.image_size

    def select(self, rows: Tensor) -> "ImageFiles":
        """The files of some rows (int64)."""
        return ImageFiles(tuple(self.paths[row] for row in rows.tolist()), self.image_size, self.channels, self.root)

    def decode(self, rows: Sequence[int], threads: int = 1) -> Tensor:
        """Images of some rows: uint8 (len(rows), C, H, W).

        Raises:
            UsageError: a file that is no readable image, by its path.
        """
        if threads == 1:
            return torch.stack([self._decode(row) for row in rows])
        with ThreadPoolExecutor(threads) as pool:  # Pillow lets go of the interpreter lock while it decodes
            return torch.stack(list(pool.map(self._decode, rows)))

    def listing(self) -> str:
        """A line for each image, the same wherever the folder lies: its path in the folder, and its size in bytes.

        Raises:
            UsageError: a file that is not there any more, by its path.
        """
        lines = []
        for path in self.paths:
            try:
                size = os.stat(path).st_size
            except OSError as error:
                raise UsageError(f"image {path} cannot be read ({error.strerror or error}); restore it") from None
            lines.append(f"{os.path.relpath(path, self.root) if self.root else path} {size}".replace(os.sep, "/"))
        return "\n".join(lines)

    def _decode(self, row: int) -> Tensor:
        from PIL import Image
        from torchvision.transforms.functional import center_crop, pil_to_tensor, resize

        try:
            with Image.open(self.paths[row]) as file:
                image = file.convert("L" if self.channels == 1 else "RGB")
        except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError and its own, by format
            raise UsageError(f"image {self.paths[row]} cannot be read ({error}); repair or remove it") from None
        if image.size != (self.image_size, self.image_size):
            image = center_crop(resize(image, self.image_size), self.image_size)
        return pil_to_tensor(image)


@dataclass(frozen=True)
class Split:
    """One of train, validation, test.

    Attributes:
        images: uint8 (N, C, H, W), or the files.
        labels: int64 (N,).
        indices: int64 (N,): each image's row in the source's part; the sample id that augmentation is keyed by.
        mean, std: what the images are normalised with, of values scaled to 0..1.
    """

    images: Tensor | ImageFiles
    labels: Tensor
    indices: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of images, labels and ids; images that stay in their files count by path and size."""
        return _digest(self)


@dataclass(frozen=True)
class ImageData:
    """A data set, split, with its problem.

    Attributes:
        name: short, without a machine's path.
        image_size, in_channels, num_classes: the problem.
        class_names: in the order of the labels.
        mean, std: per channel, of the training images scaled to 0..1.
        licence: what the set's page states.
        flip: whether a mirrored image keeps its label.
        train, validation, test: the splits; they share no image.
        split: how they came about (sizes, seed, rule, source), ready for JSON.
    """

    name: str
    image_size: int
    in_channels: int
    num_classes: int
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence: str
    flip: bool
    train: Split
    validation: Split
    test: Split
    split: dict[str, Any] = field(hash=False)

    def problem(self, budget: Budget | None = None) -> Problem:
        """What a network for these images is for, under a budget."""
        return Problem(self.image_size, self.in_channels, self.num_classes, budget or Budget())

    @cached_property
    def fingerprint(self) -> str:
        """Short hash of what training sees (training and validation images, labels, ids); checkpoints must match it.

        Images that stay in their files count by their paths in the data set's folder and their sizes, not by content.
        """
        return _digest(self.train, self.validation)


def _digest(*splits: Split) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for split in splits:
        images = split.images
        digest.update(images.listing().encode() if isinstance(images, ImageFiles) else _bytes(images))
        digest.update(str((tuple(images.shape), split.mean, split.std)).encode())
        digest.update(_bytes(split.labels))
        digest.update(_bytes(split.indices))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().numpy().data
