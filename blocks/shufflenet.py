"""ShuffleNet V1's unit (Zhang et al., CVPR 2018, arXiv 1707.01083; `igcv2.md` 5)."""

from __future__ import annotations

import math

from igcsearch.errors import UsageError
from igcsearch.spec import Block, Parallel, Pool, Shuffle
from igcsearch.spec.numbers import nearest

from .definition import definition
from .products import as_shuffle, check_widths, factor


@definition
def shufflenet(
    in_channels: int,
    out_channels: int,
    *,
    groups: int,
    first_groups: int | None = None,
    bottleneck: int = 4,
    stride: int = 1,
    residual: bool = True,
    activation: str | None = "relu",
    shuffle: str | Shuffle = "interleave",
    shuffle_seed: int = 0,
) -> Block:
    """1x1 group convolution to a bottleneck, shuffle, channel-wise 3x3, 1x1 group convolution back (section 3.2, figure 2).

    Norm behind each, activation behind the first. Where the width stays the input is added (average-pooled by 3x3 where there
    is a stride, as is what the paper concatenates); where it grows the product makes the out_channels - in_channels new channels
    only, and the input is put in front of them. The activation follows the sum or the concatenation. Path counts of a
    concatenation include the lane that passes the input on, so that pairs across the two lanes have none there.

    Args:
        groups: of both 1x1 convolutions.
        first_groups: of the first one where they differ: 1 in a network's first unit, as in the paper.
        bottleneck: out_channels over the width of the middle, which it divides.
        stride: of the 3x3.
        residual: False leaves the input out: the product alone, on all out_channels.
        shuffle: behind the first 1x1.

    Raises:
        UsageError: fewer channels out than in, or groups or a bottleneck that do not divide the widths they have to.
    """
    check_widths(in_channels, out_channels)
    if residual and out_channels < in_channels:
        raise UsageError(
            f"shufflenet cannot take {in_channels} to {out_channels} channels: the input is kept beside the new channels, so "
            f"a unit cannot be narrower; use at least {in_channels}, or residual=False"
        )
    opening = groups if first_groups is None else first_groups

    def fits(source: int, width: int, count: int, first: int) -> bool:
        made = width - source if residual and width != source else width
        middle = width // max(bottleneck, 1)
        if bottleneck < 1 or width % bottleneck or made < 0 or middle < 1 or count < 1 or first < 1:
            return False
        return math.gcd(source, middle) % first == 0 and math.gcd(middle, made) % count == 0

    if not fits(in_channels, out_channels, groups, opening):
        stays = in_channels == out_channels
        counts = [(g, g if first_groups is None else opening) for g in range(1, out_channels + 1)]
        good = [str(g) for g, first in counts if fits(in_channels, out_channels, g, first)]
        found = nearest(out_channels, lambda width: fits(width if stays else in_channels, width, groups, opening))
        widths = f"nearest widths: {found}"
        if found == "none" and not stays:
            sources = nearest(in_channels, lambda width: fits(width, out_channels, groups, opening))
            widths = f"nearest in_channels: {sources}"
        raise UsageError(
            f"shufflenet with {groups} groups (first {opening}) cannot take {in_channels} to {out_channels} channels over a middle "
            f"of 1/{bottleneck}: the middle must be whole, and groups divide what their 1x1 convolutions read and write; {widths}; "
            f"groups at this width: {', '.join(good) or 'none'}"
        )
    middle = out_channels // bottleneck
    grows = residual and out_channels > in_channels
    first = factor(
        in_channels,
        middle,
        groups=opening,
        norm=True,
        activation=activation,
        shuffle=as_shuffle(shuffle, shuffle_seed),
    )
    spatial = factor(middle, middle, kernel_size=3, groups=middle, stride=stride, norm=True)
    made = out_channels - in_channels if grows else out_channels
    last = factor(middle, made, groups=groups, norm=True, shuffle=Shuffle("identity"))
    kept = (Pool(in_channels, "avg", 3, stride),) if stride > 1 else ()
    if grows:
        lanes = Parallel((kept, (first, spatial, last)), in_channels)
        return Block((lanes,), activation=activation, family="shufflenet")
    shortcut = kept if residual else None
    return Block((first, spatial, last), shortcut=shortcut, activation=activation, family="shufflenet")
