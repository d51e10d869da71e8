"""ResNet (He et al. 2016, arXiv 1512.03385) and ResNeXt (Xie et al., CVPR 2017, arXiv 1611.05431)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from igcsearch.spec import Architecture, Block, Problem

from ..assemble import network, stage, stem
from ..resnet import resnet_basic, resnet_bottleneck
from ..resnext import resnext
from .reference import CIFAR10, IMAGENET, Reference, blocks_a_stage, millions


def imagenet(
    definition: Callable[..., Block], width: int, repeats: tuple[int, ...], problem: Problem = IMAGENET
) -> Architecture:
    """7x7 stem of stride 2 to 64, max pooling, four stages of widths `width` times 1, 2, 4, 8, pooling, linear (table 1)."""
    stages, before = [], 64
    for position, count in enumerate(repeats):
        out = width * 2**position
        stages.append(stage(definition, before, out, count, stride=1 if position == 0 else 2))
        before = out
    return network(problem, stem(problem.in_channels, 64, stride=2, kernel_size=7, pool=True), stages)


def cifar(depth: int, problem: Problem = CIFAR10) -> Architecture:
    """3x3 stem to 16, three stages of (depth - 2) / 6 basic blocks, widths 16, 32, 64, maps 1, 1/2, 1/4 (section 4.2).

    Raises:
        UsageError: a depth that is not 2 + 6 * blocks, with the nearest that are.
    """
    repeats = blocks_a_stage(depth, 2)
    stages, before = [], 16
    for position, width in enumerate((16, 32, 64)):
        stages.append(stage(resnet_basic, before, width, repeats, stride=1 if position == 0 else 2))
        before = width
    return network(problem, 16, stages)


_NETWORKS = (
    ("resnet18", resnet_basic, 64, (2, 2, 2, 2), 11_689_512, 1814, 0.69758, "ResNet18"),
    ("resnet34", resnet_basic, 64, (3, 4, 6, 3), 21_797_672, 3664, 0.73314, "ResNet34"),
    ("resnet50", resnet_bottleneck, 256, (3, 4, 6, 3), 25_557_032, 4089, 0.7613, "ResNet50"),
    ("resnext50_32x4d", resnext, 256, (3, 4, 6, 3), 25_028_904, 4230, 0.77618, "ResNeXt50_32X4D"),
)

ROWS = [
    *(
        Reference(
            name=name,
            table="resnet",
            build=partial(imagenet, definition, width, repeats),
            published_params=params,
            published_macs=millions(macs),
            note="torchvision's network parameter by parameter",
            source=f"torchvision, metadata of {weights}_Weights.IMAGENET1K_V1",
            published_accuracy=accuracy,
            macs_unit=1_000_000,
        )
        for name, definition, width, repeats, params, macs, accuracy, weights in _NETWORKS
    ),
    *(
        Reference(
            name=f"resnet{depth}_cifar10",
            table="resnet",
            build=partial(cifar, depth),
            published_params=None,
            published_macs=None,
            note="no figures in our sources; projections where the shape changes (option B), the paper pads with zeros there",
            source="arXiv 1512.03385, section 4.2 and table 6",
            data="cifar10",
        )
        for depth in (20, 56)
    ),
]
