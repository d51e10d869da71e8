"""IGCV3-D (Sun et al., BMVC 2018, arXiv 1806.00178), twice as deep as MobileNet V2 (`igcv2.md` 4.2)."""

from __future__ import annotations

from functools import partial

from igcsearch.errors import UsageError
from igcsearch.spec import Architecture, Problem
from igcsearch.spec.numbers import nearest

from ..assemble import network, stage
from ..igcv3 import igcv3
from .reference import CIFAR10, CIFAR100, IMAGENET, Reference, millions

#: (expansion t, channels c, blocks n, stride s) of each stage.
SETTING = (
    (1, 16, 1, 1),
    (6, 24, 4, 2),
    (6, 32, 6, 2),
    (6, 64, 8, 2),
    (6, 96, 6, 1),
    (6, 160, 6, 2),
    (6, 320, 1, 1),
)
_SMALL_IMAGES = (32, 64)  # widths whose stages have stride 2 on small images; all others, the stem too, have 1


def igcv3_d(
    problem: Problem = IMAGENET, multiplier: float = 1.0, *, small_images: bool = False, divisor: int = 1
) -> Architecture:
    """Stem to 32, the stages of SETTING, 1x1 to 1280 with batch norm and ReLU6, pooling, linear.

    Args:
        multiplier: of all widths, rounded down; 1280 stays for multipliers up to 1.
        small_images: strides of the CIFAR networks, by which 32x32 images end at 8x8.
        divisor: widths are rounded to a multiple of it, and are at least it; 1: rounded down, as published.

    Raises:
        UsageError: a multiplier that makes a width odd, with the nearest, in hundredths, that do not.
    """

    def at(channels: int, multiplier: float = multiplier) -> int:
        scaled = channels * multiplier
        return int(scaled) if divisor == 1 else max(divisor, divisor * round(scaled / divisor))

    def works(multiplier: float) -> bool:
        widths = [at(channels, multiplier) for channels in (32, *(row[1] for row in SETTING))]
        return all(width >= 2 and width % 2 == 0 for width in widths)

    if not works(multiplier):
        found = nearest(round(100 * multiplier), lambda hundredths: works(hundredths / 100))
        raise UsageError(
            f"IGCV3-D at multiplier {multiplier} has widths that its 2 groups do not divide; nearest multipliers: "
            f"{', '.join(f'{int(hundredths) / 100}' for hundredths in found.split(', '))}"
        )
    width = at(32)
    stages, before = [], width
    for expansion, channels, repeats, stride in SETTING:
        out = at(channels)
        stride = (2 if channels in _SMALL_IMAGES else 1) if small_images else stride
        stages.append(stage(igcv3, before, out, repeats, stride=stride, expansion=expansion))
        before = out
    return network(
        problem,
        width,
        stages,
        stem_stride=1 if small_images else 2,
        head_width=max(1280, int(1280 * multiplier)),
        activation="relu6",
    )


_PAPER = "arXiv 1806.00178, table 3; parameters by osmr/imgclsmob (fact sheet 3.3, 4.2, 6)"
_OTHERS = "osmr/imgclsmob (fact sheet 3.3)"
_THEIR_COUNT = (
    "imgclsmob's count of operations holds more than multiply-adds (340.79 M at multiplier 1, the paper 318 M)"
)
_IMAGENET = (
    (
        1.0,
        3_491_688,
        318.0,
        1_000_000,
        0.722,
        _PAPER,
        "the paper says 3.5 M, imgclsmob counts the digits; the paper's count of multiply-adds is 1.6 % above ours",
    ),
    (0.75, 2_638_084, 210.95, 10_000, 0.693, _OTHERS, _THEIR_COUNT),
    (0.5, 1_985_528, 111.12, 10_000, 0.606, _OTHERS, _THEIR_COUNT),
    (0.25, 1_534_020, 41.29, 10_000, 0.466, _OTHERS, _THEIR_COUNT),
)

ROWS = [
    *(
        Reference(
            name=f"igcv3_d_{round(100 * multiplier):03}",
            table="igcv3-imagenet",
            build=partial(igcv3_d, IMAGENET, multiplier),
            published_params=params,
            published_macs=millions(macs),
            note=note,
            source=source,
            published_accuracy=accuracy,
            macs_unit=unit,
        )
        for multiplier, params, macs, unit, accuracy, source, note in _IMAGENET
    ),
    *(
        Reference(
            name=f"igcv3_d_{data}",
            table="igcv3-cifar",
            build=partial(igcv3_d, problem, small_images=True),
            published_params=millions(params),
            published_macs=millions(166),
            note="strides as the authors told cvtower; the paper gives 2.2 M without the classifier",
            source="arXiv 1806.00178, table 1; cvtower/SeesawNet_pytorch (fact sheet 3.2, 3.3, 4.2)",
            published_accuracy=accuracy,
            data=data,
            params_unit=100_000,
            macs_unit=1_000_000,
        )
        for data, problem, params, accuracy in (("cifar10", CIFAR10, 2.2, 0.9496), ("cifar100", CIFAR100, 2.3, 0.7795))
    ),
]
