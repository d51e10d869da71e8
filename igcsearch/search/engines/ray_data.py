"""Images in Ray's object store: loaded by one process, one copy on each node, read by all workers there without another.

Tensors travel as NumPy arrays, which Ray maps from shared memory; a worker's tensors are views of that memory and must not be
written to (training never writes to its images). Images that stay in their files (large folders) travel as paths.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import torch

from igcsearch.training import ImageData, Split

_SPLITS = ("train", "validation", "test")


def pack(data: ImageData) -> ImageData:
    """The same data with arrays in the place of tensors, to be put into the store. Its fingerprint, once known, goes with it."""
    _ = data.fingerprint
    return _with_splits(data, lambda value: value.numpy() if isinstance(value, torch.Tensor) else value)


def unpack(data: ImageData) -> ImageData:
    """The inverse of `pack`, on what came out of the store."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return _with_splits(data, lambda value: torch.from_numpy(value) if isinstance(value, np.ndarray) else value)


def files_of(data: ImageData) -> list[str]:
    """Paths that every node must have: the folder of images that stay in their files, and one of them."""
    images = data.train.images
    return [] if isinstance(images, torch.Tensor) else [images.root or images.paths[0], images.paths[-1]]


def _with_splits(data: ImageData, change: Any) -> ImageData:
    """A shallow copy whose splits' attributes went through `change`; cached values stay."""
    made = copy.copy(data)
    for name in _SPLITS:
        split: Split = copy.copy(getattr(data, name))
        split.__dict__.update({key: change(value) for key, value in split.__dict__.items()})
        made.__dict__[name] = split
    return made
