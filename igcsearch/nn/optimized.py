"""What the network of every architecture is that was made ready for inference; inference.py and graph_inference.py have one each.

Floor 3.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ..spec import Architecture
from .workspace import Workspace


class OptimizedNetwork(nn.Module, ABC):
    """A network for inference alone: images (N, in_channels, H, W), float32, to what the network gives, without gradients.

    Autocast does not reach into it: its parts run in float32.

    On the CPU it keeps the memory of its largest maps between calls, for each thread that calls it (workspace.py): what a hook
    sees of a fused part is overwritten by a later one.

    Attributes:
        architecture: of the network that it was made of.
        plans: how each part runs, in order.
        channels_last: memory format that images are brought into; False: contiguous.
    """

    architecture: Architecture
    plans: tuple[str, ...]
    channels_last: bool

    def __init__(self) -> None:
        super().__init__()
        self._workspace = Workspace()

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Images to logits."""
        kind = x_NCHW.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                return self._prepared(x_NCHW)
        return self._prepared(x_NCHW)

    def _prepared(self, x_NCHW: Tensor) -> Tensor:
        wanted = self._dtype()
        if x_NCHW.dtype != wanted:
            raise RuntimeError(f"Input type ({x_NCHW.dtype}) and weight type ({wanted}) should be the same")
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        x_NCHW = x_NCHW.detach().contiguous(memory_format=layout)
        return self._logits(x_NCHW, None if torch.compiler.is_compiling() else self._workspace)

    @abstractmethod
    def _logits(self, x_NCHW: Tensor, room: Workspace | None) -> Tensor:
        """Images in the network's memory format to logits; maps may lie in `room`, the logits must not."""

    @abstractmethod
    def _dtype(self) -> torch.dtype:
        """What images have to be of."""
