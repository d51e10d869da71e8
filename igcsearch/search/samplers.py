"""Samplers and early stopping by name, with settings that suit searches of tens to hundreds of candidates.

The coordinator makes a sampler afresh for each proposal, seeded by (study seed, number of the proposal). So a sampler has no state
beyond the study, and a resumed study goes on with the proposals that an uninterrupted one would have made. (With several workers
the order in which results arrive differs from run to run, and with it the proposals. Hyperband's brackets depend on Optuna's trial
numbers, which a resumed candidate shifts.)
"""

from __future__ import annotations

import hashlib

from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler

from .evolution import EvolutionSampler
from .halving import ParetoHalving

_MIN_TRIALS, _MIN_EPOCHS = 30, 4  # for early stopping by default
_FACTOR = 3  # of halving: the best third goes on


def population_size(trials: int) -> int:
    """Population of nsga2 and evolution: a third of the search, so that even one of 30 candidates has later generations."""
    return min(50, max(4, trials // 3))


def make_sampler(name: str, seed: int, population: int) -> BaseSampler:
    """The sampler of that name (one of `config.SAMPLERS` but grid, which is in grid.py), seeded."""
    if name == "tpe":
        # Multivariate also for several objectives, where Optuna 5 would model each parameter alone.
        return TPESampler(seed=seed, multivariate=True)
    if name == "nsga2":
        return NSGAIISampler(seed=seed, population_size=population)
    if name == "evolution":
        return EvolutionSampler(population=population, tournament=max(2, population // 3), seed=seed)
    return RandomSampler(seed=seed)


def resolve_stopping(stopping: str, epochs: int, trials: int, sampler: str) -> str:
    """What `auto` means: successive halving, where there are epochs and candidates enough to compare.

    NSGA-II does not learn from stopped candidates and a grid is there to compare all, so with them `auto` is none.
    """
    if stopping != "auto":
        return stopping
    enough = epochs >= _MIN_EPOCHS and trials >= _MIN_TRIALS and sampler not in ("nsga2", "grid")
    return "halving" if enough else "none"


def make_pruner(stopping: str, epochs: int) -> BasePruner:
    """Successive halving or Hyperband over epochs: the best third goes on at each rung, the first at a quarter of them."""
    first = _first_rung(epochs)
    if stopping == "halving":
        return SuccessiveHalvingPruner(min_resource=first, reduction_factor=_FACTOR)
    if stopping == "hyperband":
        return HyperbandPruner(min_resource=first, max_resource=max(epochs, first), reduction_factor=_FACTOR)
    return NopPruner()


def make_pareto_halving(epochs: int) -> ParetoHalving:
    """The same halving for accuracy against a cost."""
    return ParetoHalving(epochs, _first_rung(epochs), _FACTOR)


def _first_rung(epochs: int) -> int:
    return max(1, epochs // 4)


def derived_seed(seed: int, name: str | int) -> int:
    """A seed for one thing of a study, the same wherever and whenever it is computed."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:4], "big") & 0x7FFFFFFF
