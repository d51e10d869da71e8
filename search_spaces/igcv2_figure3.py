"""IGCV2's figure 3 as a grid: blocks of equal weights with L = 1, 2, 3, 4, 5 and 8 pointwise factors, for any images.

The paper's experiment (`igcv2.md` 2.2): at equal weights more factors are wider, until they are too sparse. `--sampler grid` trains
each of the six once. Whole networks are of equal size within 9 % with CIFAR-100's classes; with 10, where the linear layer of the
wide ones weighs less, they have 144,202 (L = 1) to 85,012 parameters (L = 8). A reading with equal sizes there has blocks that
leave pairs of channels without a path, which searches do not train: `python -m benchmarks.figure3` does.
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
    return {str(pointwise): figure_3(pointwise, problem) for pointwise in FIGURE_3}
