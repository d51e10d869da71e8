"""Memory that blocks at inference write their maps into, again and again. Floor 3.

A tensor of some megabytes comes from the system page by page, each of which faults when it is first written: on large maps that
takes longer than the layer. What one block wrote is free again two blocks later, so a few buffers serve a whole network.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

_MOST_VIEWS = 512


def _memory(numbers: int) -> Tensor:
    """Whatever torch's defaults are: the kernels write float32 there."""
    return torch.empty(numbers, dtype=torch.float32, device="cpu")


class Workspace(threading.local):
    """float32 buffers on the CPU, of one network; each thread has its own. A copy begins empty.

    What `take` gave is overwritten later: it must not leave the network.
    """

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []
        self._views: dict[tuple[object, ...], Tensor] = {}

    def __reduce__(self) -> tuple[type[Workspace], tuple[()]]:
        return Workspace, ()

    def take(self, shape: Sequence[int], layout: torch.memory_format, busy: Sequence[Tensor | None]) -> Tensor:
        """A tensor of that shape (N, C, H, W) and memory format, in a buffer in which none of `busy` lies."""
        taken = {tensor.untyped_storage().data_ptr() for tensor in busy if tensor is not None}
        free = (i for i, held in enumerate(self._buffers) if held.untyped_storage().data_ptr() not in taken)
        which = next(free, len(self._buffers))
        key = (which, *shape, layout)
        if key not in self._views:
            if len(self._views) >= _MOST_VIEWS:  # images of ever new sizes
                self._views.clear()
            self._views[key] = self._view(which, shape, layout)
        return self._views[key]

    def holds(self, tensor: Tensor) -> bool:
        """True if the tensor lies in one of the buffers."""
        place = tensor.untyped_storage().data_ptr()
        return any(held.untyped_storage().data_ptr() == place for held in self._buffers)

    def _view(self, which: int, shape: Sequence[int], layout: torch.memory_format) -> Tensor:
        numbers = math.prod(shape)
        with torch.inference_mode(False):
            if which == len(self._buffers):
                self._buffers.append(_memory(1))
            if self._buffers[which].numel() < numbers:
                self._buffers[which] = _memory(numbers)
                self._views = {key: view for key, view in self._views.items() if key[0] != which}
            n, c, h, w = shape
            flat = self._buffers[which][:numbers]
            if layout is torch.channels_last:
                return flat.view(n, h, w, c).permute(0, 3, 1, 2)
            return flat.view(n, c, h, w)
