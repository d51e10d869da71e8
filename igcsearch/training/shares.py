"""Which images of a batch are whose: a batch is cut into micro-batches, and each of those among the processes.

Pure arithmetic on lengths, the same in every process. What comes first is one longer where a length does not divide, and a
share may be empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from igcsearch.errors import UsageError
from igcsearch.training.recipe import steps_per_epoch

if TYPE_CHECKING:
    from torch import Tensor


class Part(NamedTuple):
    """One process's part of a micro-batch.

    Attributes:
        offset: where the micro-batch begins within the batch.
        begin, end: the process's images within the micro-batch.
        whole: images of the micro-batch.
    """

    offset: int
    begin: int
    end: int
    whole: int


@dataclass(frozen=True)
class Share:
    """What one of several processes trains on.

    Attributes:
        rank: the process, from 0.
        world_size: how many there are.
        accumulate: micro-batches to a batch.
    """

    rank: int = 0
    world_size: int = 1
    accumulate: int = 1

    def parts(self, whole: int) -> list[Part]:
        """The process's part of each micro-batch of a batch of so many images."""
        found = []
        for micro in range(self.accumulate):
            offset, end = _cut(whole, self.accumulate, micro)
            found.append(Part(offset, *_cut(end - offset, self.world_size, self.rank), end - offset))
        return found

    def of(self, rows: Tensor) -> Tensor:
        """The process's images of a batch, micro-batch after micro-batch."""
        if self.world_size == 1:
            return rows
        import torch

        parts = self.parts(len(rows))
        return torch.cat([rows[part.offset + part.begin : part.offset + part.end] for part in parts])

    def check(self, images: int, batch_size: int, own_statistics: bool) -> None:
        """Refuse batches whose pieces are too small for batch norm, which needs two images.

        Args:
            images: of the training split.
            batch_size: of the recipe.
            own_statistics: whether norms see a process's part alone.
        """
        smallest = images // steps_per_epoch(images, batch_size)
        processes = self.world_size if own_statistics else 1
        if (self.accumulate > 1 or processes > 1) and smallest // self.accumulate // processes < 2:
            pieces = self.accumulate * processes
            cure = "larger batches, fewer micro-batches" + (
                " or statistics over all processes" if processes > 1 else ""
            )
            raise UsageError(
                f"batches of {smallest} images cannot be cut into {pieces} pieces for batch norm, which needs at least 2 "
                f"images a piece; use {cure}"
            )


WHOLE = Share()


def _cut(length: int, pieces: int, index: int) -> tuple[int, int]:
    """Begin and end of a piece of a length, as `torch.tensor_split` cuts it."""
    least, longer = divmod(length, pieces)
    begin = index * least + min(index, longer)
    return begin, begin + least + (index < longer)
