"""Random numbers that are a pure function of integers: the base of splits, sample order and augmentation.

A generator's numbers depend on how often it was asked before; these depend on their keys alone, so a run that is
interrupted, cut into other batches or moved to another device sees the same ones. The mixing is SplitMix64 (Steele,
Lea and Flood 2014, "Fast splittable pseudorandom number generators"), written on int64 tensors, whose products wrap
modulo 2**64.
"""

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def keyed(indices: Tensor, *keys: int) -> Tensor:
    """64 random bits for each index: number `index` of the SplitMix64 stream whose seed is made of the keys.

    Args:
        indices: int64, any shape, on any device.
        keys: integers that name the stream, for example seed, epoch and purpose.

    Returns:
        int64 of the same shape: all 64 bits random (so half of them are negative).
    """
    seed = 0
    for key in keys:
        seed = _mix((seed + _GOLDEN + key) & _MASK)
    state = indices * _signed(_GOLDEN) + _signed((seed + _GOLDEN) & _MASK)
    state = (state ^ _shift(state, 30)) * _signed(_FIRST)
    state = (state ^ _shift(state, 27)) * _signed(_SECOND)
    return state ^ _shift(state, 31)


def keyed_order(ids: Tensor, *keys: int) -> Tensor:
    """Positions of `ids` in an order that the keys fix; which of two ids comes first does not depend on the others."""
    return torch.argsort(keyed(ids, *keys), stable=True)


def _mix(state: int) -> int:
    state = ((state ^ (state >> 30)) * _FIRST) & _MASK
    state = ((state ^ (state >> 27)) * _SECOND) & _MASK
    return state ^ (state >> 31)


def _signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    return value - (1 << 64) if value >> 63 else value


def _shift(state: Tensor, by: int) -> Tensor:
    """Logical shift to the right; the one of int64 tensors copies the sign."""
    return (state >> by) & ((1 << (64 - by)) - 1)
