"""`load_data`: from a specification to split images. Reads the source, cuts it, resizes or decodes, takes statistics."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from igcsearch.errors import UsageError
from igcsearch.training.datasets.images import ImageData, ImageFiles, Split
from igcsearch.training.datasets.source import Part, Source
from igcsearch.training.datasets.spec import SMALLEST_IMAGE, DataSpec
from igcsearch.training.datasets.splits import cut, subset

# Decoded images up to this size are kept in memory (and on the device); larger sets are read by processes.
RESIDENT_BYTES = 1 << 30
OFFICIAL_SHARE = 0.1  # validation's share of the training part of a set with a test part of its own
WHOLE_SHARES = (0.2, 0.2)  # validation and test of a set in one piece
STATISTICS_IMAGES = 4096  # at most so many files are decoded for mean and std


def load_data(spec: DataSpec, *, resident_bytes: int = RESIDENT_BYTES) -> ImageData:
    """The images of a specification, split, in memory unless they are large.

    Args:
        spec: what to load.
        resident_bytes: image folders that are larger than this when decoded stay in their files.

    Returns:
        The data set. With an official test part, validation is 10 % of the training part; a set in one piece is cut
        60 / 20 / 20; both stratified, by `spec.split_seed`.

    Raises:
        UsageError: data that are missing, empty, of one class or of a wrong form; a size that they do not allow.
    """
    source = _read(spec)
    _check_classes(source)
    picks, rule = _split(source, spec.split_seed)
    if spec.train_images is not None:
        train = picks["train"]
        rows = subset(train.labels, train.indices, spec.train_images, spec.split_seed, len(source.class_names))
        picks["train"] = train.select(rows)
    _settle_images(picks, source, spec.image_size, resident_bytes)
    mean, std = _statistics(picks["train"].part.images)
    splits = {name: Split(pick.part.images, pick.part.labels, pick.indices, mean, std) for name, pick in picks.items()}
    _, channels, height, width = splits["train"].images.shape
    assert height == width
    return ImageData(
        name=source.name,
        image_size=height,
        in_channels=channels,
        num_classes=len(source.class_names),
        class_names=source.class_names,
        mean=mean,
        std=std,
        licence=source.licence,
        flip=source.flip,
        **splits,
        split=_record(splits, source, spec, rule),
    )


@dataclass
class _Pick:
    """Rows of a part of the source."""

    part: Part
    indices: Tensor

    @property
    def labels(self) -> Tensor:
        return self.part.labels

    def select(self, rows: Tensor) -> "_Pick":
        return _Pick(self.part.select(rows), self.indices[rows])


def _read(spec: DataSpec) -> Source:
    kind = spec.kind
    if kind == "npz":
        from igcsearch.training.datasets.arrays import read_npz

        return read_npz(spec)
    if kind == "folder":
        from igcsearch.training.datasets.folders import read_folder

        return read_folder(spec)
    from igcsearch.training.datasets.named import read_named

    return read_named(spec)


def _check_classes(source: Source) -> None:
    if len(source.class_names) < 2:
        raise UsageError(f"data {source.name} has one class, {source.class_names[0]!r}; there must be at least two")
    present = torch.bincount(source.train.labels, minlength=len(source.class_names))
    if (present == 0).any():
        missing = [name for name, count in zip(source.class_names, present.tolist(), strict=True) if not count]
        raise UsageError(
            f"data {source.name} has no training image of class {', '.join(map(repr, missing[:5]))}; every class needs some"
        )
    for name, part in (("validation", source.validation), ("test", source.test)):
        if part is not None and not len(part.labels):
            raise UsageError(f"the {name} part of data {source.name} is empty; add images or remove the part")


def _split(source: Source, seed: int) -> tuple[dict[str, _Pick], str]:
    """Parts that the source does not have are cut off its training part."""

    def whole(part: Part) -> _Pick:
        return _Pick(part, torch.arange(len(part.labels)))

    train, names = whole(source.train), source.class_names
    if source.test is None and source.validation is None:
        rows = cut(source.train.labels, WHOLE_SHARES, seed, names)
        picks = {name: train.select(r) for name, r in zip(("train", "validation", "test"), rows, strict=True)}
        return picks, "one piece, stratified 60/20/20"
    if source.test is None:
        raise AssertionError("a source with a validation part has a test part")
    if source.validation is not None:
        return {
            "train": train,
            "validation": whole(source.validation),
            "test": whole(source.test),
        }, "the set's own training, validation and test parts"
    kept, held = cut(source.train.labels, (OFFICIAL_SHARE,), seed, names)
    picks = {"train": train.select(kept), "validation": train.select(held), "test": whole(source.test)}
    return picks, "validation: 10 % of the training part, stratified; test: the set's own test part"


def _settle_images(picks: dict[str, _Pick], source: Source, image_size: int | None, resident_bytes: int) -> None:
    """Bring all images to their final square size, in memory where they fit."""
    files = [pick for pick in picks.values() if isinstance(pick.part.images, ImageFiles)]
    _, channels, size, _ = source.train.images.shape
    decode = sum(len(pick.indices) for pick in files) * channels * size * size <= resident_bytes
    for pick in picks.values():
        images = pick.part.images
        if isinstance(images, Tensor):
            images = _resized(images, image_size, source.name)
        elif decode:
            images = images.decode(range(len(images)), threads=max(1, min(8, torch.get_num_threads())))
        pick.part = Part(images, pick.part.labels)


def _resized(images: Tensor, image_size: int | None, name: str) -> Tensor:
    """uint8 (N, C, H, W) at (image_size, image_size): shorter side resized, antialiased, centre kept."""
    height, width = images.shape[2:]
    if image_size is None:
        if height != width:
            raise UsageError(
                f"images of {name} are {height}x{width}, not square; give an image size (shorter side resized, centre kept)"
            )
        if height < SMALLEST_IMAGE:
            raise UsageError(
                f"images of {name} are {height}x{width}; at least {SMALLEST_IMAGE}x{SMALLEST_IMAGE} is needed, or an image size"
            )
        return images
    if (height, width) == (image_size, image_size):
        return images
    from torchvision.transforms.functional import center_crop, resize

    pieces = [center_crop(resize(piece, image_size, antialias=True), [image_size]) for piece in images.split(4096)]
    return torch.cat(pieces)


def _statistics(images: Tensor | ImageFiles) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of values scaled to 0..1, by exact counts of the 256 values."""
    if isinstance(images, ImageFiles):
        rows = torch.linspace(0, len(images) - 1, min(len(images), STATISTICS_IMAGES)).round().long()
        pieces = (images.decode(chunk.tolist()) for chunk in rows.split(256))
    else:
        pieces = iter(images.split(8192))
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for piece in pieces:
        for channel, row in enumerate(counts):
            row += torch.bincount(piece[:, channel].flatten(), minlength=256)
    values = torch.arange(256, dtype=torch.float64) / 255
    shares = counts.double() / counts.sum(1, keepdim=True)
    mean = shares @ values
    std = (shares @ values.square() - mean.square()).clamp_min(0).sqrt()
    std[std < 1e-4] = 1.0  # a channel of one value
    return tuple(round(x, 6) for x in mean.tolist()), tuple(round(x, 6) for x in std.tolist())


def _record(splits: dict[str, Split], source: Source, spec: DataSpec, rule: str) -> dict[str, Any]:
    record: dict[str, Any] = {
        "sizes": {name: len(split) for name, split in splits.items()},
        "seed": spec.split_seed,
        "rule": rule,
        "source": source.origin,
        "train_images": spec.train_images,
        "image_size": spec.image_size,
    }
    if isinstance(splits["train"].images, ImageFiles):
        record["statistics_images"] = min(len(splits["train"]), STATISTICS_IMAGES)
    return record
