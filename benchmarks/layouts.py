"""The networks that `benchmarks.networks` sets against each other, in the layouts of MobileNet V1 and IGCV3.

MobileNet V1 is Howard et al. 2017; IGCV3-D is Sun et al. 2018, as its released code has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from igcsearch.blocks import igcv2, igcv3, network
from igcsearch.errors import UsageError
from igcsearch.spec import Architecture, Block, Factor, Problem, Stage

from .handmade import options

#: Channels and stride of MobileNet V1's blocks, behind a 3x3 stem of stride 2 and 32 channels.
MOBILENET_V1 = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *5 * ((512, 1),), (1024, 2), (1024, 1))
#: Expansion, channels, repeats and stride of IGCV3-D's stages, behind a stem of the same; a 1x1 to 1280 follows.
IGCV3_D = ((1, 16, 1, 1), (6, 24, 4, 2), (6, 32, 6, 2), (6, 64, 8, 2), (6, 96, 6, 1), (6, 160, 6, 2), (6, 320, 1, 1))
#: Widths of IGCV2's stem: all widths behind it are multiples of 16 (of 8 in the narrowest).
STEMS = (*range(8, 32, 4), *range(32, 257, 8))
#: Branch width K_1 of the grouped 3x3, where the width has such a divisor; else the next below.
GROUPED = 16


def mobilenet_v1(problem: Problem, multiplier: float) -> Architecture:
    """Channel-wise 3x3, norm, ReLU, dense 1x1, norm, ReLU, thirteen times."""
    width = stem = round(32 * multiplier)
    blocks = []
    for channels, stride in MOBILENET_V1:
        out = round(channels * multiplier)
        spatial = Factor(width, width, kernel_size=3, groups=width, stride=stride, norm=True, activation="relu")
        blocks.append(Block((spatial, Factor(width, out, norm=True, activation="relu")), family="mobilenet_v1"))
        width = out
    return network(problem, stem, [Stage(tuple(blocks))], stem_stride=2)


def igcv2_network(problem: Problem, stem: int, spatial: int = 1) -> Architecture:
    """MobileNet V1's layout of IGCV2 blocks, all strict: a 3x3 and one or two pointwise factors, norm, ReLU.

    Args:
        spatial: branch width K_1 of the 3x3. 1: channel-wise, and two pointwise factors behind it (L = 3). More: the largest
            divisor of the width up to that, and one pointwise factor (L = 2, the form of IGCV1 and of IGCV2's small networks).

    Raises:
        UsageError: the stem's width leads to one that has no two strict branch widths.
    """
    width, blocks = stem, []
    for channels, stride in MOBILENET_V1:
        out = channels // 32 * stem
        chosen: dict[str, Any] = {}
        if spatial == 1:
            chosen.update(options("igcv2", width, out))
        else:
            k = max(d for d in range(1, spatial + 1) if width % d == 0)
            chosen.update(spatial_branch_width=k, branch_widths=(width // k,))
        blocks.append(igcv2(width, out, stride=stride, **chosen))
        width = out
    return network(problem, stem, [Stage(tuple(blocks))], stem_stride=2)


def igcv3_network(problem: Problem, multiplier: float) -> Architecture:
    """IGCV3-D with its widths multiplied and rounded to multiples of 8; groups (2, 2)."""

    def rounded(channels: int) -> int:
        return max(8, 8 * round(channels * multiplier / 8))

    width = stem = rounded(32)
    stages = []
    for expansion, channels, repeats, stride in IGCV3_D:
        out = rounded(channels)
        first = igcv3(width, out, expansion=expansion, stride=stride)
        others = (igcv3(out, out, expansion=expansion),) * (repeats - 1)
        stages.append(Stage((first, *others)))
        width = out
    return network(problem, stem, stages, stem_stride=2, head_width=1280, activation="relu6")


def igcv2_below(problem: Problem, macs: int) -> tuple[str, Architecture]:
    """Name and architecture of the IGCV2 network that comes nearest to so many multiply-adds from below."""
    stem, found = _below(lambda stem: igcv2_network(problem, stem), STEMS, macs)
    return f"igcv2_x{stem / 32:.3g}", found


def igcv2_grouped_below(problem: Problem, macs: int) -> tuple[str, Architecture]:
    """`igcv2_below` with a grouped 3x3."""
    stem, found = _below(lambda stem: igcv2_network(problem, stem, GROUPED), STEMS, macs)
    return f"igcv2_k{GROUPED}_x{stem / 32:.3g}", found


def igcv3_below(problem: Problem, macs: int) -> tuple[str, Architecture]:
    """`igcv2_below` for IGCV3-D."""
    sixteenth, found = _below(lambda step: igcv3_network(problem, step / 16), range(4, 33), macs)
    return f"igcv3_d_x{sixteenth / 16:.3g}", found


def _below(make: Callable[[int], Architecture], steps: Iterable[int], macs: int) -> tuple[int, Architecture]:
    found: dict[int, Architecture] = {}
    for step in steps:
        try:
            found[step] = make(step)
        except UsageError:
            continue
    fits = [step for step in found if found[step].macs <= macs] or [min(found, key=lambda step: found[step].macs)]
    best = max(fits, key=lambda step: found[step].macs)
    return best, found[best]
