"""IGCV1: interleaved group convolutions (Zhang et al., ICCV 2017, arXiv 1707.02725; `igcv2.md` 4.1)."""

from __future__ import annotations

import math

from igcsearch.errors import UsageError
from igcsearch.spec import Block, Shuffle
from igcsearch.spec.numbers import nearest

from .definition import definition
from .products import as_shuffle, check_widths, divides, finish, linear_product, nearest_widths


@definition
def igcv1(
    in_channels: int,
    out_channels: int,
    *,
    primary_groups: int,
    stride: int = 1,
    residual: bool = False,
    activation: str | None = "relu",
    shuffle: str | Shuffle = "interleave",
    shuffle_seed: int = 0,
) -> Block:
    """x' = P2 W2 P1 W1 x: a 3x3 of `primary_groups` (the paper's L) branches, then a 1x1 whose branches are L wide.

    Strict at every width change too: the secondary branch width is L, so that K_1 * K_2 = (C_in / L) * L = C_in. (The
    released code takes C_in / L secondary groups at a transition, which doubles the weights there and the paths.)
    Batch norm and activation follow the second shuffle; a transition's shortcut is a 1x1 of L groups.

    Args:
        in_channels, out_channels: both divisible by `primary_groups`.
        stride: of the 3x3.
        residual: add a shortcut.
        shuffle: behind the 3x3; anything but interleave may lose the condition.

    Raises:
        UsageError: primary groups that do not divide both widths.
    """
    check_widths(in_channels, out_channels)
    if not divides(primary_groups, in_channels) or not divides(primary_groups, out_channels):
        common = math.gcd(in_channels, out_channels)
        raise UsageError(
            f"igcv1 with {primary_groups} primary groups cannot take {in_channels} to {out_channels} channels: the primary groups "
            f"must divide both; {nearest_widths(in_channels, out_channels, primary_groups, primary_groups)}; "
            f"nearest primary groups: {nearest(primary_groups, lambda groups: divides(groups, common))}"
        )
    steps = linear_product(
        in_channels,
        out_channels,
        stride=stride,
        spatial_branch_width=in_channels // primary_groups,
        branch_widths=(primary_groups,),
        shuffle=as_shuffle(shuffle, shuffle_seed),
    )
    return finish(steps, residual=residual, activation=activation, family="igcv1", shortcut_groups=primary_groups)
