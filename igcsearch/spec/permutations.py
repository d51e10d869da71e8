"""Channel permutations as index arrays: `order[i]` is the channel that position i reads, so `y = x[order]`.

Floor 0; the shuffles behind factors (factor.py) are made of these.
"""

from __future__ import annotations

import random
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError

Order = NDArray[np.int64]


def _frozen(order: Order) -> Order:
    order.setflags(write=False)
    return order


@lru_cache(maxsize=4096)
def interleave(channels: int, groups: int) -> Order:
    """Order of shape (channels,) that reads channels as a (groups, channels / groups) table, transposed.

    Behind a factor of branch width K the groups are the factor's branches, C/K (`igcv2.md` 1.4): position j*G + g takes
    channel g*K + j. With groups = K instead, products such as K = (2, 3, 4) leave pairs of channels without a path.

    Raises:
        UsageError: groups does not divide channels.
    """
    if groups < 1 or channels % groups:
        raise UsageError(
            f"cannot interleave {channels} channels of {groups} groups: the groups must divide the channels"
        )
    return _frozen(np.arange(channels, dtype=np.int64).reshape(groups, channels // groups).T.reshape(-1).copy())


@lru_cache(maxsize=4096)
def identity(channels: int) -> Order:
    """Order of shape (channels,) that leaves every channel where it is."""
    return _frozen(np.arange(channels, dtype=np.int64))


@lru_cache(maxsize=4096)
def random_order(channels: int, seed: int) -> Order:
    """Uniformly drawn order of shape (channels,), the same on every machine and version for one seed.

    Sorts by `random.Random(seed).random()`, a stream that Python guarantees; library shuffles give no such promise.
    """
    stream = random.Random(seed)
    keys = [stream.random() for _ in range(channels)]
    return _frozen(np.array(sorted(range(channels), key=keys.__getitem__), dtype=np.int64))


@lru_cache(maxsize=4096)
def explicit(order: tuple[int, ...]) -> Order:
    """The order spelled out. Shape (len(order),)."""
    return _frozen(np.array(order, dtype=np.int64))


def invert(order: Order) -> Order:
    """The order that undoes `order`: `order[invert(order)]` is the identity. Shape (n,) to (n,)."""
    inverse = np.empty_like(order)
    inverse[order] = np.arange(len(order))
    return inverse


def compose(first: Order, second: Order) -> Order:
    """The single order that equals reading by `first`, then reading the result by `second`. Shapes (n,), (n,) to (n,)."""
    return first[second]
