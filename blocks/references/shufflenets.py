"""ShuffleNet V1 (Zhang et al., CVPR 2018, arXiv 1707.01083) and V2 (Ma et al., ECCV 2018, arXiv 1807.11164)."""

from __future__ import annotations

from functools import partial

from igcsearch.errors import UsageError
from igcsearch.spec import Architecture, Problem

from ..assemble import network, stage, stem
from ..shufflenet import shufflenet
from ..shufflenetv2 import shufflenetv2
from .reference import IMAGENET, Reference, millions

REPEATS = (4, 8, 4)
#: Widths of V1's stem and first stage by groups and multiplier (they meet Megvii's figures), and of V2's three stages and its last
#: 1x1 by multiplier (table 5).
V1 = {
    (3, 0.5): (12, 120),
    (3, 1.0): (24, 240),
    (3, 1.5): (24, 360),
    (3, 2.0): (48, 480),
    (8, 0.5): (16, 192),
    (8, 1.0): (24, 384),
}
V2 = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}


def shufflenet_v1(groups: int, multiplier: float = 1.0, problem: Problem = IMAGENET) -> Architecture:
    """3x3 stem of stride 2, max pooling, stages of 4, 8 and 4 units, the width doubling from V1's; pooling, linear.

    Every stage's first unit has stride 2 and puts the pooled input in front of its new channels; the first of all begins with an
    ungrouped 1x1. (Megvii's code views the channels to be shuffled the other way round, `igcv2.md` 1.4; cost and number of paths
    are the same.)

    Raises:
        UsageError: groups and multiplier that V1 does not have.
    """
    if (groups, multiplier) not in V1:
        near = sorted(V1, key=lambda other: (abs(other[0] - groups), abs(other[1] - multiplier)))[:2]
        raise UsageError(
            f"no ShuffleNet V1 of {groups} groups and multiplier {multiplier} is known here; nearest: "
            f"{' and '.join(f'{g} groups with {m}' for g, m in near)}; others can be made with the shufflenet block"
        )
    opening, narrowest = V1[groups, multiplier]
    stages, before = [], opening
    for position, repeats in enumerate(REPEATS):
        width = narrowest * 2**position
        first = {"first_groups": 1} if position == 0 else {}
        stages.append(stage(shufflenet, before, width, repeats, stride=2, groups=groups, transition=first))
        before = width
    return network(problem, stem(problem.in_channels, opening, stride=2, pool=True), stages)


def shufflenet_v2(multiplier: float, problem: Problem = IMAGENET) -> Architecture:
    """3x3 stem of stride 2 to 24, max pooling, stages of 4, 8 and 4 units, 1x1, pooling, linear: torchvision's networks.

    Raises:
        UsageError: a multiplier that V2 does not have.
    """
    if multiplier not in V2:
        near = sorted(V2, key=lambda other: abs(other - multiplier))[:2]
        raise UsageError(
            f"no ShuffleNet V2 of multiplier {multiplier} is known here; nearest: {', '.join(map(str, near))}; others can be made "
            "with the shufflenetv2 block"
        )
    *widths, last = V2[multiplier]
    stages, before = [], 24
    for width, repeats in zip(widths, REPEATS, strict=True):
        stages.append(stage(shufflenetv2, before, width, repeats, stride=2))
        before = width
    return network(problem, stem(problem.in_channels, 24, stride=2, pool=True), stages, head_width=last)


_CLASSIFIER = "our classifier has a bias, 1,000 parameters, which the published counts seem to leave out"

ROWS = [
    *(
        Reference(
            name=f"shufflenetv1_g{groups}_{round(100 * multiplier):03}",
            table="shufflenet",
            build=partial(shufflenet_v1, groups, multiplier),
            published_params=millions(params),
            published_macs=None if macs is None else millions(macs),
            note=_CLASSIFIER + note,
            source="megvii-model/ShuffleNet-Series (fact sheet 5)",
            published_accuracy=accuracy,
            params_unit=100_000,
            macs_unit=1_000_000,
        )
        for groups, multiplier, params, macs, accuracy, note in (
            (3, 0.5, 0.7, 38, 0.573, ""),
            (
                3,
                1.0,
                1.9,
                138,
                0.678,
                "; 0.4 % more multiply-adds published, what they count is not said (the paper: 140 M)",
            ),
            (3, 1.5, 3.4, 292, 0.716, ""),
            (3, 2.0, 5.4, 524, 0.741, ", 5,449,776 without it"),
            (8, 0.5, 1.0, 40, 0.588, ""),
            (8, 1.0, 2.4, None, 0.680, "; the fact sheet has no multiply-adds of its own for it"),
        )
    ),
    *(
        Reference(
            name=f"shufflenetv2_{round(100 * multiplier):03}",
            table="shufflenet",
            build=partial(shufflenet_v2, multiplier),
            published_params=params,
            published_macs=millions(macs),
            note="torchvision's network parameter by parameter",
            source=f"torchvision, metadata of ShuffleNet_V2_X{str(multiplier).replace('.', '_')}_Weights.IMAGENET1K_V1",
            published_accuracy=accuracy,
            macs_unit=1_000_000,
        )
        for multiplier, params, macs, accuracy in (
            (0.5, 1_366_792, 40, 0.60552),
            (1.0, 2_278_604, 145, 0.69362),
            (1.5, 3_503_624, 296, 0.72996),
            (2.0, 7_393_996, 583, 0.7623),
        )
    ),
]
