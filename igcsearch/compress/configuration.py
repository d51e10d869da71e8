"""How many groups each layer gets: least is lost inside a budget on parameters and multiply-adds. Floor 6.

A table says for each layer and group count what is lost (or what that does to the loss, where it was measured) and what it costs;
choosing one row a layer is a multiple-choice knapsack (spec/knapsack.py), solved exactly. What is lost is found for each layer
alone; agreeing on the order of channels (orders.py) comes afterwards, and what is lost then is what counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..permutations import kept, solve
from ..spec import Budget, Cost
from ..spec.graph import GraphArchitecture
from ..spec.knapsack import choose
from .criterion import Matrix, groupable

MOST_GROUPS = 64
FILLED = 0.97  # of the budget, at least, where some group counts come there


@dataclass(frozen=True)
class Option:
    """A layer with so many groups.

    Args:
        groups: of the layer.
        lost: share of its criterion that is cut, its orders chosen for it alone.
        cost: of the layer.
        alone: those orders, (rows, columns).
        harm: what the layer so cut does to the network, where it was measured (sensitivity.py).
    """

    groups: int
    lost: float
    cost: Cost
    alone: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    harm: float | None = None


@dataclass(frozen=True)
class Table:
    """The options of a layer, the fewest groups first.

    Args:
        name: of the node.
        weight: of a lost share of this layer in the sum over layers.
    """

    name: str
    source: str
    criterion: Matrix
    options: tuple[Option, ...]
    weight: float = 1.0

    def harm(self, option: Option) -> float:
        """What configurations minimise the sum of: what was measured, else the lost share by its weight."""
        return self.weight * option.lost if option.harm is None else option.harm


def tables(
    graph: GraphArchitecture,
    criteria: Mapping[str, Matrix],
    *,
    most_groups: int = MOST_GROUPS,
    weights: Mapping[str, float] | None = None,
) -> list[Table]:
    """A table for each layer that has a criterion: every common divisor of its channel counts up to `most_groups`."""
    found = []
    for node, convolution in groupable(graph):
        if node.name not in criteria:
            continue
        matrix = criteria[node.name]
        _, height, width = graph.shapes[node.name]
        common = math.gcd(convolution.in_channels, convolution.out_channels)
        options = []
        for groups in (g for g in range(1, min(common, most_groups) + 1) if common % g == 0):
            weight = convolution.weights // groups
            cost = Cost(weight, weight * height * width)
            alone = None if groups == 1 else solve(matrix, groups, method="quick")
            lost = 0.0 if alone is None else 1.0 - kept(matrix, *alone, groups)
            options.append(Option(groups, lost, cost, alone))
        found.append(
            Table(node.name, node.reads[0], matrix, tuple(options), 1.0 if weights is None else weights[node.name])
        )
    return found


def configured(graph: GraphArchitecture, found: Sequence[Table], budget: Budget) -> list[Option]:
    """The options of least loss inside the budget: exact, one a table.

    They fill at least FILLED of a limit where some do.

    Raises:
        UsageError: no group counts meet the budget; says the smallest.
    """
    names = [name for name in ("params", "macs") if getattr(budget, name) is not None]
    fixed = _fixed(graph, found)
    limits = [getattr(budget, name) - getattr(fixed, name) for name in names]
    values = [[-table.harm(option) for option in table.options] for table in found]
    costs = [[[getattr(option.cost, name) for name in names] for option in table.options] for table in found]
    chosen = None
    if min(limits, default=0) >= 0:
        chosen = choose(values, costs, limits)
    if chosen is None:
        raise UsageError(_impossible(fixed, found, budget))
    spent = _sum(fixed, [table.options[i] for table, i in zip(found, chosen, strict=True)])
    if not any(getattr(spent, name) >= FILLED * getattr(budget, name) for name in names):
        fuller = []
        for position, name in enumerate(names):
            floors = [-math.inf] * len(names)
            floors[position] = FILLED * getattr(budget, name) - getattr(fixed, name)
            if (other := choose(values, costs, limits, floors)) is not None:
                fuller.append(other)
        worth = [sum(each[i] for each, i in zip(values, other, strict=True)) for other in fuller]
        if fuller:
            chosen = fuller[worth.index(max(worth))]
    return [table.options[i] for table, i in zip(found, chosen, strict=True)]


def uniform(graph: GraphArchitecture, found: Sequence[Table], budget: Budget) -> list[Option] | None:
    """One group count for all layers, or the next smaller that a layer has: the fewest groups inside the budget; None if none."""
    fixed = _fixed(graph, found)
    for groups in sorted({option.groups for table in found for option in table.options}):
        chosen = [max((o for o in table.options if o.groups <= groups), key=lambda o: o.groups) for table in found]
        if budget.admits(*_sum(fixed, chosen)):
            return chosen
    return None


def local(graph: GraphArchitecture, found: Sequence[Table], budget: Budget) -> list[Option] | None:
    """Group counts by a local search: from dense, the step of least loss for what it saves; then back while there is room."""
    fixed = _fixed(graph, found)
    at = [0] * len(found)

    def chosen() -> list[Option]:
        return [table.options[i] for table, i in zip(found, at, strict=True)]

    def over(cost: Cost) -> float:
        limits = [(cost.params, budget.params), (cost.macs, budget.macs)]
        return sum(max(0.0, spent / limit - 1) for spent, limit in limits if limit is not None)

    while (excess := over(now := _sum(fixed, chosen()))) > 0:
        best: tuple[float, int, int] | None = None
        for number, table in enumerate(found):
            here = table.options[at[number]]
            for further in range(at[number] + 1, len(table.options)):
                saved = excess - over(_exchanged(now, here, table.options[further]))
                lost = table.harm(table.options[further]) - table.harm(here)
                if saved > 0 and (best is None or lost / saved < best[0]):
                    best = (lost / saved, number, further)
        if best is None:
            return None
        at[best[1]] = best[2]
    now, moved = _sum(fixed, chosen()), True
    while moved:
        moved = False
        for number in sorted(range(len(found)), key=lambda n: -found[n].harm(found[n].options[at[n]])):
            for fewer in range(at[number]):
                other = _exchanged(now, found[number].options[at[number]], found[number].options[fewer])
                if budget.admits(*other):
                    now, at[number], moved = other, fewer, True
                    break
    return chosen()


def smallest(graph: GraphArchitecture, found: Sequence[Table]) -> Cost:
    """The least parameters and the least multiply-adds that group counts can give."""
    fixed = _fixed(graph, found)
    return _sum(fixed, [table.options[-1] for table in found])


def _fixed(graph: GraphArchitecture, found: Sequence[Table]) -> Cost:
    """What the network costs without the layers of the tables."""
    params, macs = graph.cost
    dense = [table.options[0].cost for table in found]
    return Cost(params - sum(cost.params for cost in dense), macs - sum(cost.macs for cost in dense))


def _sum(fixed: Cost, chosen: Sequence[Option]) -> Cost:
    params = fixed.params + sum(option.cost.params for option in chosen)
    return Cost(params, fixed.macs + sum(option.cost.macs for option in chosen))


def _exchanged(cost: Cost, before: Option, after: Option) -> Cost:
    params = cost.params - before.cost.params + after.cost.params
    return Cost(params, cost.macs - before.cost.macs + after.cost.macs)


def _impossible(fixed: Cost, found: Sequence[Table], budget: Budget) -> str:
    least = _sum(fixed, [table.options[-1] for table in found])
    limits = [f"{limit:,} {name}" for name, limit in (("params", budget.params), ("macs", budget.macs)) if limit]
    return (
        f"no group counts bring this network within {' and '.join(limits)}: the smallest has {least.params:,} params and "
        f"{least.macs:,} macs; raise the budget"
    )
