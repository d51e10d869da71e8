"""MobileNet V2's inverted residual (Sandler et al., CVPR 2018, arXiv 1801.04381)."""

from __future__ import annotations

from igcsearch.errors import UsageError
from igcsearch.spec import Block, Shuffle

from .definition import definition
from .products import check_widths, factor, finish


@definition
def mobilenetv2(
    in_channels: int,
    out_channels: int,
    *,
    expansion: int = 6,
    stride: int = 1,
    residual: bool = True,
    activation: str | None = "relu6",
    shuffle: str | Shuffle = "interleave",
    shuffle_seed: int = 0,
) -> Block:
    """Dense 1x1 to `expansion` times the width, channel-wise 3x3, dense 1x1 back (section 3.3, table 1).

    Norm behind each, activation behind the first two, none behind the last (the linear bottleneck) and none behind the sum.
    Loose: C_in * expansion paths a pair, through the middle. The shuffle options are taken and left aside: every
    shuffle stands next to a dense factor.

    Args:
        expansion: width of the middle over in_channels, the paper's t; 1 leaves the first 1x1 out.
        stride: of the 3x3.
        residual: a shortcut where the shape stays, as in the paper; none elsewhere.

    Raises:
        UsageError: an expansion below 1.
    """
    check_widths(in_channels, out_channels)
    if expansion < 1:
        raise UsageError(f"mobilenetv2 with expansion {expansion}: it must be at least 1; 6 is the paper's")
    middle = in_channels * expansion
    opening = (factor(in_channels, middle, norm=True, activation=activation),) if expansion > 1 else ()
    spatial = factor(middle, middle, kernel_size=3, groups=middle, stride=stride, norm=True, activation=activation)
    steps = (*opening, spatial, factor(middle, out_channels, norm=True))
    keeps_shape = stride == 1 and in_channels == out_channels
    return finish(steps, residual=residual and keeps_shape, activation=None, family="mobilenetv2")
