"""Deterministic stratified cuts of labelled images: the same images for the same seed, whatever torch's generators do."""

import torch
from torch import Tensor

from igcsearch.errors import UsageError
from igcsearch.training.keyed import keyed_order

_CUT, _SUBSET = 1, 2  # purposes in the keys


def cut(labels: Tensor, shares: tuple[float, ...], seed: int, class_names: tuple[str, ...]) -> list[Tensor]:
    """Rows of the first part and of one more for each share; every class gives each part its share, at least one image.

    Args:
        labels: int64 (N,).
        shares: of each further part; the first part keeps the rest.
        seed: of the choice.
        class_names: for the message.

    Returns:
        len(shares) + 1 sorted int64 tensors that share no row and cover all of them.

    Raises:
        UsageError: a class with too few images to be in every part.
    """
    parts: list[list[Tensor]] = [[] for _ in range(len(shares) + 1)]
    for label, name in enumerate(class_names):
        rows = torch.nonzero(labels == label).flatten()
        if len(rows) < len(parts):
            raise UsageError(
                f"class {name!r} has {len(rows)} images; a cut into {len(parts)} parts needs at least {len(parts)} of each class"
            )
        rows = rows[keyed_order(rows, seed, _CUT)]
        sizes = [max(1, round(share * len(rows))) for share in shares]
        while sum(sizes) >= len(rows):  # very small classes: the first part keeps at least one
            sizes[sizes.index(max(sizes))] -= 1
        for part, piece in zip(parts, rows.split([len(rows) - sum(sizes), *sizes]), strict=True):
            part.append(piece)
    return [torch.cat(part).sort().values for part in parts]


def subset(labels: Tensor, ids: Tensor, size: int, seed: int, num_classes: int) -> Tensor:
    """Sorted positions of `size` images that hold every class in its share; a smaller subset lies within a larger one.

    The images of a class, in random order, stand at (rank + 1/2) / (images of the class) on one line, each class's
    first one at the front; the subset is the beginning of that line.

    Raises:
        UsageError: more images than there are, or fewer than classes.
    """
    if not num_classes <= size <= len(labels):
        raise UsageError(
            f"train images is {size}; it must lie between the number of classes, {num_classes}, "
            f"and the images of the training split, {len(labels)}"
        )
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in range(num_classes):
        rows = torch.nonzero(labels == label).flatten()
        rows = rows[keyed_order(ids[rows], seed, _SUBSET)]
        place[rows] = (torch.arange(len(rows), dtype=torch.float64) + 0.5) / len(rows)
        place[rows[:1]] = -1.0
    return torch.argsort(place, stable=True)[:size].sort().values
