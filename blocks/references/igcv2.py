"""IGCV2's networks (Xie et al., CVPR 2018, arXiv 1804.06202), as far as their layouts are known or can be made to meet the figures.

No code was released (`igcv2.md` 2): what is not derived from a figure or table is said in the rows' notes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import cast

from igcsearch.errors import UsageError
from igcsearch.spec import Architecture, Block, Factor, Parallel, Problem, Stage
from igcsearch.spec.numbers import whole

from ..assemble import network, stage
from ..igcv2 import igcv2, igcv2_grouped
from ..products import unit
from .reference import CIFAR10, CIFAR100, IMAGENET, Reference, blocks_a_stage, millions

#: Figure 3: of L pointwise factors the branch width K, width C of the first stage, weights Q of one of its blocks, accuracy.
FIGURE_3 = {
    1: (64, 64, 4672, 0.628),
    2: (12, 144, 4752, 0.6505),
    3: (6, 174, 4698, 0.653),
    4: (4, 184, 4600, 0.651),
    5: (3, 192, 4608, 0.643),
    8: (2, 186, 4650, 0.603),
}
#: Of the ImageNet networks: width, blocks and group counts of the two pointwise factors at the five resolutions; the groups are the
#: same at every width multiplier. Found by benchmarks/igcv2_layouts.py, which says how.
LAYOUT = ((64, 2, (4, 2)), (128, 4, (4, 4)), (256, 5, (8, 4)), (512, 12, (8, 8)), (1024, 10, (16, 8)))


def figure_3(
    pointwise: int,
    problem: Problem = CIFAR100,
    blocks: int = 2,
    *,
    complementary: bool = True,
    residual: bool = False,
) -> Architecture:
    """A network of figure 3: a channel-wise 3x3 and L pointwise factors of branch width K on C channels, at equal weights.

    3x3 stem to C; three stages of widths C, 2C, 4C and maps 1, 1/2, 1/4. First-stage blocks are of equal size within 4 %. What K
    is in the later stages is not known. As the caption asks for nearly complementary branch widths: for each doubling of the width
    the branch width of one factor doubles, the last one's first, so that paths a pair stay what they are in the first stage (in
    IGCV1's code M doubles likewise), and the first block of a stage has the branch widths of the stage before. Whole networks of
    depth 8 are then of equal size within 9 % with CIFAR-100's classes, but not with few (10: 144,202 for L = 1 to 85,012 for 8).

    Args:
        pointwise: L as the figure counts it, without the 3x3: 1, 2, 3, 4, 5 or 8.
        blocks: a stage; the network's depth is 2 + 3 * blocks.
        complementary: False keeps K throughout, so that blocks are of equal size within 4 % in every stage (and whole networks with
            10 classes within 13 %); those of the later stages join a half and a quarter of the pairs of channels. The published
            size of IGCV2*-C416 comes about so (table 7, `star`).
        residual: add a shortcut around every block.

    Raises:
        UsageError: an L that the figure does not have, or no blocks.
    """
    if pointwise not in FIGURE_3:
        near = sorted(FIGURE_3, key=lambda other: abs(other - pointwise))[:2]
        raise UsageError(
            f"IGCV2's figure 3 has no network of {pointwise} pointwise factors; nearest: {', '.join(map(str, near))}; others can "
            "be made with igcv2 and branch widths"
        )
    if whole(blocks, "blocks") < 1:
        raise UsageError(f"blocks = {blocks} a stage must be at least 1, for a depth of 5")
    branch_width, width, _, _ = FIGURE_3[pointwise]
    widths = (branch_width,) * pointwise
    stages = [stage(igcv2, width, width, blocks, branch_widths=widths, residual=residual)]
    for position in (1, 2):
        before, factor = widths, pointwise - 1 - (position - 1) % pointwise
        if complementary:
            widths = (*before[:factor], 2 * before[factor], *before[factor + 1 :])
        stages.append(
            stage(
                igcv2,
                width * 2 ** (position - 1),
                width * 2**position,
                blocks,
                stride=2,
                branch_widths=widths,
                transition={"branch_widths": before},
                residual=residual,
            )
        )
    return network(problem, width, stages)


def star(
    problem: Problem = CIFAR10,
    *,
    width: int = 416,
    branch_width: int = 8,
    depth: int = 20,
    shared: bool = False,
    projected: bool = False,
    old_width: bool = False,
) -> Architecture:
    """IGCV2*: channel-wise 3x3 and n pointwise factors of one branch width K, n = ceil(log_K x) (the paper's L less one).

    3x3 stem to the width, three stages of (depth - 2) / 3 blocks, widths x, 2x, 4x, maps 1, 1/2, 1/4; batch norm and ReLU behind
    each product. The identity around every two blocks, as in IGCV1's code, the ReLU of the second behind the sum (`igcv2.md` 2.1);
    nothing around two that change the shape.

    Args:
        depth: 2 + 6 * units of two blocks a stage.
        shared: take n once, from the first width, for all stages (the later ones are not dense then), not from each stage's width.
        projected: also a channel-wise 1x1 projection with norm around the first two blocks of the second and third stage.
        old_width: the first block there works at the width of the stage before, and every channel it writes is doubled, without
            weights; nothing is around the two.

    Raises:
        UsageError: another depth (names the nearest), projected and old_width together, or widths that K does not divide.
    """

    def count(channels: int) -> int:
        factors = 0
        while branch_width**factors < channels:
            factors += 1
        return factors

    def block(in_channels: int, out_channels: int, factors: int, stride: int = 1) -> Block:
        return igcv2(in_channels, out_channels, branch_widths=(branch_width,) * factors, stride=stride, activation=None)

    def two(first: Block, second: Block) -> Block:
        keeps_shape = first.stride == 1 and first.in_channels == second.out_channels
        first = replace(first, activation="relu")
        return unit(first, second, residual=keeps_shape or projected, activation="relu")

    if projected and old_width:
        raise UsageError(
            "a star network has projections or transition blocks of the old width, not both; leave one out"
        )
    repeats = blocks_a_stage(depth, 2)
    inside = block(width, width, count(width))
    stages = [Stage((two(inside, inside),) * repeats)]
    for before in (width, 2 * width):
        out = 2 * before
        inside = block(out, out, count(width if shared else out))
        if old_width:
            first = block(before, before, count(before), stride=2)
            doubled = Parallel(((), ()), before)
            narrow = (*first.steps[:-1], replace(cast(Factor, first.steps[-1]), activation="relu"))
            opening = Block((*narrow, doubled, *inside.steps), activation="relu", family=inside.family)
        else:
            opening = two(block(before, out, count(width if shared else out), stride=2), inside)
        stages.append(Stage((opening, *(two(inside, inside),) * (repeats - 1))))
    return network(problem, width, stages)


def imagenet(multiplier: float, problem: Problem = IMAGENET) -> Architecture:
    """A reconstruction of the MobileNet-like networks: V1's stem, widths and strides, blocks and group counts by `LAYOUT`.

    Each block: channel-wise 3x3, two interleaved pointwise factors of fixed group counts, batch norm, ReLU; no shortcuts. At
    multiplier 0.25 every pair of channels has two paths, at 1 eight.
    """
    before = int(32 * multiplier)
    stages = []
    for position, (width, repeats, groups) in enumerate(LAYOUT):
        out = int(width * multiplier)
        stages.append(stage(igcv2_grouped, before, out, repeats, stride=1 if position == 0 else 2, groups=groups))
        before = out
    return network(problem, int(32 * multiplier), stages, stem_stride=2)


def _figure() -> list[Reference]:
    return [
        Reference(
            name=f"igcv2_fig3_l{pointwise}",
            table="igcv2-figure3",
            build=partial(figure_3, pointwise),
            published_params=None,
            published_macs=None,
            note="weights and accuracy read off the plot; depth 8, no shortcuts and the later stages' branch widths are assumed",
            source="arXiv 1804.06202, figure 3 (fact sheet 2.2)",
            published_accuracy=accuracy,
            data="cifar100",
            published_block=weights,
            reconstruction=True,
        )
        for pointwise, (_, _, weights, accuracy) in FIGURE_3.items()
    ]


def _star() -> list[Reference]:
    readings = (
        ("", star, "L from each stage's width: dense everywhere, but not 0.65 M"),
        ("_proj", partial(star, projected=True), "L from each stage's width, projections at the transitions"),
        (
            "_shared",
            partial(star, shared=True),
            "L from the first width for all stages, of which the later are not dense",
        ),
        (
            "_shared_proj",
            partial(star, shared=True, projected=True),
            "L from the first width for all stages, of which the later are not dense; projections at the transitions",
        ),
        (
            "_old_width",
            partial(star, old_width=True),
            "L from each stage's width, transition blocks at the old one: 653,120 without batch norm and classifier",
        ),
    )
    return [
        Reference(
            name=f"igcv2_star_c416{suffix}",
            table="igcv2-table7",
            build=build,
            published_params=millions(0.65),
            published_macs=None,
            note=f"one of five readings: {text}; CIFAR-100 0.7705, Tiny ImageNet 0.6119",
            source="arXiv 1804.06202, table 7 (fact sheet 2.1, 3.1)",
            published_accuracy=0.9451,
            data="cifar10",
            params_unit=10_000,
            reconstruction=True,
        )
        for suffix, build, text in readings
    ]


def _imagenet() -> list[Reference]:
    return [
        Reference(
            name=f"igcv2_{round(100 * multiplier):03}",
            table="igcv2-imagenet",
            build=partial(imagenet, multiplier),
            published_params=None,
            published_macs=millions(macs),
            note="reconstruction: the layer list is lost; found by benchmarks/igcv2_layouts.py to meet the multiply-adds",
            source="ShuffleNet V2, arXiv 1807.11164, table 8 (fact sheet 2.3, 3.3)",
            published_accuracy=accuracy,
            macs_unit=1_000_000,
            reconstruction=True,
        )
        for multiplier, macs, accuracy in ((1.0, 564, 0.707), (0.5, 156, 0.655), (0.25, 46, 0.549))
    ]


ROWS = [*_figure(), *_star(), *_imagenet()]
