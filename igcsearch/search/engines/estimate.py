"""The time to expect of a search, from one timed training step; the same for every engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from igcsearch.search import events
from igcsearch.training import steps_per_epoch

if TYPE_CHECKING:
    from igcsearch.search.coordinator import Coordinator


def estimate(step: float, coordinator: Coordinator, workers: int) -> events.Estimate:
    """A candidate's epochs of training and validation, whose forward pass is a third of a step, for all that remain.

    Args:
        step: seconds of one training step.
        coordinator: knows the data, the recipe and how many candidates remain.
        workers: candidates at once.
    """
    recipe, facts = coordinator.recipe, coordinator.facts
    steps = steps_per_epoch(facts.train, recipe.batch_size) + facts.validation / recipe.batch_size / 3
    candidate = step * steps * recipe.epochs
    remaining = max(1, coordinator.remaining)
    rounds = -(-remaining // max(1, min(workers, remaining)))
    return events.Estimate(coordinator.counts, step, candidate, candidate * rounds)
