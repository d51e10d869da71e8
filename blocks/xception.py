"""Xception's separable convolution, the extreme IGC: one channel a primary branch (Chollet 2017; `igcv2.md` 2.2, L = 1)."""

from __future__ import annotations

from igcsearch.spec import Block, Shuffle

from .definition import definition
from .products import factor, finish


@definition
def xception(
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    residual: bool = False,
    activation: str | None = "relu",
    shuffle: str | Shuffle = "interleave",
    shuffle_seed: int = 0,
) -> Block:
    """Channel-wise 3x3, then a dense 1x1 that makes the width change; batch norm and activation behind the product.

    Strict at any widths. A shuffle next to a dense factor has nothing to say: `shuffle` is taken and left aside, so that all
    definitions take the same options.
    """
    steps = (
        factor(in_channels, in_channels, kernel_size=3, groups=in_channels, stride=stride),
        factor(in_channels, out_channels, norm=True),
    )
    return finish(steps, residual=residual, activation=activation, family="xception")
