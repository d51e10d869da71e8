"""What the families share: a linear product of a 3x3 factor and 1x1 factors, and the shortcut around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from typing import cast

from igcsearch.errors import UsageError
from igcsearch.spec import Block, Factor, Shuffle, Step

#: Equal factors are one object: a search meets few factors in many blocks, and what is known of one is found by identity.
factor = lru_cache(maxsize=65536)(Factor)


def linear_product(
    in_channels: int,
    out_channels: int,
    *,
    stride: int,
    spatial_branch_width: int,
    branch_widths: Sequence[int],
    shuffle: Shuffle,
) -> tuple[Factor, ...]:
    """A 3x3 factor with in_channels / K_1 groups, which makes the width change, then 1x1 factors on out_channels.

    Nothing stands between the factors; batch norm follows the last (`igcv2.md` 2.4). `shuffle` is behind the 3x3; the
    others are interleaves with groups = C / K.

    Raises:
        UsageError: branch widths that do not divide the channels.
    """
    groups, rest = divmod(in_channels, spatial_branch_width)
    if rest or out_channels % groups:
        good = [k for k in range(1, in_channels + 1) if in_channels % k == 0 and out_channels % (in_channels // k) == 0]
        raise UsageError(
            f"a 3x3 of branch width {spatial_branch_width} cannot take {in_channels} to {out_channels} channels: its groups "
            f"must divide both; branch widths that do: {', '.join(map(str, good))}"
        )
    for width in branch_widths:
        if width < 1 or out_channels % width:
            raise UsageError(f"branch width {width} does not divide {out_channels} channels; use one of its divisors")
    alone = not branch_widths
    spatial = factor(
        in_channels, out_channels, kernel_size=3, groups=groups, stride=stride, norm=alone, shuffle=shuffle
    )
    last = len(branch_widths) - 1
    pointwise = (
        factor(out_channels, out_channels, groups=out_channels // width, norm=position == last)
        for position, width in enumerate(branch_widths)
    )
    return (spatial, *pointwise)


def shortcut(in_channels: int, out_channels: int, stride: int, groups: int | None = None) -> tuple[Step, ...]:
    """The identity where the shape stays, else a 1x1 group convolution of that stride with batch norm.

    The projection's groups default to the greatest common divisor of the widths (channel-wise where one divides the
    other): the reading of IGCV2's transitions in `igcv2.md` 2.1; IGCV1 uses its primary groups (4.1).
    """
    if stride == 1 and in_channels == out_channels:
        return ()
    groups = math.gcd(in_channels, out_channels) if groups is None else groups
    return (factor(in_channels, out_channels, groups=groups, stride=stride, norm=True),)


def finish(
    steps: tuple[Step, ...], *, residual: bool, activation: str | None, family: str, shortcut_groups: int | None = None
) -> Block:
    """The block of a product, with a shortcut if `residual`."""
    around = None
    if residual:
        stride = math.prod(step.stride for step in steps)
        around = shortcut(steps[0].in_channels, steps[-1].out_channels, stride, shortcut_groups)
    return Block(steps, shortcut=around, activation=activation, family=family)


def unit(first: Block, second: Block, *, shortcut_groups: int | None = None, activation: str | None = None) -> Block:
    """Two blocks as one with a shortcut around both: the identity where the shape stays, else a 1x1 projection.

    The first block's activation stands behind its last factor, the second's own (which is to be None) gives way to `activation`,
    which follows the sum.

    Raises:
        UsageError: a block with a shortcut of its own, or one that does not end in a factor.
    """
    for block in (first, second):
        if block.shortcut is not None or not isinstance(block.steps[-1], Factor):
            raise UsageError("a unit is made of two plain products that end in a factor; leave residual out")
    inner = replace(cast(Factor, first.steps[-1]), activation=first.activation)
    steps = (*first.steps[:-1], inner, *second.steps)
    return finish(steps, residual=True, activation=activation, family=first.family, shortcut_groups=shortcut_groups)


def as_shuffle(kind: str | Shuffle, seed: int = 0) -> Shuffle:
    """A `Shuffle` from its kind's name; a random one takes `seed`."""
    if isinstance(kind, Shuffle):
        return kind
    return Shuffle(kind, seed=seed) if kind == "random" else Shuffle(kind)


def nearest(wanted: int, works: Callable[[int], bool], *, smallest: int = 1, reach: int | None = None) -> str:
    """The two whole numbers nearest to `wanted` for which `works` holds, for error messages: "48, 64".

    Args:
        smallest: below which no number is tried.
        reach: how far to look; None: as far as 4 * wanted + 64.
    """
    far = 4 * wanted + 64 if reach is None else reach
    tried = (other for d in range(far) for other in ((wanted - d, wanted + d) if d else (wanted,)))
    found = islice((other for other in tried if other >= smallest and works(other)), 2)
    return ", ".join(map(str, found)) or "none"
