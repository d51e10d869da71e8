"""The networks that `benchmarks.networks` sets against each other, in the layouts of MobileNet V1 and IGCV3.

MobileNet V1 is Howard et al. 2017; IGCV3-D is Sun et al. 2018, as its released code has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from igcsearch.blocks import igcv2, network
from igcsearch.blocks.references.igcv3 import igcv3_d
from igcsearch.blocks.references.mobilenets import V1
from igcsearch.errors import UsageError
from igcsearch.spec import Architecture, Problem, Stage

from .handmade import options

#: Channels and stride of MobileNet V1's blocks, behind a 3x3 stem of stride 2 and 32 channels.
MOBILENET_V1 = tuple((channels, 1 if b else stride) for channels, repeats, stride in V1 for b in range(repeats))
#: Widths of IGCV2's stem: all widths behind it are multiples of 16 (of 8 in the narrowest).
STEMS = (*range(8, 32, 4), *range(32, 257, 8))
#: Branch width K_1 of the grouped 3x3, where the width has such a divisor; else the next below.
GROUPED = 16


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


def igcv2_below(problem: Problem, macs: int) -> tuple[str, Architecture]:
    """Name and architecture of the IGCV2 network that comes nearest to so many multiply-adds from below."""
    stem, found = _below(lambda stem: igcv2_network(problem, stem), STEMS, macs)
    return f"igcv2_x{stem / 32:.3g}", found


def igcv2_grouped_below(problem: Problem, macs: int) -> tuple[str, Architecture]:
    """`igcv2_below` with a grouped 3x3."""
    stem, found = _below(lambda stem: igcv2_network(problem, stem, GROUPED), STEMS, macs)
    return f"igcv2_k{GROUPED}_x{stem / 32:.3g}", found


def igcv3_below(problem: Problem, macs: int) -> tuple[str, Architecture]:
    """`igcv2_below` for IGCV3-D, its widths rounded to multiples of 8."""
    sixteenth, found = _below(lambda step: igcv3_d(problem, step / 16, divisor=8), range(4, 33), macs)
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
