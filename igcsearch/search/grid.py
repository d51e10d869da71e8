"""The sampler `grid`: every point of a space once, in order. For spaces whose parameters are choices and whole numbers.

The points are found by asking the space, choice after choice, so a parameter may depend on those before it. Which of them are still
to be proposed is read from the study alone, so that any number of coordinators can work on one, die and be resumed. (Optuna's
GridSampler and BruteForceSampler draw the points in random order, and both end with `Study.stop`, an error where trials are asked
and told; the first also wants the grid beforehand.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from igcsearch.errors import UsageError
from igcsearch.spec import Problem

from .candidate import INTERRUPTED, STATE
from .settle import Space

MOST_POINTS = 100_000
Point = Mapping[str, Any]


def grid_points(space: Space, problem: Problem) -> list[Point]:
    """All points of the space, the last parameter changing fastest; of one that it refuses, the parameters until then.

    Raises:
        UsageError: a parameter without steps, or over MOST_POINTS points.
    """
    points: list[Point] = []
    way: list[int] = []  # of each parameter of the next point, the index of its value
    while True:
        walk = _Walk(space.name, way)
        with suppress(UsageError):
            space.propose(walk, problem)
        if walk.error is not None:
            raise walk.error
        points.append(walk.params)
        way = [*walk.taken]
        while way and way[-1] + 1 == walk.counts[len(way) - 1]:
            way.pop()
        if not way:
            return points
        way[-1] += 1
        if len(points) == MOST_POINTS:
            raise UsageError(
                f"sampler 'grid': space {space.name!r} has more than {MOST_POINTS:,} points; use tpe, nsga2, random or evolution"
            )


class Grid:
    """The points of a space, and which of them a study has not had.

    Raises:
        UsageError: as `grid_points`.
    """

    def __init__(self, space: Space, problem: Problem) -> None:
        self.points = grid_points(space, problem)
        self._named = {frozenset(point.items()): point for point in self.points}

    def left(self, study: Study) -> list[Point]:
        """The points that no trial has, or is about to have, in order. What was interrupted counts for its retry alone."""
        taken = set()
        for trial in study.get_trials(deepcopy=False):
            if trial.user_attrs.get(STATE) != INTERRUPTED:
                queued = {} if trial.state.is_finished() else trial.system_attrs.get("fixed_params", {})
                taken.add(frozenset({**queued, **trial.params}.items()))
        return [point for name, point in self._named.items() if name not in taken]


class GridSampler(BaseSampler):
    """Gives a trial the first point that is left. Where another coordinator took the last one meanwhile, the first values.

    Args:
        left: of the grid.
    """

    def __init__(self, left: Sequence[Point]) -> None:
        self._point = left[0] if left else {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing: the point is given parameter by parameter."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The point's value."""
        return self._point.get(param_name, param_distribution.to_external_repr(getattr(param_distribution, "low", 0)))


class _Walk:
    """A trial on the way to one point: the value at the index that `way` has for each parameter, the first behind its end."""

    def __init__(self, name: str, way: Sequence[int]) -> None:
        self._name, self._way = name, way
        self.params: dict[str, Any] = {}
        self.taken: list[int] = []
        self.counts: list[int] = []
        self.error: UsageError | None = None

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """A choice; the same again for a name that was asked before."""
        if name not in self.params:
            place = len(self.taken)
            self.taken.append(self._way[place] if place < len(self._way) else 0)
            self.counts.append(len(choices))
            self.params[name] = choices[self.taken[-1]]
        return self.params[name]

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number in [low, high]."""
        return int(self.suggest_categorical(name, range(low, high + 1)))

    def suggest_float(self, name: str, low: float, high: float) -> float:
        """Raises UsageError: there is no grid of these."""
        self.error = UsageError(
            f"sampler 'grid' needs a grid, but parameter {name!r} of space {self._name!r} is any number in [{low:g}, {high:g}]; "
            "use tpe, nsga2, random or evolution, or a space of choices and whole numbers such as igcv2_figure3"
        )
        raise self.error
