"""What every kind of source gives to `load_data`: labelled parts, not yet split or resized."""

from dataclasses import dataclass

from torch import Tensor

from igcsearch.training.datasets.images import ImageFiles


@dataclass(frozen=True)
class Part:
    """images: uint8 (N, C, H, W) or files; labels: int64 (N,)."""

    images: Tensor | ImageFiles
    labels: Tensor

    def select(self, rows: Tensor) -> "Part":
        """The part of some rows (int64)."""
        images = self.images.select(rows) if isinstance(self.images, ImageFiles) else self.images[rows]
        return Part(images, self.labels[rows])


@dataclass(frozen=True)
class Source:
    """A data set as its files have it.

    Attributes:
        name: short, without a machine's path.
        train, validation, test: its own parts; with validation None and test None it is one piece.
        class_names: in the order of the labels.
        licence: what the set's page states.
        flip: whether a mirrored image keeps its label.
        origin: where it comes from, for the record of the split.
    """

    name: str
    train: Part
    validation: Part | None
    test: Part | None
    class_names: tuple[str, ...]
    licence: str
    flip: bool
    origin: str
