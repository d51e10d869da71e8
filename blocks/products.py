"""What the families share: a linear product of a 3x3 factor and 1x1 factors, and the shortcut around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import cast

from igcsearch.errors import UsageError
from igcsearch.spec import Block, Factor, Shuffle, Step
from igcsearch.spec.numbers import nearest

#: Equal factors are one object: a search meets few factors in many blocks, and what is known of one is found by identity. Typed:
#: a float equals an int, but is refused.
factor = lru_cache(maxsize=65536, typed=True)(Factor)


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
        UsageError: widths below 1, or branch widths that do not divide the channels.
    """
    check_widths(in_channels, out_channels)
    if not divides(spatial_branch_width, in_channels) or out_channels % (in_channels // spatial_branch_width):
        good = [k for k in range(1, in_channels + 1) if in_channels % k == 0 and out_channels % (in_channels // k) == 0]
        raise UsageError(
            f"a 3x3 of branch width {spatial_branch_width} cannot take {in_channels} to {out_channels} channels: its groups "
            f"must divide both; branch widths that do: {', '.join(map(str, good))}"
        )
    groups = in_channels // spatial_branch_width
    for width in branch_widths:
        if not divides(width, out_channels):
            raise UsageError(
                f"branch width {width} does not divide {out_channels} channels; nearest branch widths: "
                f"{nearest(width, lambda k: divides(k, out_channels))}"
            )
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


def check_widths(in_channels: int, out_channels: int) -> None:
    """Raise UsageError unless both widths of a block are at least 1."""
    for name, width in (("in_channels", in_channels), ("out_channels", out_channels)):
        if width < 1:
            raise UsageError(f"{name} = {width} of a block must be at least 1")


def nearest_widths(in_channels: int, out_channels: int, in_divisor: int, out_divisor: int) -> str:
    """For an error message: of the widths that their divisor does not divide the nearest that it does.

    "nearest widths: 48, 45", or where the block changes the width "nearest in_channels: 45, 42; nearest out_channels: ...".
    """
    faults = [
        (name, nearest(width, partial(divides, divisor), reach=abs(divisor) + abs(width) + 1))
        for name, width, divisor in (
            ("in_channels", in_channels, in_divisor),
            ("out_channels", out_channels, out_divisor),
        )
        if not divides(divisor, width)
    ]
    if in_channels == out_channels and in_divisor == out_divisor:
        return f"nearest widths: {faults[0][1]}"
    return "; ".join(f"nearest {name}: {found}" for name, found in faults)


def divides(divisor: int, width: int) -> bool:
    """True if a number of at least 1 divides a width."""
    return divisor >= 1 and width % divisor == 0


def shortcut(
    in_channels: int, out_channels: int, stride: int, groups: int | None = None, norm: bool = True
) -> tuple[Step, ...]:
    """The identity where the shape stays, else a 1x1 group convolution of that stride, with batch norm unless `norm` is False.

    The projection's groups default to the greatest common divisor of the widths (channel-wise where one divides the
    other): the reading of IGCV2's transitions in `igcv2.md` 2.1; IGCV1 uses its primary groups (4.1).
    """
    if stride == 1 and in_channels == out_channels:
        return ()
    groups = math.gcd(in_channels, out_channels) if groups is None else groups
    return (factor(in_channels, out_channels, groups=groups, stride=stride, norm=norm),)


def finish(
    steps: tuple[Step, ...],
    *,
    residual: bool,
    activation: str | None,
    family: str,
    shortcut_groups: int | None = None,
    shortcut_norm: bool = True,
) -> Block:
    """The block of a product, with a `shortcut` if `residual`."""
    around = None
    if residual:
        stride = math.prod(step.stride for step in steps)
        around = shortcut(steps[0].in_channels, steps[-1].out_channels, stride, shortcut_groups, shortcut_norm)
    return Block(steps, shortcut=around, activation=activation, family=family)


def unit(
    first: Block,
    second: Block,
    *,
    residual: bool = True,
    shortcut_groups: int | None = None,
    activation: str | None = None,
) -> Block:
    """Two blocks as one with a shortcut around both: the identity where the shape stays, else a 1x1 projection.

    The first block's activation stands behind its last factor; `activation` follows the sum.

    Args:
        residual: False leaves the shortcut out.

    Raises:
        UsageError: a block with a shortcut of its own, or one that does not end in a factor; a second one with an activation.
    """
    if second.activation is not None:
        raise UsageError(
            f"the second block of a unit has {second.activation} behind it, in front of the sum; make it with activation=None and "
            "give the unit the one that follows the sum"
        )
    for block in (first, second):
        if block.shortcut is not None or not isinstance(block.steps[-1], Factor):
            raise UsageError("a unit is made of two plain products that end in a factor; leave residual out")
    inner = replace(cast(Factor, first.steps[-1]), activation=first.activation)
    steps = (*first.steps[:-1], inner, *second.steps)
    return finish(steps, residual=residual, activation=activation, family=first.family, shortcut_groups=shortcut_groups)


def as_shuffle(kind: str | Shuffle, seed: int = 0) -> Shuffle:
    """A `Shuffle` from its kind's name; a random one takes `seed`."""
    if isinstance(kind, Shuffle):
        return kind
    return Shuffle(kind, seed=seed) if kind == "random" else Shuffle(kind)
