"""Regularized evolution as an Optuna sampler.

E. Real, A. Aggarwal, Y. Huang, Q. V. Le: Regularized Evolution for Image Classifier Architecture Search, AAAI 2019 (Algorithm 1).
The population is the newest P trained candidates (aging: the oldest leaves, not the worst). A tournament of S of them, drawn at
random, gives the parent; the child has the parent's parameters with one or two drawn anew. Several objectives are ranked by
non-dominated sorting, so that the first front wins the tournament.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from .pareto import non_dominated_ranks


class EvolutionSampler(BaseSampler):
    """Regularized evolution (aging population, tournament, mutation) for one or several objectives.

    Trials that violate a constraint and trials without any value are not part of the population. Trials stopped early are, behind
    every one that got further.

    Args:
        population: P, at least 2; as many trials are random first.
        tournament: S, at most P.
        seed: of all draws.

    Raises:
        ValueError: sizes outside their rule.
    """

    def __init__(self, population: int = 20, tournament: int = 5, seed: int | None = None) -> None:
        if population < 2:
            raise ValueError(f"population {population} must be at least 2")
        if not 1 <= tournament <= population:
            raise ValueError(f"tournament {tournament} must be in [1, {population}], the population's size")
        self._population, self._tournament = population, tournament
        self._rng = np.random.default_rng(seed)
        self._random = RandomSampler(seed=seed)

    def reseed_rng(self) -> None:
        """Start from fresh entropy (Optuna calls this in parallel runs)."""
        self._rng = np.random.default_rng()
        self._random.reseed_rng()

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """All parameters that the population knows with one distribution."""
        known: dict[str, BaseDistribution] = {}
        conflicting: set[str] = set()
        for member in self._members(study):
            for name, distribution in member.distributions.items():
                if known.setdefault(name, distribution) != distribution:
                    conflicting.add(name)
        return {name: d for name, d in sorted(known.items()) if name not in conflicting and not d.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A parent's parameters with one or two mutated; nothing (random draws) until the population is full."""
        members = self._members(study)
        if len(members) < self._population or not search_space:
            return {}
        parent = self._parent(study, members)
        params = {name: value for name, value in parent.params.items() if name in search_space}
        count = min(len(params), int(self._rng.integers(1, 3)))
        for name in self._rng.choice(sorted(params), size=count, replace=False).tolist():
            params[name] = self._mutated(study, trial, name, search_space[name], params[name])
        return params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A uniform draw: first generation, and parameters that the parent does not have."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def _members(self, study: Study) -> list[FrozenTrial]:
        """The newest P trials with a value, oldest first."""
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        valued = [t for t in trials if t.values is not None and all(c <= 0 for c in t.constraints.values())]
        return valued[-self._population :]

    def _parent(self, study: Study, members: list[FrozenTrial]) -> FrozenTrial:
        """The winner of a tournament; a draw is decided by lot (the order of the draw is random)."""
        drawn = [members[i] for i in self._rng.choice(len(members), size=self._tournament, replace=False)]
        signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in study.directions]
        losses = [[sign * value for sign, value in zip(signs, t.values, strict=True)] for t in drawn]
        ranks = non_dominated_ranks(losses)
        order = sorted(range(len(drawn)), key=lambda i: (-_reached(drawn[i]), ranks[i]))
        return drawn[order[0]]

    def _mutated(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution, value: Any) -> Any:
        """Another value of the parameter."""
        for _ in range(20):
            drawn = self._random.sample_independent(study, trial, name, distribution)
            if drawn != value:
                return drawn
        return value


def _reached(trial: FrozenTrial) -> float:
    """Epochs that a stopped trial got to; without bound for a complete one."""
    if trial.state == TrialState.COMPLETE:
        return float("inf")
    return float(max(trial.intermediate_values, default=0))
