"""How many of every M weights each layer keeps: the same N for all, or least harm inside a budget. Floor 6.

Budgets are of nonzero weights: parameters, and multiply-adds with what is not left out. Choosing an N for each layer is a
multiple-choice knapsack (spec/knapsack.py), solved exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from torch import Tensor

from ..errors import UsageError
from ..nn.sparse import strongest
from ..spec import Budget, Cost
from ..spec.graph import GraphArchitecture
from ..spec.sparsity import Sparsity
from .configuration import TIE, Option, Table, fullest, summed
from .sparse_masks import kept_shares

#: Gives tables the harm of their options (`sensitivity.measured`).
Measure = Callable[[Sequence[Table]], Sequence[Table]]


def sparsities(
    graph: GraphArchitecture,
    scores: Mapping[str, Tensor],
    m: int,
    n: int | None = None,
    axis: str = "in",
    budget: Budget | None = None,
    measure: Measure | None = None,
) -> dict[str, Sparsity]:
    """N:M of each layer that has scores; layers that keep all of their weights are left out.

    Args:
        scores: of the layers to make sparse, by name; see `sparse_masks.weight_scores`.
        n: the same for all; None: chosen for each layer inside the budget, which is then needed.
        budget: on parameters and multiply-adds, those that are left out not counted.
        measure: gives the harm of each option, which is then minimised where N is chosen; without it the lost share is.

    Raises:
        UsageError: not 1 <= n <= m; neither n nor a budget; a budget that is missed: says the N that meets it, or the smallest.
    """
    if n is not None:
        Sparsity(n, m, axis)
        if n == m:
            raise UsageError(f"{n}:{m} keeps every weight: take an N below {m}")
    if budget is not None and budget.latency_ms is not None:
        raise _no_latency()
    if budget is None or (budget.params is None and budget.macs is None):
        if n is None:
            raise UsageError("give N, as in 2:4, or a budget on nonzero MACs or parameters, from which N is chosen")
        return {name: Sparsity(n, m, axis) for name in scores}
    found = line_tables(graph, scores, m, axis)
    if n is not None:
        _check_uniform(graph, found, n, m, budget)
        return {name: Sparsity(n, m, axis) for name in scores}
    if measure is not None:
        found = measure(found)
    chosen = _configured(graph, found, budget, m)
    return {
        table.name: Sparsity(option.n, m, axis)
        for table, option in zip(found, chosen, strict=True)
        if option.n is not None
        and option is not table.options[0]  # which keeps all, on short lines by an N below M too
    }


def line_tables(graph: GraphArchitecture, scores: Mapping[str, Tensor], m: int, axis: str = "in") -> Sequence[Table]:
    """A table for each layer: an option for each N that keeps another number of weights, the dense layer first."""
    found = []
    for name, each in scores.items():
        node, convolution = graph.node(name), graph.convolution(name)
        _, height, width = graph.shapes[name]
        shares = kept_shares(each, m, axis, convolution.groups)
        options: dict[int, Option] = {}
        for n in range(m, 0, -1):
            weights = replace(convolution, sparsity=(n, m), sparse_axis=axis).kept_weights
            cost = Cost(weights, weights * height * width)
            options[weights] = Option(convolution.groups, max(0.0, 1.0 - shares[n - 1]), cost, n=n)
        found.append(Table(name, node.reads[0], np.zeros((0, 0)), tuple(options.values())))
    return found


def cut_lines(m: int, axis: str, scores: Mapping[str, Tensor]) -> Callable[[Table, Option, Tensor], Tensor | None]:
    """What an option makes of a weight, for `sensitivity.measured`: zeros where the mask of its N leaves weights out."""

    @cache
    def mask(name: str, n: int, groups: int) -> Tensor:
        return strongest(scores[name], Sparsity(n, m, axis), groups)

    def cutting(table: Table, option: Option, weight: Tensor) -> Tensor | None:
        if option.n is None or option.n == m:
            return None
        return weight * mask(table.name, option.n, option.groups).to(weight)

    return cutting


def _configured(graph: GraphArchitecture, found: Sequence[Table], budget: Budget, m: int) -> list[Option]:
    fixed = _fixed(graph, found)
    names = [name for name in ("params", "macs") if getattr(budget, name) is not None]
    values = [[-table.harm(option) - TIE * option.lost for option in table.options] for table in found]
    costs = [[[getattr(option.cost, name) for name in names] for option in table.options] for table in found]
    limits = [getattr(budget, name) - getattr(fixed, name) for name in names]
    chosen = fullest(values, costs, limits, [getattr(budget, name) for name in names])
    if not chosen:
        raise UsageError(_impossible(summed(fixed, [table.options[-1] for table in found]), budget, m))
    return [table.options[i] for table, i in zip(found, chosen, strict=True)]


def _check_uniform(graph: GraphArchitecture, found: Sequence[Table], n: int, m: int, budget: Budget) -> None:
    """Raise UsageError unless N:M in all layers meets the budget."""
    fixed = _fixed(graph, found)

    def cost(n: int) -> Cost:
        return summed(fixed, [_option(table, n, m) for table in found])

    if budget.admits(*cost(n)):
        return
    meets = [each for each in range(1, n) if budget.admits(*cost(each))]
    if not meets:
        raise UsageError(_impossible(cost(1), budget, m))
    has, fits = cost(n), cost(meets[-1])
    raise UsageError(
        f"{n}:{m} has {has.params:,} params and {has.macs:,} nonzero macs, the budget is {_limits(budget)}; "
        f"{meets[-1]}:{m} meets it with {fits.params:,} and {fits.macs:,}; or leave N out, and it is chosen layer by layer"
    )


def _option(table: Table, n: int, m: int) -> Option:
    """That of N; where several keep as many weights, the smallest of them stands in the table."""
    return max((option for option in table.options if (option.n or m) <= n), key=lambda option: option.n or m)


def _fixed(graph: GraphArchitecture, found: Sequence[Table]) -> Cost:
    """What the network costs without the layers of the tables."""
    dense = [table.options[0].cost for table in found]
    params = graph.params - sum(cost.params for cost in dense)
    return Cost(params, graph.nonzero_macs - sum(cost.macs for cost in dense))


def _limits(budget: Budget) -> str:
    limits = [
        f"{limit:,} {name}" for name, limit in (("params", budget.params), ("nonzero macs", budget.macs)) if limit
    ]
    return " and ".join(limits)


def _impossible(least: Cost, budget: Budget, m: int) -> str:
    larger = 2 ** math.ceil(math.log2(m + 1))
    return (
        f"no N of {m} brings this network within {_limits(budget)}: the smallest, 1:{m} in all layers, has {least.params:,} params "
        f"and {least.macs:,} nonzero macs; raise the budget, skip fewer layers, or take a larger M, such as {larger}"
    )


def _no_latency() -> UsageError:
    return UsageError(
        "N:M sparsity cannot be chosen by a limit on latency: that of single layers is not predicted; limit nonzero MACs or params"
    )
