"""IGCV3: interleaved low-rank group convolutions (Sun et al., BMVC 2018, arXiv 1806.00178; `igcv2.md` 4.2)."""

from __future__ import annotations

import math

from igcsearch.errors import UsageError
from igcsearch.spec import Block, Shuffle

from .definition import definition
from .products import as_shuffle, check_widths, factor, finish, nearest_widths


@definition
def igcv3(
    in_channels: int,
    out_channels: int,
    *,
    expansion: int = 6,
    groups: tuple[int, int] = (2, 2),
    stride: int = 1,
    residual: bool = True,
    activation: str | None = "relu6",
    shuffle: str | Shuffle = "interleave",
    shuffle_seed: int = 0,
) -> Block:
    """1x1 group convolution to `expansion` times the width, shuffle, channel-wise 3x3, 1x1 group convolution to C_out.

    Batch norm behind each, one activation (behind the 3x3), none behind the sum; loose: C_in * expansion / (g_1 * g_2)
    paths a pair. The shortcut exists only where the shape stays, as in the released code, and the paper's last
    permutation is left out, as there.

    Args:
        in_channels, out_channels: divisible by groups[0] and groups[1].
        expansion: width of the middle over in_channels.
        groups: of the two 1x1 convolutions.
        stride: of the 3x3.
        shuffle: behind the first 1x1.

    Raises:
        UsageError: an expansion below 1, not two groups, or groups that do not divide the channels.
    """
    check_widths(in_channels, out_channels)
    if expansion < 1:
        raise UsageError(f"igcv3 with expansion {expansion}: it must be at least 1; 6 is the paper's")
    if len(groups) != 2 or min(groups) < 1:
        raise UsageError(
            f"igcv3 with groups {groups}: give two numbers of at least 1, of its two 1x1; (2, 2) is the paper's"
        )
    middle = in_channels * expansion
    if in_channels % groups[0] or middle % groups[1] or out_channels % groups[1]:
        read = math.lcm(groups[0], groups[1] // math.gcd(groups[1], expansion))
        same = in_channels == out_channels
        wanted = (math.lcm(read, groups[1]),) * 2 if same else (read, groups[1])
        raise UsageError(
            f"igcv3 with groups {groups} cannot take {in_channels} to {out_channels} channels: the first must divide what comes "
            f"in, the second the middle of {middle} and what goes out; {nearest_widths(in_channels, out_channels, *wanted)}"
        )
    steps = (
        factor(in_channels, middle, groups=groups[0], norm=True, shuffle=as_shuffle(shuffle, shuffle_seed)),
        factor(middle, middle, kernel_size=3, groups=middle, stride=stride, norm=True, activation=activation),
        factor(middle, out_channels, groups=groups[1], norm=True, shuffle=Shuffle("identity")),
    )
    keeps_shape = stride == 1 and in_channels == out_channels
    return finish(steps, residual=residual and keeps_shape, activation=None, family="igcv3")
