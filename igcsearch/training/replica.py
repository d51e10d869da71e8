"""One process's copy of a network that several train together: all that is put around a plain network, and within it.

`step` sends its images through it. `DistributedDataParallel` averages the gradients, `norms` makes the statistics those of
all; the network's own state dict stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from igcsearch.training.distributed import Group
from igcsearch.training.norms import use_global_dropout, use_global_statistics
from igcsearch.training.shares import Part


class Replica:
    """A network in training in several processes: what is put around it and swapped within it.

    Args:
        network: plain; its norms and dropouts are swapped for those over all processes.
        group: the processes.
    """

    def __init__(self, network: nn.Module, group: Group) -> None:
        self._group, self._network = group, network
        self._dropouts = use_global_dropout(network)
        if group.global_statistics:
            use_global_statistics(network, group.backend)
        self._parallel = group.replicate(network)

    def of(self, part: Part) -> nn.Module:
        """What to send the images of this part of a micro-batch through."""
        for dropout in self._dropouts:
            dropout.part = part
        return self._parallel

    @contextmanager
    def quiet(self, quiet: bool) -> Iterator[None]:
        """Backward passes that leave the gradients with this process, where `quiet`."""
        if not quiet:
            yield
            return
        with self._parallel.no_sync():
            yield

    def settle(self, average: nn.Module | None) -> None:
        """Where each process has statistics of its own, put their mean in place of the running ones."""
        if self._group.global_statistics:
            return
        for network in (self._network, average):
            if network is None:
                continue
            stored = network.state_dict()
            for name, buffer in network.named_buffers():
                if name in stored and buffer.is_floating_point():
                    self._group.sum_(buffer).div_(self._group.world_size)
