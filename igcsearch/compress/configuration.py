"""How many groups each layer gets: least is lost inside a budget on parameters and multiply-adds. Floor 6.

A table says for each layer and group count what is lost (or what that does to the loss, where it was measured) and what it costs;
choosing one row a layer is a multiple-choice knapsack (spec/knapsack.py), solved exactly. What is lost is found for each layer
alone; agreeing on the order of channels (orders.py) comes afterwards, and what is lost then is what counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..permutations import kept, solve
from ..spec import Budget, Cost
from ..spec.graph import GraphArchitecture
from ..spec.knapsack import choose
from ..spec.operations import Convolution, Shape
from .criterion import Matrix, groupable
from .progress import Progress, Say, silent

MOST_GROUPS = 64
TIE = 1e-6  # of a lost share beside harm: where nothing does harm, less is cut
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
        n: of every M weights that stay, for a layer that is made sparse (sparse_configuration.py).
    """

    groups: int
    lost: float
    cost: Cost
    alone: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    harm: float | None = None
    n: int | None = None


@dataclass(frozen=True)
class Table:
    """The options of a layer, the one of most weights first.

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


@dataclass(frozen=True)
class Times:
    """Milliseconds of one image, in both memory formats that a network can run in: (contiguous, channels_last).

    Args:
        rest: the network without the layers of the tables.
        options: of each table, in order, each of its options, by its fastest plan.
    """

    rest: tuple[float, float]
    options: tuple[tuple[tuple[float, float], ...], ...]

    def predicted(self, chosen: Sequence[int]) -> float:
        """Of the network with the option of that number in each table, in the better format."""
        picked = [options[i] for options, i in zip(self.options, chosen, strict=True)]
        return min(self.rest[form] + sum(each[form] for each in picked) for form in (0, 1))


def tables(
    graph: GraphArchitecture,
    criteria: Mapping[str, Matrix],
    *,
    most_groups: int = MOST_GROUPS,
    weights: Mapping[str, float] | None = None,
    say: Say = silent,
) -> list[Table]:
    """A table for each layer that has a criterion: every common divisor of its channel counts up to `most_groups`."""
    found: list[Table] = []
    progress = Progress("orders of channels", say)
    for node, convolution in groupable(graph):
        if node.name not in criteria:
            continue
        progress.at(len(found) / len(criteria))
        matrix, shape = criteria[node.name], graph.shapes[node.name]
        options = tuple(option(convolution, matrix, groups, shape) for groups in group_counts(convolution, most_groups))
        found.append(Table(node.name, node.reads[0], matrix, options, 1.0 if weights is None else weights[node.name]))
    return found


def group_counts(convolution: Convolution, most_groups: int = MOST_GROUPS) -> list[int]:
    """The group counts that a dense convolution can have: every common divisor of its channel counts up to `most_groups`."""
    common = math.gcd(convolution.in_channels, convolution.out_channels)
    return [groups for groups in range(1, min(common, most_groups) + 1) if common % groups == 0]


def option(convolution: Convolution, matrix: Matrix, groups: int, shape: Shape) -> Option:
    """A dense convolution with so many groups; `matrix` is its criterion, `shape` what it makes, (out, rows, columns)."""
    cost = _cost(convolution, groups, shape)
    alone = None if groups == 1 else solve(matrix, groups, method="quick")
    lost = 0.0 if alone is None else 1.0 - kept(matrix, *alone, groups)
    return Option(groups, lost, cost, alone)


def cost_of(graph: GraphArchitecture, name: str, groups: int) -> Cost:
    """Of a dense convolution's weights, without its bias, if it had so many groups."""
    operation = graph.node(name).operation
    assert isinstance(operation, Convolution)
    return _cost(operation, groups, graph.shapes[name])


def _cost(convolution: Convolution, groups: int, shape: Shape) -> Cost:
    weights = convolution.weights // groups
    return Cost(weights, weights * shape[1] * shape[2])


def configured(
    graph: GraphArchitecture,
    found: Sequence[Table],
    budget: Budget,
    times: Times | None = None,
    filled: float = FILLED,
) -> list[Option]:
    """The options of least loss inside the budget: exact, one a table.

    They fill at least the share `filled` of a limit on parameters or multiply-adds where some do.

    Args:
        times: what a limit on latency is held against.

    Raises:
        UsageError: no group counts meet the budget; says the smallest.
    """
    fixed = _fixed(graph, found)
    names = [name for name in ("params", "macs") if getattr(budget, name) is not None]
    wholes = [getattr(budget, name) for name in names]
    limits = [whole - getattr(fixed, name) for whole, name in zip(wholes, names, strict=True)]
    values = [[-table.harm(option) - TIE * option.lost for option in table.options] for table in found]
    costs = [[[getattr(option.cost, name) for name in names] for option in table.options] for table in found]
    chosen: list[list[int]] = []
    if budget.latency_ms is None or times is None:
        chosen.append(fullest(values, costs, limits, wholes, filled))
    else:
        for form in (0, 1):
            timed = [
                [[*cost, ms[form]] for cost, ms in zip(each, of, strict=True)]
                for each, of in zip(costs, times.options, strict=True)
            ]
            most = [*limits, budget.latency_ms - times.rest[form]]
            chosen.append(fullest(values, timed, most, wholes, filled))
    best = max(filter(None, chosen), key=partial(_worth, values), default=None)
    if best is None:
        raise UsageError(_impossible(fixed, found, budget, times))
    return [table.options[i] for table, i in zip(found, best, strict=True)]


def fullest(
    values: list[list[float]],
    costs: list[list[list[float]]],
    limits: Sequence[float],
    whole: Sequence[float],
    filled: float = FILLED,
) -> list[int]:
    """The choice of most value inside the limits; one that fills at least a share of one of the first limits, if one does.

    Args:
        limits: less what is fixed.
        whole: the first of the limits, with what is fixed.
        filled: that share.

    Returns:
        Nothing where there is no choice.
    """
    if min(limits, default=0) < 0:
        return []
    chosen = choose(values, costs, limits)
    if chosen is None:
        return []
    spent = [sum(each[i][at] for each, i in zip(costs, chosen, strict=True)) for at in range(len(whole))]
    floors = [filled * of - (of - limit) for of, limit in zip(whole, limits, strict=False)]
    if not any(now >= floor for now, floor in zip(spent, floors, strict=True)):
        fuller = []
        for at, floor in enumerate(floors):
            least = [-math.inf] * len(limits)
            least[at] = floor
            if (other := choose(values, costs, limits, least)) is not None:
                fuller.append(other)
        chosen = max(fuller, key=partial(_worth, values), default=chosen)
    return chosen


def _worth(values: Sequence[Sequence[float]], chosen: Sequence[int]) -> float:
    return sum(each[i] for each, i in zip(values, chosen, strict=True))


def uniform(
    graph: GraphArchitecture, found: Sequence[Table], budget: Budget, times: Times | None = None
) -> list[Option] | None:
    """One group count for all layers, or the next smaller that a layer has: the fewest groups inside the budget; None if none."""
    fixed = _fixed(graph, found)
    limit = budget.latency_ms
    for groups in sorted({option.groups for table in found for option in table.options}):
        picked = [sum(option.groups <= groups for option in table.options) - 1 for table in found]
        chosen = [table.options[i] for table, i in zip(found, picked, strict=True)]
        slow = limit is not None and times is not None and times.predicted(picked) > limit
        if budget.admits(*summed(fixed, chosen)) and not slow:
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

    while (excess := over(now := summed(fixed, chosen()))) > 0:
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
    now, moved = summed(fixed, chosen()), True
    while moved:
        moved = False
        for number in sorted(range(len(found)), key=lambda n: -found[n].harm(found[n].options[at[n]])):
            for fewer in range(at[number]):
                other = _exchanged(now, found[number].options[at[number]], found[number].options[fewer])
                if budget.admits(*other):
                    now, at[number], moved = other, fewer, True
                    break
    return chosen()


def fills(
    graph: GraphArchitecture, found: Sequence[Table], chosen: Sequence[Option], budget: Budget, share: float
) -> bool:
    """Whether these options fill at least that share of a limit on parameters or multiply-adds."""
    cost = summed(_fixed(graph, found), chosen)
    limits = [(cost.params, budget.params), (cost.macs, budget.macs)]
    return any(limit is not None and spent >= share * limit for spent, limit in limits)


def smallest(graph: GraphArchitecture, found: Sequence[Table]) -> Cost:
    """The least parameters and the least multiply-adds that group counts can give."""
    fixed = _fixed(graph, found)
    return summed(fixed, [table.options[-1] for table in found])


def _fixed(graph: GraphArchitecture, found: Sequence[Table]) -> Cost:
    """What the network costs without the layers of the tables."""
    params, macs = graph.cost
    dense = [table.options[0].cost for table in found]
    return Cost(params - sum(cost.params for cost in dense), macs - sum(cost.macs for cost in dense))


def summed(fixed: Cost, chosen: Sequence[Option]) -> Cost:
    """What a network costs with these options of its tables; `fixed`: without any."""
    params = fixed.params + sum(option.cost.params for option in chosen)
    return Cost(params, fixed.macs + sum(option.cost.macs for option in chosen))


def _exchanged(cost: Cost, before: Option, after: Option) -> Cost:
    params = cost.params - before.cost.params + after.cost.params
    return Cost(params, cost.macs - before.cost.macs + after.cost.macs)


def _impossible(fixed: Cost, found: Sequence[Table], budget: Budget, times: Times | None) -> str:
    least = summed(fixed, [table.options[-1] for table in found])
    limits = [f"{limit:,} {name}" for name, limit in (("params", budget.params), ("macs", budget.macs)) if limit]
    has = f"the smallest has {least.params:,} params and {least.macs:,} macs"
    if budget.latency_ms is not None and times is not None:
        limits.append(f"{budget.latency_ms:.4g} ms")
        quickest = [min(range(len(of)), key=lambda i: min(of[i])) for of in times.options]
        has += f", the fastest takes about {times.predicted(quickest):.4g} ms"
    return f"no group counts bring this network within {' and '.join(limits)}: {has}; raise the budget, or skip fewer layers"
