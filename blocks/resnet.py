"""ResNet's basic block and bottleneck (He et al. 2016, arXiv 1512.03385), pre-activation and squeeze-excitation included.

Pre-activation: He et al. 2016, arXiv 1603.05027. Squeeze-excitation: Hu et al. 2018, arXiv 1709.01507.
"""

from __future__ import annotations

from igcsearch.errors import UsageError
from igcsearch.spec import Block, Factor, NormAct, Shuffle, SqueezeExcitation, Step
from igcsearch.spec.numbers import nearest

from .definition import definition
from .products import factor, finish


@definition
def resnet_basic(
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    residual: bool = True,
    activation: str | None = "relu",
    preactivation: bool = False,
    squeeze: int | None = None,
    shuffle: str | Shuffle = "interleave",
    shuffle_seed: int = 0,
) -> Block:
    """Two dense 3x3 with norm, activation between them and behind the sum (1512.03385, figure 5 left).

    Loose: out_channels paths a pair, through the middle. The shuffle options are taken and left aside: everything is dense.

    Args:
        stride: of the first 3x3.
        residual: a shortcut: the identity where the shape stays, else a dense 1x1 with norm (option B).
        preactivation: norm and activation in front of each 3x3 and none behind the sum (1603.05027, figure 1b); the projection
            reads the block's input as it is, and has no norm. Behind the last such block of a network they are still to come:
            `network(..., head_steps=(NormAct(width, norm=True, activation="relu"),))`.
        squeeze: a squeeze-excitation to out_channels / squeeze in front of the sum; None: none.

    Raises:
        UsageError: a squeeze that leaves less than one channel.
    """
    kernels = (
        factor(in_channels, out_channels, kernel_size=3, stride=stride, norm=True, activation=activation),
        factor(out_channels, out_channels, kernel_size=3, norm=not preactivation),
    )
    return residual_block(kernels, residual, activation, preactivation, squeeze, "resnet_basic")


@definition
def resnet_bottleneck(
    in_channels: int,
    out_channels: int,
    *,
    reduction: int = 4,
    stride: int = 1,
    residual: bool = True,
    activation: str | None = "relu",
    preactivation: bool = False,
    squeeze: int | None = None,
    shuffle: str | Shuffle = "interleave",
    shuffle_seed: int = 0,
) -> Block:
    """Dense 1x1 to out_channels / reduction, dense 3x3, dense 1x1 back (1512.03385, figure 5 right).

    Norm behind each, activation behind the first two and behind the sum. The stride is the 3x3's, as in torchvision's networks (in
    the paper the first 1x1's). Loose; the shuffle options are taken and left aside.

    Args:
        reduction: out_channels over the width of the middle, which it divides.
        stride, residual, preactivation, squeeze: as `resnet_basic`.

    Raises:
        UsageError: a reduction that does not divide out_channels, or a squeeze that leaves less than one channel.
    """
    kernels = bottleneck(
        in_channels, out_channels, reduction, 1, stride, activation, preactivation, "resnet_bottleneck"
    )
    return residual_block(kernels, residual, activation, preactivation, squeeze, "resnet_bottleneck")


def bottleneck(
    in_channels: int,
    out_channels: int,
    reduction: int,
    groups: int,
    stride: int,
    activation: str | None,
    preactivation: bool,
    family: str,
) -> tuple[Factor, ...]:
    """1x1, 3x3 of `groups`, 1x1 over a middle of out_channels / reduction; the last has a norm unless `preactivation`.

    Raises:
        UsageError: a reduction or groups that do not divide.
    """

    def fits(width: int, count: int) -> bool:
        return reduction >= 1 and width % reduction == 0 and count >= 1 and width // reduction % count == 0

    if not fits(out_channels, groups):
        good = [g for g in range(1, out_channels + 1) if fits(out_channels, g)]
        counts = f"; groups at this width: {', '.join(map(str, good)) or 'none'}" if groups > 1 else ""
        widths = nearest(
            out_channels, lambda width: fits(width, groups), reach=out_channels + abs(reduction * groups) + 1
        )
        raise UsageError(
            f"{family} cannot make {out_channels} channels over a middle of 1/{reduction} in {groups} groups: the reduction "
            f"must divide the width and the groups the middle; nearest widths: {widths}{counts}"
        )
    middle = out_channels // reduction
    return (
        factor(in_channels, middle, norm=True, activation=activation),
        factor(
            middle,
            middle,
            kernel_size=3,
            groups=groups,
            stride=stride,
            norm=True,
            activation=activation,
            shuffle=Shuffle("identity") if groups > 1 else Shuffle(),
        ),
        factor(middle, out_channels, norm=not preactivation),
    )


def residual_block(
    kernels: tuple[Factor, ...],
    residual: bool,
    activation: str | None,
    preactivation: bool,
    squeeze: int | None,
    family: str,
) -> Block:
    """The block of a residual product: what stands before and behind its kernels, and its shortcut, dense where it projects.

    Raises:
        UsageError: a squeeze that leaves less than one channel.
    """
    width = kernels[-1].out_channels
    steps: tuple[Step, ...] = kernels
    if preactivation:
        steps = (NormAct(kernels[0].in_channels, norm=True, activation=activation), *steps)
    if squeeze is not None:
        if not 1 <= squeeze <= width:
            raise UsageError(
                f"{family} with squeeze {squeeze} on {width} channels: it must leave at least one; use a number from 1 to {width}"
            )
        steps = (*steps, SqueezeExcitation(width, width // squeeze))
    return finish(
        steps,
        residual=residual,
        activation=None if preactivation else activation,
        family=family,
        shortcut_groups=1,
        shortcut_norm=not preactivation,
    )
