"""IGCV2: interleaved structured sparse convolutions (Xie et al., CVPR 2018, arXiv 1804.06202; `igcv2.md` 1)."""

from __future__ import annotations

import math
from typing import Any

from igcsearch.errors import UsageError
from igcsearch.spec import Block, Shuffle
from igcsearch.spec.numbers import nearest

from .definition import definition
from .products import as_shuffle, check_widths, divides, factor, finish, linear_product, nearest_widths


@definition
def igcv2(
    in_channels: int,
    out_channels: int,
    *,
    branch_widths: tuple[int, ...],
    spatial_branch_width: int = 1,
    stride: int = 1,
    residual: bool = False,
    activation: str | None = "relu",
    shuffle: str | Shuffle = "interleave",
    shuffle_seed: int = 0,
) -> Block:
    """y = P_L W_L ... P_1 W_1 x: a 3x3 factor of branch width K_1 and 1x1 factors of `branch_widths` K_2 ... K_L.

    Strict exactly if K_1 * ... * K_L = C_in, transitions included: the 3x3 makes the width change (two filters a channel
    for a doubling) and the interleave behind it lays the copies one after the other (`igcv2.md` 1.4). The product of all
    interleaves is the identity, so that a shortcut meets its own channels. Batch norm and activation follow the last factor.

    Args:
        in_channels, out_channels: C_in and C_out; in_channels / K_1 divides out_channels.
        branch_widths: K of the 1x1 factors, each a divisor of out_channels; `conditions.factorizations` lists those of a width.
        spatial_branch_width: K_1; 1 is the channel-wise 3x3.
        stride: of the 3x3.
        residual: add a shortcut (channel-wise 1x1 projection at a transition).
        shuffle, shuffle_seed: behind the 3x3; with K_1 = 1 every permutation there keeps the level.

    Raises:
        UsageError: branch widths that do not divide the channels.
    """
    if not branch_widths:
        raise UsageError("igcv2 needs at least one 1x1 factor; give branch widths such as (8, 8)")
    steps = linear_product(
        in_channels,
        out_channels,
        stride=stride,
        spatial_branch_width=spatial_branch_width,
        branch_widths=branch_widths,
        shuffle=as_shuffle(shuffle, shuffle_seed),
    )
    return finish(steps, residual=residual, activation=activation, family="igcv2")


@definition
def igcv2_uniform(in_channels: int, out_channels: int, *, branch_width: int, **options: Any) -> Block:
    """IGCV2* with one branch width K: as few interleaved 1x1 factors as leave no pair of channels without a path.

    On one width that is ceil(log_K C), dense at any multiple of K: nearly complementary (one or two paths a pair) where
    K^n < 2 * C, else loose (`igcv2.md` 1.4, 2.1).

    Args:
        branch_width: K, at least 2, a divisor of out_channels.
        options: as `igcv2` takes them, less the branch widths.

    Raises:
        UsageError: a K below 2, or a width that it does not divide.
    """
    check_widths(in_channels, out_channels)
    if branch_width < 2:
        raise UsageError(f"uniform branch width {branch_width} mixes no channels: it must be at least 2")
    if out_channels % branch_width:
        near = nearest(out_channels, lambda width: width % branch_width == 0, reach=out_channels + branch_width + 1)
        raise UsageError(
            f"uniform branch width {branch_width} does not divide {out_channels} channels; nearest widths: {near}"
        )
    spatial = in_channels // math.gcd(in_channels, out_channels)
    count = 1
    while True:
        widths = (branch_width,) * count
        block = igcv2(in_channels, out_channels, branch_widths=widths, spatial_branch_width=spatial, **options)
        if block.report["complementary"] != "none":
            return block
        count += 1


@definition
def igcv2_grouped(
    in_channels: int,
    out_channels: int,
    *,
    groups: tuple[int, ...],
    stride: int = 1,
    residual: bool = False,
    activation: str | None = "relu",
    shuffle: str | Shuffle = "interleave",
    shuffle_seed: int = 0,
) -> Block:
    """IGCV2 by group counts G_l in place of branch widths, so that widths scale with a multiplier and groups stay (`igcv2.md` 2.3).

    The channel-wise 3x3 stays on in_channels, as in MobileNet V1, and the first 1x1 factor makes the width change. Paths a pair:
    floor or ceil of C_out^n / (prod G_l * C_out) on one width C_out and n factors, so they shrink with the multiplier.

    Args:
        groups: of the 1x1 factors; each divides out_channels, the first in_channels too.
        stride, residual, shuffle, shuffle_seed: as `igcv2`.

    Raises:
        UsageError: groups that do not divide the channels.
    """
    if not groups:
        raise UsageError("igcv2_grouped needs at least one 1x1 factor; give group counts such as (8, 8)")
    check_widths(in_channels, out_channels)
    common = math.gcd(in_channels, out_channels)
    for position, count in enumerate(groups):
        divided = common if position == 0 else out_channels
        if not divides(count, divided):
            good = ", ".join(str(g) for g in range(1, divided + 1) if divided % g == 0)
            written = max(math.lcm(*groups), 1) if min(groups) >= 1 else 0
            widths = nearest_widths(in_channels, out_channels, groups[0], written)
            raise UsageError(
                f"igcv2_grouped with groups {groups} cannot take {in_channels} to {out_channels} channels: each must divide what "
                f"its factor reads and writes; {widths}; group counts of factor {position + 1} that do: {good}"
            )
    last = len(groups) - 1
    steps = (
        factor(
            in_channels,
            in_channels,
            kernel_size=3,
            groups=in_channels,
            stride=stride,
            shuffle=as_shuffle(shuffle, shuffle_seed),
        ),
        *(
            factor(out_channels if position else in_channels, out_channels, groups=count, norm=position == last)
            for position, count in enumerate(groups)
        ),
    )
    return finish(steps, residual=residual, activation=activation, family="igcv2")
