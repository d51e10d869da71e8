"""From shares of group counts to choices: the likeliest network inside a budget. Floor 0.

One option a block, likelihoods summed, costs bounded: a multiple-choice knapsack (knapsack.py), solved exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import UsageError
from .architecture import Architecture
from .grouping import Choice, Option, Question, Shares, questions
from .knapsack import choose
from .problem import Budget, Cost


def rounded(architecture: Architecture, shares: Mapping[str, Shares], budget: Budget) -> dict[str, Choice]:
    """The likeliest group counts whose network is inside the budget. Exact.

    Args:
        shares: of each question, by name.

    Raises:
        UsageError: a budget that no group counts meet.
    """
    asked = questions(architecture)[0]
    options = [question.options(shares[question.name]) for question in asked]
    chosen = [max(each, key=lambda option: option.likelihood) for each in options]
    if not budget.admits(*_total(architecture, asked, chosen)):
        found = _likeliest(architecture, asked, options, budget)
        if found is None:
            raise UsageError(_impossible(architecture, asked, options, budget))
        chosen = found
    return {question.name: option.choice for question, option in zip(asked, chosen, strict=True)}


def check_groups_budget(architecture: Architecture, budget: Budget) -> None:
    """Raise UsageError unless some group counts keep the network inside the budget."""
    rounded(architecture, {q.name: np.full(q.shape, 0.5) for q in questions(architecture)[0]}, budget)


def least_cost(architecture: Architecture) -> Cost:
    """The fewest parameters, and the fewest MACs, that group counts can give: each alone."""
    asked = questions(architecture)[0]
    return _least(architecture, asked, [_every(question) for question in asked])


def most_cost(architecture: Architecture) -> Cost:
    """The most parameters, and the most MACs, that group counts can give."""
    asked = questions(architecture)[0]
    dense = [max(_every(question), key=lambda option: option.cost) for question in asked]
    return _total(architecture, asked, dense)


def _likeliest(
    architecture: Architecture, asked: Sequence[Question], options: Sequence[Sequence[Option]], budget: Budget
) -> list[Option] | None:
    """One option a question, or None if none are inside the budget."""
    if not options:
        return None
    fixed = _fixed(architecture, asked)
    names = [name for name in ("params", "macs") if getattr(budget, name) is not None]
    limits = [getattr(budget, name) - getattr(fixed, name) for name in names]
    if min(limits, default=0) < 0:
        return None
    found = choose(
        [[option.likelihood for option in each] for each in options],
        [[[getattr(option.cost, name) for name in names] for option in each] for each in options],
        limits,
    )
    return None if found is None else [each[index] for each, index in zip(options, found, strict=True)]


def _impossible(
    architecture: Architecture, asked: Sequence[Question], options: Sequence[Sequence[Option]], budget: Budget
) -> str:
    limits = [f"{limit:,} {name}" for name, limit in (("params", budget.params), ("macs", budget.macs)) if limit]
    least = _least(architecture, asked, options)
    both = "" if len(limits) < 2 else ", each with group counts of its own"
    return (
        f"no group counts bring this network within {' and '.join(limits)}: the fewest are {least.params:,} params and "
        f"{least.macs:,} macs{both}; raise the budget or take a smaller network"
    )


def _least(architecture: Architecture, asked: Sequence[Question], options: Sequence[Sequence[Option]]) -> Cost:
    fixed = _fixed(architecture, asked)
    params = sum(min(option.cost.params for option in each) for each in options)
    return Cost(fixed.params + params, fixed.macs + sum(min(option.cost.macs for option in each) for each in options))


def _total(architecture: Architecture, asked: Sequence[Question], chosen: Sequence[Option]) -> Cost:
    params, macs = _fixed(architecture, asked)
    costs = [option.cost for option in chosen]
    return Cost(params + sum(cost.params for cost in costs), macs + sum(cost.macs for cost in costs))


def _fixed(architecture: Architecture, asked: Sequence[Question]) -> Cost:
    """Cost of all blocks that are not asked about, stem and head included."""
    params, macs = architecture.cost
    costs = [question.block.cost_at(question.size)[0] for question in asked]
    return Cost(params - sum(cost.params for cost in costs), macs - sum(cost.macs for cost in costs))


def _every(question: Question) -> list[Option]:
    return question.options(np.full(question.shape, 0.5))
