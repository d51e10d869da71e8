"""IGCV2's figure 3 as a grid: blocks of equal weights with L = 1, 2, 3, 4, 5 and 8 pointwise factors, for any images.

The paper's experiment (`igcv2.md` 2.2): at equal weights more factors are wider, until they are too sparse. `--sampler grid` trains
each of the six once. Of the two readings of the later stages (`blocks.references.igcv2.figure_3`) it takes the one with which the
six whole networks are more nearly of equal size: with CIFAR-100's classes the complementary one (within 9 %), with 10 classes the
one that keeps the branch widths (within 13 %).
"""

from __future__ import annotations

from functools import lru_cache

from igcsearch.blocks.references.igcv2 import FIGURE_3, figure_3
from igcsearch.errors import UsageError
from igcsearch.spec import Architecture, Problem

from .choices import Trial, admissible, named

LEAST_SIZE = 4  # of images: the third stage's map is a quarter of it


def space(trial: Trial, problem: Problem) -> Architecture:
    """One parameter, `pointwise`: L as the figure counts it. One that the budget does not admit stands for one that it does.

    Raises:
        UsageError: images under 4 pixels a side.
    """
    return named(trial, "pointwise", _networks(problem), lambda network: network.cost, problem.budget)


def smallest(problem: Problem) -> Architecture:
    """The cheapest of the six that the budget admits or, where it admits none, the nearest to it.

    Raises:
        UsageError: images under 4 pixels a side.
    """
    return admissible(_networks(problem).values(), lambda network: network.cost, problem.budget)[0]


@lru_cache(maxsize=64)
def _networks(problem: Problem) -> dict[str, Architecture]:
    if problem.image_size < LEAST_SIZE:
        raise UsageError(
            f"space 'igcv2_figure3' serves images of at least {LEAST_SIZE} pixels a side, not {problem.image_size}; use larger "
            "ones (--image-size)"
        )
    readings = [
        {str(pointwise): figure_3(pointwise, problem, complementary=complementary) for pointwise in FIGURE_3}
        for complementary in (True, False)
    ]
    return min(readings, key=_spread)


def _spread(networks: dict[str, Architecture]) -> float:
    """The largest of them over the smallest."""
    sizes = [network.params for network in networks.values()]
    return max(sizes) / min(sizes)
