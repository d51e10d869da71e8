"""Proposals that are not worth training, settled in closed form before anything is built, and told to the sampler.

The coordinator asks `settle` about each proposal: budget, duplicates by equivalence key, conditions. What is settled is told to
each sampler in the way it learns from (measured over three runs of 40 proposals each: with PRUNED and a constraint TPE keeps away
from the region; NSGA-II only looks at completed trials, so it gets a worst value as well; a FAIL teaches nobody).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import optuna
from optuna.trial import TrialState

from igcsearch.errors import UsageError
from igcsearch.spec import Architecture, Budget, Problem, conditions
from igcsearch.spec.grouping import learns_groups
from igcsearch.spec.learning import learns_shuffles

CONSTRAINT = "igcsearch"  # name of the constraint: feasible where <= 0
_STRICT_FAMILIES = ("igcv1", "igcv2")
_DUPLICATE, _CONDITION, _SPACE = 0.001, 1.0, 10.0  # violations; of a budget: by how much it is exceeded, relatively
_TRIES = 10_000


class Space(Protocol):
    """What the search needs of a search space (igcsearch.search_spaces.Space)."""

    @property
    def name(self) -> str: ...

    def propose(self, trial: Any, problem: Problem) -> Architecture: ...

    def smallest(self, problem: Problem) -> Architecture | None: ...


@dataclass(frozen=True)
class Settled:
    """Why a proposal is not trained. `violation` > 0 is the constraint's value: how far it is from what is wanted."""

    kind: str  # budget | duplicate | condition | space | latency
    reason: str
    violation: float


def settle(
    architecture: Architecture, budget: Budget, seen: Mapping[str, int], latency_ms: float | None = None
) -> Settled | None:
    """None if the proposal is worth training.

    Args:
        architecture: as proposed.
        budget: its limits.
        seen: equivalence key to number of the candidates trained or under way.
        latency_ms: predicted, where there is a prediction.
    """
    params, macs = architecture.cost
    if not budget.admits(params, macs):
        exceeded = [
            (cost / limit - 1, f"{cost:,} {name} > {limit:,}")
            for name, cost, limit in (("params", params, budget.params), ("macs", macs, budget.macs))
            if limit is not None and cost > limit
        ]
        return Settled(
            "budget", "over budget: " + ", ".join(text for _, text in exceeded), sum(by for by, _ in exceeded)
        )
    limit_ms = budget.latency_ms
    if limit_ms is not None and latency_ms is not None and latency_ms > limit_ms:
        reason = f"over budget: predicted {latency_ms:.3g} ms > {limit_ms:.3g} ms"
        return Settled("latency", reason, latency_ms / limit_ms - 1)
    if (before := seen.get(architecture.key)) is not None:
        return Settled("duplicate", f"the same network as candidate {before}", _DUPLICATE)
    for name, block in architecture.blocks():
        if block.family in _STRICT_FAMILIES and (level := conditions.level(block)) not in ("strict", "nearly"):
            return Settled(
                "condition", f"{name} ({block.family}) is {level}, not strict or nearly complementary", _CONDITION
            )
    return None


def nothing_learned(architecture: Architecture, shuffles: Sequence[str], groups: Sequence[str]) -> Settled | None:
    """A proposal without a learned shuffle or group count, where the search allows no others.

    Where group counts are learned, no shuffle is in the same block: they answer for both.
    """
    wanted = [what for what, kinds in (("shuffle", shuffles), ("group counts", groups)) if tuple(kinds) == ("learned",)]
    if not wanted or learns_groups(architecture) or ("shuffle" in wanted and learns_shuffles(architecture)):
        return None
    return Settled("condition", f"no {' or '.join(wanted)} to learn in {architecture.family} of this form", _CONDITION)


def space_refused(error: UsageError) -> Settled:
    """A proposal that the space itself could not make."""
    return Settled("space", str(error), _SPACE)


def tell_settled(
    study: optuna.Study,
    trial: optuna.Trial,
    violation: float,
    sampler: str,
    values: Sequence[float],
    *,
    complete_params: bool = True,
) -> None:
    """Tell the sampler of a settled proposal. Safe to repeat after a kill in the middle.

    Args:
        values: a worst value for each objective, for the sampler that wants one.
        complete_params: False if the proposal broke off before it had all parameters. Such a trial would take the missing ones
            out of what the samplers model for good (they model what all trials share), so it is told as failed.
    """
    if not complete_params:
        study.tell(trial.number, state=TrialState.FAIL)
        return
    if CONSTRAINT not in trial.constraints:
        trial.set_constraint(CONSTRAINT, violation)
    if sampler == "nsga2":
        study.tell(trial.number, list(values))
    else:
        study.tell(trial.number, state=TrialState.PRUNED)


def check_budget(space: Space, problem: Problem, seed: int) -> None:
    """Make sure, before any training, that some architecture of the space is inside the budget.

    Raises:
        UsageError: none is; says the smallest, by `space.smallest` or else of 10,000 random proposals.
    """
    budget = problem.budget
    smallest = space.smallest(problem)
    if smallest is not None:
        if not budget.admits(*smallest.cost):
            raise UsageError(_impossible(space, budget, smallest.params, smallest.macs, "its smallest network"))
        return
    found: list[tuple[int, int]] = []
    refusal: UsageError | None = None
    # A space may refuse a budget that it cannot meet: then its sizes are looked up without one.
    for asked in (problem, replace(problem, budget=Budget())):
        rng = random.Random(seed)
        for _ in range(_TRIES):
            try:
                params, macs = space.propose(RandomTrial(rng), asked).cost
            except UsageError as error:
                refusal = error
                continue
            if budget.admits(params, macs):
                return
            found.append((params, macs))
        if found:
            params, macs = min(p for p, _ in found), min(m for _, m in found)
            raise UsageError(_impossible(space, budget, params, macs, f"the smallest of {_TRIES:,} random proposals"))
    raise UsageError(f"search space {space.name!r} made none of {_TRIES:,} random proposals: {refusal}") from refusal


def check_proposals(space: Space, problem: Problem, seed: int, shuffles: Sequence[str], groups: Sequence[str]) -> None:
    """Make sure, before any training, that the space makes proposals at all, and such as learn what is asked for.

    Raises:
        UsageError: what the last of 10,000 random ones says that were all refused, or had nothing to learn.
    """
    rng, settled = random.Random(seed), None
    for last in range(_TRIES, 0, -1):
        try:
            settled = nothing_learned(space.propose(RandomTrial(rng), problem), shuffles, groups)
        except UsageError:
            if last == 1:
                raise
            continue
        if settled is None:
            return
    assert settled is not None
    raise UsageError(
        f"search space {space.name!r} made none of {_TRIES:,} random proposals that learn: {settled.reason}; leave --shuffle or "
        "--groups at what is fixed, or let the space propose igcv2 or igcv3"
    )


def check_latency(space: str, budget: Budget, smallest_ms: float, where: str) -> None:
    """Make sure, before any training, that the space's smallest network is not far too slow.

    Not far: a network of more parameters may be somewhat faster, and the figure wanders.

    Raises:
        UsageError: it takes 1.5 times the budget or more.
    """
    limit = budget.latency_ms
    if limit is not None and smallest_ms >= 1.5 * limit:
        what = f"the smallest network of the space {space!r} takes {smallest_ms:.3g} ms here ({where})"
        raise UsageError(f"no architecture is within {limit:g} ms: {what}; raise the budget (--max-latency)")


def _impossible(space: Space, budget: Budget, params: int, macs: int, what: str) -> str:
    limits = [
        f"{limit:,} {name}" for name, limit in (("params", budget.params), ("macs", budget.macs)) if limit is not None
    ]
    return (
        f"no architecture of the space {space.name!r} is within {' and '.join(limits)}: {what} has {params:,} params "
        f"and {macs:,} macs; raise the budget"
    )


class RandomTrial:
    """A trial that draws uniformly, for proposals outside a study; speaks the part of Optuna's interface that spaces use."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.params: dict[str, Any] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices; the same again for a name that was asked before."""
        return self.params.setdefault(name, self._rng.choice(list(choices)))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number in [low, high]."""
        return self.params.setdefault(name, self._rng.randint(low, high))

    def suggest_float(self, name: str, low: float, high: float) -> float:
        """A number in [low, high]."""
        return self.params.setdefault(name, self._rng.uniform(low, high))
