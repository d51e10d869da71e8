"""ResNeXt's bottleneck with a grouped 3x3 (Xie et al., CVPR 2017, arXiv 1611.05431)."""

from __future__ import annotations

from igcsearch.spec import Block, Shuffle

from .definition import definition
from .resnet import bottleneck, residual_block


@definition
def resnext(
    in_channels: int,
    out_channels: int,
    *,
    groups: int = 32,
    reduction: int = 2,
    stride: int = 1,
    residual: bool = True,
    activation: str | None = "relu",
    preactivation: bool = False,
    squeeze: int | None = None,
    shuffle: str | Shuffle = "interleave",
    shuffle_seed: int = 0,
) -> Block:
    """Dense 1x1 to out_channels / reduction, 3x3 of `groups` branches, dense 1x1 back (section 3.3, figure 3c; 32x4d: table 1).

    As `resnet_bottleneck` otherwise. Loose: width of the middle times branch width of the 3x3 paths a pair. No shuffle: the 1x1 on
    both sides of the 3x3 are dense and absorb any.

    Args:
        groups: the paper's cardinality; divides out_channels / reduction.

    Raises:
        UsageError: groups or a reduction that do not divide, or a squeeze that leaves less than one channel.
    """
    kernels = bottleneck(in_channels, out_channels, reduction, groups, stride, activation, preactivation, "resnext")
    return residual_block(kernels, residual, activation, preactivation, squeeze, "resnext")
