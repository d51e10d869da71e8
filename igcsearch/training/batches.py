"""Batches of a split, on the device: the same images in the same order, from memory or decoded by processes.

Training: the order of samples is a pure function of (seed, epoch), and an epoch is cut into batches of equal size, give
or take one image. Of each batch a process reads its share (`shares`), which is all of it where there is one process.
"""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from igcsearch.errors import UsageError
from igcsearch.training.datasets.images import ImageFiles, Split
from igcsearch.training.datasets.load import RESIDENT_BYTES
from igcsearch.training.keyed import keyed_order
from igcsearch.training.recipe import steps_per_epoch
from igcsearch.training.shares import WHOLE, Share

_STREAM = 0  # `keyed` purposes within a training run: 0 order of samples, 1 augmentation
_MOST_PROCESSES = 8


class Batch(NamedTuple):
    """images: uint8 (N, C, H, W); labels, ids: int64 (N,); all on the device. whole: images of all processes' shares."""

    images: Tensor
    labels: Tensor
    ids: Tensor
    whole: int


def epoch_batches(split: Split, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """Positions within the split (int64, on the CPU) of each batch of an epoch."""
    order = keyed_order(split.indices, seed, epoch, _STREAM)
    return list(order.tensor_split(steps_per_epoch(len(order), batch_size)))


class Batches:
    """Gives batches of some splits; a context, at whose end loader processes are gone.

    Args:
        splits: by name, for example train and validation.
        device: where the batches are wanted; splits in memory are put there once, unless they are large.
        processes: that decode files, where there are any.
    """

    def __init__(self, splits: dict[str, Split], device: torch.device, processes: int = 1) -> None:
        self.device = device
        self._splits = splits
        self._labels = {name: split.labels.to(device) for name, split in splits.items()}
        self._ids = {name: split.indices.to(device) for name, split in splits.items()}
        self._images = {
            name: split.images.to(device if split.images.nbytes <= RESIDENT_BYTES else "cpu")
            for name, split in splits.items()
            if isinstance(split.images, Tensor)
        }
        files = {name: split.images for name, split in splits.items() if isinstance(split.images, ImageFiles)}
        self._loader = _FileLoader(files, processes, pin=device.type == "cuda") if files else None

    def __enter__(self) -> "Batches":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loader = None  # ends its processes

    def training(self, name: str, batch_size: int, seed: int, epoch: int, share: Share = WHOLE) -> Iterator[Batch]:
        """All images of a split once, in the epoch's order; of each batch, the share's."""
        wholes = epoch_batches(self._splits[name], batch_size, seed, epoch)
        return self._read(name, [share.of(rows) for rows in wholes], [len(rows) for rows in wholes])

    def in_order(self, name: str, batch_size: int, share: Share = WHOLE) -> Iterator[Batch]:
        """The share's images of a split once, as they lie, in batches of its own."""
        rows_of = list(share.of(torch.arange(len(self._splits[name]))).split(batch_size))
        return self._read(name, rows_of, [len(rows) for rows in rows_of])

    def _read(self, name: str, rows_of: list[Tensor], wholes: list[int]) -> Iterator[Batch]:
        labels, ids = self._labels[name], self._ids[name]
        resident = self._images.get(name)
        decoded = iter(()) if resident is not None or self._loader is None else self._loader.read(name, rows_of)
        for rows_cpu, whole in zip(rows_of, wholes, strict=True):
            rows = rows_cpu.to(self.device, non_blocking=True)
            if resident is not None:
                images = resident.index_select(0, rows.to(resident.device)).to(self.device)
            else:
                images = next(decoded).to(self.device, non_blocking=True)
            yield Batch(images, labels.index_select(0, rows), ids.index_select(0, rows), whole)


class _FileLoader:
    """One pool of processes that decode batches of files, for all splits and all epochs."""

    def __init__(self, files: dict[str, ImageFiles], processes: int, pin: bool) -> None:
        self._sampler = _Requests()
        # A daemonic process may have no children: it decodes by itself.
        daemonic = torch.multiprocessing.current_process().daemon
        processes = 0 if daemonic else max(1, min(_MOST_PROCESSES, processes))
        # spawn, not forkserver: loaders watch their parent, and must end when the training process is killed
        context = "spawn" if processes else None
        self._loader = DataLoader(
            _FileBatches(files),
            batch_size=None,
            sampler=self._sampler,
            num_workers=processes,
            multiprocessing_context=context,
            persistent_workers=processes > 0,
            pin_memory=pin,
            generator=torch.Generator(),  # its own, so that it draws nothing from the global one
        )

    def read(self, name: str, rows_of: Sequence[Tensor]) -> Iterator[Tensor]:
        self._sampler.requests = [(name, rows.tolist()) for rows in rows_of]
        for batch in self._loader:
            if isinstance(batch, str):
                raise UsageError(batch)
            yield batch


class _Requests(Sampler[tuple[str, list[int]]]):
    """What to decode next: one request a batch."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, list[int]]] = []

    def __iter__(self) -> Iterator[tuple[str, list[int]]]:
        return iter(self.requests)

    def __len__(self) -> int:
        return len(self.requests)


class _FileBatches(Dataset[Tensor | str]):
    """Decodes a request. An unreadable file comes back as its message: a loader process's exceptions lose their form."""

    def __init__(self, files: dict[str, ImageFiles]) -> None:
        self._files = files

    def __getitem__(self, request: tuple[str, list[int]]) -> Tensor | str:
        name, rows = request
        try:
            return self._files[name].decode(rows)
        except UsageError as error:
            return str(error)
