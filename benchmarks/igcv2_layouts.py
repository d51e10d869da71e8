"""How the layout of IGCV2's ImageNet networks was reconstructed: their layer list is lost, their multiply-adds are known.

    python -m benchmarks.igcv2_layouts [--json FILE]

Known: 564, 156 and 46 million multiply-adds at width multipliers 1, 0.5 and 0.25, "based on MobileNet V1, no shortcuts", and that
the three fit 504 a^2 + 60 a: pointwise cost goes with the square of the multiplier, so group counts are fixed (`igcv2.md` 2.3).

Asked: how often MobileNet V1's five resolutions repeat. Everything else is fixed beforehand:

- stem, widths (64 to 1024) and strides are MobileNet V1's; a block is `igcv2_grouped`: channel-wise 3x3, then two interleaved 1x1
  factors, the first of which makes the width change;
- group counts are powers of two as equal as possible, their product C / (4 m) at width C: then every pair has 4 m paths at
  multiplier 1 and m at 0.25, where m = 1 would be strict; m is 1, 2, 4 or 8, the same everywhere;
- at most 6, 8, 12, 30 and 12 blocks at the five resolutions.

Kept: layouts whose multiply-adds round to the published millions at all three multipliers. Beside that the parameters are to round
to 4.1, 1.3 and 0.5 million, which are unverified. Of what is left the first is the one whose shares of blocks are nearest to
MobileNet V1's (1, 2, 2, 6, 2 of 13), by the sum of absolute differences. It is a reconstruction: other layouts meet the same
figures.
"""

from __future__ import annotations

import argparse
import itertools
import math
from typing import NamedTuple

import numpy as np

from igcsearch.blocks import igcv2_grouped, stem
from igcsearch.spec import Block

from .facts import check_output, save

WIDTHS = (64, 128, 256, 512, 1024)
SIDES = (112, 56, 28, 14, 7)
MOST = (6, 8, 12, 30, 12)
MOBILENET = (1, 2, 2, 6, 2)
MACS = {1.0: 564, 0.5: 156, 0.25: 46}  # millions, published
PARAMS = {1.0: 4.1, 0.5: 1.3, 0.25: 0.5}  # millions, unverified


class Layout(NamedTuple):
    """Blocks at each resolution, the group counts, and the cost at each multiplier (parameters, multiply-adds)."""

    repeats: tuple[int, ...]
    groups: tuple[tuple[int, int], ...]
    costs: dict[float, tuple[int, int]]
    distance: float

    @property
    def has_the_params(self) -> bool:
        """True if the parameters round to the unverified ones."""
        return all(round(self.costs[a][0] / 1e6, 1) == millions for a, millions in PARAMS.items())


def group_counts(width: int, slack: int) -> tuple[int, int]:
    """Two powers of two, as equal as possible, whose product is width / (4 * slack)."""
    exponent = int(math.log2(width // (4 * slack)))
    return 2 ** (exponent - exponent // 2), 2 ** (exponent // 2)


def layouts() -> list[Layout]:
    """Every layout that meets the multiply-adds: first those that have the parameters too, then by distance from MobileNet V1."""
    found: list[Layout] = []
    grid = np.array(list(itertools.product(*(range(1, most + 1) for most in MOST))))
    for slack in (1, 2, 4, 8):
        groups = tuple(group_counts(width, slack) for width in WIDTHS)
        costs = {a: _costs(a, groups, grid) for a in MACS}
        meets = np.all([np.round(costs[a][:, 1] / 1e6) == MACS[a] for a in MACS], axis=0)
        for row in np.flatnonzero(meets):
            repeats = tuple(int(n) for n in grid[row])
            shares = [n / sum(repeats) - m / sum(MOBILENET) for n, m in zip(repeats, MOBILENET, strict=True)]
            cost = {a: (int(costs[a][row, 0]), int(costs[a][row, 1])) for a in MACS}
            found.append(Layout(repeats, groups, cost, sum(map(abs, shares))))
    return sorted(found, key=lambda layout: (not layout.has_the_params, layout.distance))


def _costs(multiplier: float, groups: tuple[tuple[int, int], ...], grid: np.ndarray) -> np.ndarray:
    """(parameters, multiply-adds) of each row of repeats: linear in them."""
    before = int(32 * multiplier)
    features = int(WIDTHS[-1] * multiplier)
    opening = stem(3, before, stride=2).cost_at(224)[0]
    total = np.array([opening.params + 1000 * (features + 1), opening.macs + 1000 * features])
    costs = np.tile(total, (len(grid), 1))
    for column, (width, side, counts) in enumerate(zip(WIDTHS, SIDES, groups, strict=True)):
        out = int(width * multiplier)
        costs += _cost(igcv2_grouped(before, out, groups=counts), side)
        costs += (grid[:, column, None] - 1) * _cost(igcv2_grouped(out, out, groups=counts), side)
        before = out
    return costs


def _cost(block: Block, side: int) -> np.ndarray:
    return np.array(block.cost_at(side)[0])


def main() -> None:
    """Print what was found, best first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json")
    options = parser.parse_args()
    check_output(parser, options.json)
    found = layouts()
    for layout in found:
        figures = "  ".join(f"{macs / 1e6:7.2f} M MACs {params / 1e6:.3f} M" for params, macs in layout.costs.values())
        mark = "*" if layout.has_the_params else " "
        print(f"{mark} {layout.repeats!s:22} {figures}  distance {layout.distance:.3f}")
    print("group counts:", found[0].groups)
    save(options.json, [layout._asdict() for layout in found])


if __name__ == "__main__":
    main()
