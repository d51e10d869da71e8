"""Permutation pruning: group counts for a budget, orders of channels, and the group convolutions that equal the masks. Floor 6."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from ..errors import UsageError
from ..spec import Budget
from ..spec.graph import GraphArchitecture
from ..spec.operations import Gather
from .channels import channels_of
from .configuration import FILLED, Option, Table, Times, configured, fills, tables, uniform
from .convert import converted, difference_of, masked
from .criterion import Matrix, groupable
from .gathers import settled
from .latency import Clock
from .orders import Grouped, Orders
from .progress import Say, silent

LATENCY_TRIES = 5  # of ever smaller limits on predicted latency


@dataclass(frozen=True)
class Permuted:
    """A network with group convolutions in place of dense ones.

    Args:
        architecture, state: as it is deployed.
        kept: share of the criterion inside the groups, over all layers that could be grouped, by their weights.
        gathers: that deployment needs beside those of the network itself.
        difference: largest between the masked and the deployed network's outputs, as a share of the largest.
        layers: for each layer that could be grouped its name, channels, groups, kept share and multiply-adds before and now.
        configuration: exact, or uniform where that keeps more (does less harm, where harm was measured).
        tradeoff: pairs of a number of gathers and the share kept with so many: none, 1, 2, 4 ..., all that gain. Of those with
            more gathers than there are, what is kept at least.
        sparsified: what training before it did, where it was sparsified (publish/sparsified.py); JSON data.
    """

    architecture: GraphArchitecture
    state: dict[str, Tensor]
    kept: float
    gathers: int
    difference: float
    layers: list[dict[str, Any]]
    configuration: str
    tradeoff: list[tuple[int, float]]
    sparsified: dict[str, Any] = field(default_factory=dict)


def chosen_layers(graph: GraphArchitecture, only: Sequence[str] = (), skip: Sequence[str] = ()) -> list[str]:
    """The names of the layers to group: those that match a pattern of `only` (all without) and none of `skip`.

    Raises:
        UsageError: a pattern that matches no layer, or nothing left.
    """
    every = [node.name for node, _ in groupable(graph)]
    if not every:
        raise UsageError(
            "the network has no convolution that can be given groups: a dense one, with weights of its own; there is nothing to do"
        )
    for pattern in (*only, *skip):
        if not any(fnmatchcase(name, pattern) for name in every):
            raise UsageError(
                f"no dense convolution matches {pattern!r}; there are {', '.join(every[:6])}{' ...' * (len(every) > 6)}"
            )
    names = [name for name in every if not only or any(fnmatchcase(name, pattern) for pattern in only)]
    names = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in skip)]
    if not names:
        raise UsageError("no convolution is left to be given groups; skip fewer, or name more with --only")
    return names


def permute(
    graph: GraphArchitecture,
    state: Mapping[str, Tensor],
    criteria: Mapping[str, Matrix],
    budget: Budget,
    *,
    gathers: int | None = 0,
    seed: int = 0,
    clock: Clock | None = None,
    measure: Callable[[Sequence[Table]], Sequence[Table]] | None = None,
    say: Say = silent,
) -> Permuted:
    """Group a network's layers so that it is inside the budget and little of the criterion is lost.

    Args:
        criteria: of the layers to group, by name; see `criterion.criteria`.
        gathers: so many grouped layers, those that gain most, get an order of their own for their input; None: all that gain.
        seed: of the search for orders.
        clock: of a limit on latency. What comes out is measured against the dense network, in turn; while it is slower than the
            limit, the prediction is held against a smaller one.
        measure: gives the tables with the harm of their options, which is minimised then (`sensitivity.measured`); without it the
            lost share is.
        say: is given a line every ten seconds.

    Raises:
        UsageError: a budget that no group counts meet; says the smallest.
    """
    found: Sequence[Table] = tables(graph, criteria, say=say)
    if measure is not None:
        found = measure(found)
    return inside(
        graph, state, found, budget, gathers=gathers, seed=seed, clock=clock, harmful=measure is not None, say=say
    )


def inside(
    graph: GraphArchitecture,
    state: Mapping[str, Tensor],
    found: Sequence[Table],
    budget: Budget,
    *,
    gathers: int | None = 0,
    seed: int = 0,
    clock: Clock | None = None,
    harmful: bool = False,
    filled: float | None = None,
    begin: Callable[[Sequence[Grouped]], Orders] | None = None,
    say: Say = silent,
) -> Permuted:
    """As `permute`, of tables that are there already.

    Args:
        harmful: the summed harm decides between exact and uniform group counts, else what is kept in the end.
        filled: share of a limit on parameters or multiply-adds that what comes out fills where some group counts do; None: exact
            group counts fill configuration.FILLED, uniform ones may keep more.
        begin: orders that may be good for layers; what comes out keeps no less.
    """
    how = _How(graph, state, found, gathers, seed, harmful, filled, begin)
    if clock is None or budget.latency_ms is None:
        return _permuted(how, budget, None)
    times, limit = clock.times(found, say), budget.latency_ms
    made = None
    for _ in range(LATENCY_TRIES):
        try:
            made = _permuted(how, replace(budget, latency_ms=limit), times)
        except UsageError:
            if made is None:
                raise
            break
        ms = clock.ms(made.architecture, made.state)
        if ms <= budget.latency_ms:
            return made
        limit *= 0.98 * budget.latency_ms / ms
    raise UsageError(
        f"no group counts bring this network within {budget.latency_ms:.4g} ms: the last that was tried takes {ms:.4g} ms; "
        "raise the budget, skip fewer layers, or measure on a quiet machine"
    )


@dataclass(frozen=True)
class _How:
    """The arguments of `inside`, all but the budget."""

    graph: GraphArchitecture
    state: Mapping[str, Tensor]
    found: Sequence[Table]
    gathers: int | None
    seed: int
    harmful: bool
    filled: float | None
    begin: Callable[[Sequence[Grouped]], Orders] | None


def _permuted(how: _How, budget: Budget, times: Times | None) -> Permuted:
    graph, state, found = how.graph, how.state, how.found
    ways: dict[str, list[Option] | None] = {
        "exact": configured(graph, found, budget, times, FILLED if how.filled is None else how.filled),
        "uniform": uniform(graph, found, budget, times),
    }
    if how.filled is not None:
        full = {way: options and fills(graph, found, options, budget, how.filled) for way, options in ways.items()}
        if full["exact"] and not full["uniform"]:
            del ways["uniform"]
    chosen = {way: list(zip(found, options, strict=True)) for way, options in ways.items() if options is not None}
    if how.harmful:
        way = min(chosen, key=lambda way: sum(table.harm(option) for table, option in chosen[way]))
        chosen = {way: chosen[way]}
    channels = channels_of(graph)
    every = {}
    for way, pairs in chosen.items():
        layers = [grouped(table, option) for table, option in pairs if option.groups > 1]
        every[way] = settled(channels, layers, how.gathers, seed=how.seed, begin=how.begin)
    lost = {
        way: sum(table.weight * (1 - each.orders.kept.get(table.name, 1.0)) for table in found)
        for way, each in every.items()
    }
    way = min(lost, key=lambda way: lost[way])
    layers, orders, kept = every[way].layers, every[way].orders, every[way].kept
    architecture, weights = converted(graph, state, channels, layers, orders)
    before = sum(isinstance(node.operation, Gather) for node in graph.nodes)
    whole = sum(table.weight for table in found)
    return Permuted(
        architecture,
        weights,
        1.0 - lost[way] / whole,
        sum(isinstance(node.operation, Gather) for node in architecture.nodes) - before,
        difference_of(graph, masked(state, orders), architecture, weights),
        [_row(graph, architecture, table, orders) for table in found],
        way,
        _tradeoff(kept, sum(layer.gather for layer in layers), lost[way], whole),
    )


def _tradeoff(kept: Sequence[float], gathers: int, lost: float, whole: float) -> list[tuple[int, float]]:
    """A few of the pairs; `kept`: by the number of gathers, in units of `whole`, of which `lost` is lost with that many."""
    last = len(kept) - 1
    numbers = {0, gathers, last, *(2**power for power in range(last.bit_length()) if 2**power < last)}
    return [(number, 1.0 - (lost + kept[gathers] - kept[number]) / whole) for number in sorted(numbers)]


def grouped(table: Table, option: Option) -> Grouped:
    """A layer with the groups of an option of its table, for the search for orders of channels."""
    weight = table.weight / max(float(table.criterion.sum()), 1e-300)
    return Grouped(table.name, table.source, table.criterion, option.groups, weight, alone=option.alone)


def _row(graph: GraphArchitecture, made: GraphArchitecture, table: Table, orders: Orders) -> dict[str, Any]:
    old, new = (each.convolution(table.name) for each in (graph, made))
    return {
        "layer": table.name,
        "in_channels": old.in_channels,
        "out_channels": old.out_channels,
        "kernel_size": list(old.kernel_size),
        "groups": new.groups,
        "kept": orders.kept.get(table.name, 1.0),
        "macs_before": old.macs(graph.shapes[table.name]),
        "macs": new.macs(made.shapes[table.name]),
    }
