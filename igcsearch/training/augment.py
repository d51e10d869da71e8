"""Augmentation of whole batches where they lie (CPU or GPU): random crop with padding, mirroring; then normalisation.

What happens to an image is a pure function of (seed, epoch, sample id): it does not depend on the batch it is in.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from igcsearch.training.keyed import keyed

_STREAM = 1  # `keyed` purposes within a training run: 0 order of samples, 1 augmentation


def augment(images_NCHW: Tensor, ids_N: Tensor, *, seed: int, epoch: int, padding: int, flip: bool) -> Tensor:
    """The images shifted by up to `padding` pixels each way (black moves in) and, half of them, mirrored.

    Args:
        images_NCHW: uint8 (or any dtype), square.
        ids_N: int64 sample ids, on the same device.
        seed, epoch: the other two keys of the random numbers.
        padding: largest shift in pixels; 0 leaves the crop out.
        flip: whether to mirror (left-right).
    """
    if padding == 0 and not flip:
        return images_NCHW
    bits = keyed(ids_N, seed, epoch, _STREAM)
    if padding:
        shifts = 2 * padding + 1
        down = ((bits & 0xFFFFFF) * shifts) >> 24  # 24 bits each: uniform to 1e-6
        right = (((bits >> 24) & 0xFFFFFF) * shifts) >> 24
        images_NCHW = _crop(F.pad(images_NCHW, (padding,) * 4), down, right, images_NCHW.shape[-1])
    if flip:
        mirrored = ((bits >> 48) & 1).bool()
        images_NCHW = torch.where(mirrored[:, None, None, None], images_NCHW.flip(-1), images_NCHW)
    return images_NCHW


def _crop(padded: Tensor, down: Tensor, right: Tensor, size: int) -> Tensor:
    """Window (size, size) of each image at its own offset: all windows are a view, one indexing copies the chosen ones."""
    windows = padded.unfold(2, size, 1).unfold(3, size, 1)  # (N, C, shifts, shifts, size, size)
    return windows[torch.arange(len(padded), device=padded.device), :, down, right]


class Normalise:
    """Pixels 0..255 to floats (value / 255 - mean) / std, per channel, in the memory format that the network likes.

    Args:
        mean, std: one number a channel, of images scaled to 0..1.
        device: where the batches are.
        channels_last: memory format of what comes out.
        dtype: of what comes out.
    """

    def __init__(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
        channels_last: bool,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.dtype = dtype
        self.shift = torch.tensor(mean, dtype=dtype, device=device)[:, None, None] * 255
        self.scale = 1 / (torch.tensor(std, dtype=dtype, device=device)[:, None, None] * 255)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        floats = images_NCHW.to(self.dtype, memory_format=self.memory_format)
        return floats.sub_(self.shift).mul_(self.scale)
