"""ShuffleNet V2's unit (Ma et al., ECCV 2018, arXiv 1807.11164)."""

from __future__ import annotations

from igcsearch.errors import UsageError
from igcsearch.spec import Block, Factor, Parallel, Shuffle
from igcsearch.spec.numbers import nearest

from .definition import definition
from .products import as_shuffle, check_widths, factor


@definition
def shufflenetv2(
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    residual: bool = False,
    activation: str | None = "relu",
    shuffle: str | Shuffle = "interleave",
    shuffle_seed: int = 0,
) -> Block:
    """Half of the channels passes on, half goes through 1x1, channel-wise 3x3, 1x1; joined and shuffled (section 3.1, figure 3).

    Where the stride or the width changes (figure 3d) both lanes read all channels: channel-wise 3x3 and 1x1 on one, the same
    1x1, 3x3, 1x1 on the other, each to half of out_channels. Norm behind each factor, activation behind the 1x1 ones. Within one
    unit channels that pass on meet nothing, so its level is none. Behind it the two lanes take turns: the next unit mixes
    every second channel of what passed on and passes the others again, channel 0 through all units up to one of another stride or
    width.

    Args:
        out_channels: even; where stride is 1 and in_channels the same, the halves are of one width.
        stride: of the 3x3.
        residual: taken and left aside; the lane that passes on is the shortcut.
        shuffle: behind the concatenation; interleave takes channels from both lanes in turn, as the paper's.

    Raises:
        UsageError: an odd width.
    """
    check_widths(in_channels, max(out_channels, 1))
    if out_channels % 2 or out_channels < 2:
        raise UsageError(
            f"shufflenetv2 cannot make {out_channels} channels: each lane writes half of them, so the width must be even; nearest "
            f"widths: {nearest(out_channels, lambda width: width % 2 == 0, smallest=2)}"
        )
    half = out_channels // 2
    keeps_shape = stride == 1 and in_channels == out_channels

    def pointwise(width: int) -> Factor:
        return factor(width, half, norm=True, activation=activation)

    def spatial(width: int) -> Factor:
        return factor(width, width, kernel_size=3, groups=width, stride=stride, norm=True)

    main = (pointwise(half if keeps_shape else in_channels), spatial(half), pointwise(half))
    passing = () if keeps_shape else (spatial(in_channels), pointwise(in_channels))
    split = (half, half) if keeps_shape else None
    lanes = Parallel((passing, main), in_channels, split=split, shuffle=as_shuffle(shuffle, shuffle_seed))
    return Block((lanes,), family="shufflenetv2")
