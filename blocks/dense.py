"""The dense baseline: an ordinary 3x3 convolution, the product of one factor with one branch."""

from __future__ import annotations

from igcsearch.spec import Block, Shuffle

from .definition import definition
from .products import factor, finish


@definition
def dense(
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    residual: bool = False,
    activation: str | None = "relu",
    shuffle: str | Shuffle = "interleave",
    shuffle_seed: int = 0,
) -> Block:
    """3x3 convolution, batch norm, activation; strict, and balanced by definition. The shuffle options are left aside."""
    step = factor(in_channels, out_channels, kernel_size=3, stride=stride, norm=True)
    return finish((step,), residual=residual, activation=activation, family="dense")
