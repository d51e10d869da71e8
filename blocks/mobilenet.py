"""MobileNet V1's separable block (Howard et al. 2017, arXiv 1704.04861)."""

from __future__ import annotations

from igcsearch.spec import Block, Shuffle

from .definition import definition
from .products import factor, finish


@definition
def mobilenet(
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    residual: bool = False,
    activation: str | None = "relu",
    shuffle: str | Shuffle = "interleave",
    shuffle_seed: int = 0,
) -> Block:
    """Channel-wise 3x3, norm, activation, dense 1x1 that makes the width change, norm, activation (section 3.1, figure 3).

    Xception's product (`xception`) with norm and activation between its factors. Strict at any widths: both factors' branch
    widths, 1 and C_in, multiply to C_in. The shuffle options are taken and left aside: next to a dense factor a shuffle says
    nothing.

    Args:
        stride: of the 3x3.
        residual: add a shortcut, with the activation behind the sum; the paper has none.
    """
    spatial = factor(
        in_channels,
        in_channels,
        kernel_size=3,
        groups=in_channels,
        stride=stride,
        norm=True,
        activation=activation,
    )
    steps = (spatial, factor(in_channels, out_channels, norm=True))
    return finish(steps, residual=residual, activation=activation, family="mobilenet")
