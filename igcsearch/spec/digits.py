"""Group counts as digits: which factor of a strict product mixes which prime digit of the width. Floor 0.

Write a channel's number in the prime digits of C, and let each factor mix the digits that are given to it: it joins channels that
agree in all others. If every digit is given to exactly one factor, one path leads from each channel to each, and the product is
strict whatever was given to whom (`igcv2.md` 1.5); so group counts can be learned digit by digit. A factor that gets digits of
product K has branches of K channels; one that gets none is left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .block import Block
from .factor import Factor, Shuffle
from .permutations import Order, compose, interleave, invert


def prime_digits(width: int) -> tuple[int, ...]:
    """The prime factors of a width, ascending, each as often as it divides it."""
    found, left, prime = [], width, 2
    while prime * prime <= left:
        while left % prime == 0:
            found.append(prime)
            left //= prime
        prime += 1
    return (*found, left) if left > 1 else tuple(found)


def digit_table(radices: Sequence[int]) -> NDArray[np.int64]:
    """The digits of every channel number, the first digit the slowest. Shape (C, digits) for C the product of the radices."""
    channels = np.arange(math.prod(radices))
    return (
        np.stack(np.unravel_index(channels, tuple(radices)), axis=1)
        if len(radices)
        else np.zeros((1, 0), dtype=np.int64)
    )


def branch_widths(owners: Sequence[int], radices: Sequence[int], factors: int) -> tuple[int, ...]:
    """K of each factor, 1 for one that mixes no digit.

    Args:
        owners: for each digit the number of the factor that mixes it.
        radices: of the digits.
        factors: how many there are.
    """
    return tuple(math.prod(p for p, owner in zip(radices, owners, strict=True) if owner == f) for f in range(factors))


def with_digits(block: Block, owners: Sequence[int]) -> Block:
    """The block with its 1x1 factors as the digits say: as many as mix one, behind the same channel-wise factor.

    The shuffles are explicit: in front of each factor the digits that it mixes become the fastest; behind the last, channels are
    where they were, so that a shortcut meets its own. (They are equivalent to interleaves, which write the same classes of
    networks; weights that were trained with the digits need these.)

    Args:
        block: a channel-wise factor and 1x1 factors on one width, C, with a bare shuffle between them.
        owners: for each prime digit of C the number of the 1x1 factor that mixes it.

    Raises:
        UsageError: a block of another form.
    """
    first, pointwise = checked(block)
    radices = prime_digits(first.out_channels)
    if len(owners) != len(radices) or not all(0 <= owner < len(pointwise) for owner in owners):
        raise UsageError(
            f"{len(radices)} digits of {first.out_channels} channels each need one of {len(pointwise)} factors"
        )
    widths = branch_widths(owners, radices, len(pointwise))
    found = layouts(owners, radices)
    steps = [_shuffled(first, found[0][1])]
    for position, (f, layout) in enumerate(found):
        last = position + 1 == len(found)
        shuffle = invert(layout) if last else compose(invert(layout), found[position + 1][1])
        plain = pointwise[-1] if last else pointwise[0]
        factor = Factor(
            first.out_channels,
            first.out_channels,
            groups=first.out_channels // widths[f],
            norm=plain.norm,
            activation=plain.activation,
        )
        steps.append(_shuffled(factor, shuffle))
    return Block(tuple(steps), shortcut=block.shortcut, activation=block.activation, family=block.family)


def layouts(owners: Sequence[int], radices: Sequence[int]) -> list[tuple[int, Order]]:
    """The factors that mix a digit, in order, each with the channels branch after branch: position i takes channel order[i]."""
    table = digit_table(radices)
    return [(f, _layout(table, [owner == f for owner in owners])) for f in sorted(set(owners))]


def checked(block: Block) -> tuple[Factor, tuple[Factor, ...]]:
    """The channel-wise factor and the 1x1 factors of a block whose group counts can be learned as digits.

    Raises:
        UsageError: a block of another form, with the reason.
    """
    first, *rest = block.steps
    if not isinstance(first, Factor) or first.branch_width != 1:
        raise UsageError("group counts are learned behind a channel-wise factor; this block begins with another step")
    if first.in_channels != first.out_channels:
        raise UsageError(
            f"group counts are learned where the width stays, not from {first.in_channels} to {first.out_channels} channels"
        )
    pointwise = tuple(step for step in rest if isinstance(step, Factor))
    if any(factor.nm is not None for factor in (first, *pointwise)):
        raise UsageError(
            "group counts are learned of dense branches, not beside an N:M sparsity; leave one of the two out"
        )
    bare = all(not factor.norm and factor.activation is None for factor in pointwise[:-1])
    square = all(
        factor.kernel_size == 1 and factor.stride == 1 and factor.out_channels == first.out_channels
        for factor in pointwise
    )
    if (
        len(pointwise) != len(rest)
        or not pointwise
        or not bare
        or not square
        or any(factor.bias for factor in pointwise)
    ):
        raise UsageError("group counts are learned in products of 1x1 factors of one width with nothing between them")
    product = math.prod(factor.branch_width for factor in pointwise)
    if product != first.out_channels:
        raise UsageError(
            f"the branch widths' product is {product}, not {first.out_channels}: group counts are learned in strict blocks alone"
        )
    return first, pointwise


def _layout(table: NDArray[np.int64], mixed: Sequence[bool]) -> Order:
    """Channels by the digits that are not mixed, then by those that are: branches are consecutive. Position i takes order[i]."""
    chosen = np.array(mixed, dtype=bool)
    keys = [*table[:, chosen].T[::-1], *table[:, ~chosen].T[::-1]]  # np.lexsort: the last key is the slowest
    return np.lexsort(keys) if keys else np.arange(len(table))


def _shuffled(factor: Factor, order: Order) -> Factor:
    """With an interleave where that is the order: so the network has the key of the one that is made of interleaves."""
    plain = np.array_equal(order, interleave(factor.out_channels, factor.groups))
    return replace(factor, shuffle=Shuffle() if plain else Shuffle("explicit", order=tuple(map(int, order))))
