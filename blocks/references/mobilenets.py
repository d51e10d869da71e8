"""MobileNet V1 (Howard et al. 2017, arXiv 1704.04861) and V2 (Sandler et al., CVPR 2018, arXiv 1801.04381)."""

from __future__ import annotations

from functools import partial

from igcsearch.spec import Architecture, Problem

from ..assemble import network, stage
from ..mobilenet import mobilenet
from ..mobilenetv2 import mobilenetv2
from .reference import IMAGENET, Reference, millions

#: (channels, blocks, stride) of each stage of V1 (table 1), and (expansion, channels, blocks, stride) of V2 (table 2).
V1 = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))
V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v1(multiplier: float = 1.0, problem: Problem = IMAGENET) -> Architecture:
    """3x3 stem of stride 2 to 32, the stages of V1, pooling, linear; all widths times the multiplier, rounded down."""
    width = int(32 * multiplier)
    stages, before = [], width
    for channels, repeats, stride in V1:
        out = int(channels * multiplier)
        stages.append(stage(mobilenet, before, out, repeats, stride=stride))
        before = out
    return network(problem, width, stages, stem_stride=2)


def mobilenet_v2(problem: Problem = IMAGENET) -> Architecture:
    """3x3 stem of stride 2 to 32, the stages of V2, 1x1 to 1280, pooling, dropout, linear: torchvision's `mobilenet_v2`."""
    stages, before = [], 32
    for expansion, channels, repeats, stride in V2:
        stages.append(stage(mobilenetv2, before, channels, repeats, stride=stride, expansion=expansion))
        before = channels
    return network(problem, 32, stages, stem_stride=2, head_width=1280, activation="relu6", dropout=0.2)


ROWS = [
    *(
        Reference(
            name=f"mobilenetv1_{round(100 * multiplier):03}",
            table="mobilenet",
            build=partial(mobilenet_v1, multiplier),
            published_params=millions(params),
            published_macs=millions(macs),
            note="ours are 4,231,976, 1,331,592 and 470,072 parameters (fact sheet 6); the paper prints 4.2, 1.3, 0.5 M",
            source="arXiv 1704.04861; multiply-adds and accuracy: ShuffleNet V2, arXiv 1807.11164, table 8 (fact sheet 3.3, 6)",
            published_accuracy=accuracy,
            params_unit=100_000,
            macs_unit=1_000_000,
        )
        for multiplier, params, macs, accuracy in (
            (1.0, 4.2, 569, 0.706),
            (0.5, 1.3, 149, 0.637),
            (0.25, 0.5, 41, 0.506),
        )
    ),
    Reference(
        name="mobilenetv2_100",
        table="mobilenet",
        build=mobilenet_v2,
        published_params=3_504_872,
        published_macs=301_000_000,
        note="torchvision's mobilenet_v2 parameter by parameter; the paper says 3.4 M and 300 M, 0.720",
        source="torchvision, metadata of MobileNet_V2_Weights.IMAGENET1K_V1 (paper's figures: fact sheet 3.3)",
        published_accuracy=0.71878,
        macs_unit=1_000_000,
    ),
]
