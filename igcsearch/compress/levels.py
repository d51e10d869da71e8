"""Levels of a layer: a chain of group counts, the groups of each inside those of the one before, and one order for all. Floor 6.

Structured sparsification (Zhang et al., UAI 2021) cuts layers deeper and deeper while they train, so the order of channels must be
good for every level at once: a kernel between two channels costs 1 where they part at the first level, `DECAY` where they part at
the second, and so on, 0 where they never do. The published levels are powers of two; here they are 1, p1, p1 p2 ... with the prime
factors of the common divisor of both channel counts, ascending, so that any width has levels and the last is depthwise.

Orders of a whole network come from its one search (orders.py) with that affinity. Up to `AT_ONCE` groups are searched for at once;
what is deeper is found inside those, where channels are few. A layer with a gather has an order of its own for its input.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..permutations import solve
from ..spec import Budget, Cost
from ..spec.digits import prime_digits
from ..spec.graph import GraphArchitecture
from .channels import Atoms, Channels
from .configuration import Option, Table, cost_of
from .criterion import Matrix
from .orders import Grouped, Orders, places_of, settle

DECAY = 0.5  # of what a kernel costs, from level to level
AT_ONCE = 16  # groups: of ResNet-18, 6 s where 64 take 14, and as much is kept
MOST_ALONE = (
    1024  # channels at a side, above which a layer has no order of its own to begin with: it would take too long
)
Groups = NDArray[np.int64]


def levels(outputs: int, inputs: int) -> tuple[int, ...]:
    """The group counts of a layer of those channels: 1, p1, p1 p2, ..., their greatest common divisor."""
    return tuple(accumulate(prime_digits(math.gcd(outputs, inputs)), operator.mul, initial=1))


def apart(rows: Groups, columns: Groups, counts: Sequence[int], splits: int | None = None) -> Matrix:
    """What each kernel costs, (out, in), by the level at which its channels part.

    Args:
        rows, columns: of each channel its group of the last of the counts.
        counts: of the levels.
        splits: how many levels beyond the first count; channels that part later cost nothing. None: all.
    """
    found = np.zeros((len(rows), len(columns)))
    last = len(counts) - 1 if splits is None else splits
    for depth in reversed(range(last)):
        width = counts[-1] // counts[depth + 1]
        found[(rows // width)[:, None] != columns // width] = DECAY**depth
    return found


def shares(matrix: Matrix, rows: Groups, columns: Groups, counts: Sequence[int]) -> list[float]:
    """The share of a criterion inside the groups, at each level; 1 for a criterion of zeros."""
    whole = float(matrix.sum())
    found = [1.0]
    for count in counts[1:]:
        width = counts[-1] // count
        inside = float(matrix[(rows // width)[:, None] == columns // width].sum())
        found.append(min(found[-1], inside / whole if whole > 0 else 1.0))
    return found


def deepest(kept: Sequence[float], threshold: float) -> int:
    """The number of the last level that keeps all but a share of the criterion."""
    return max(number for number, share in enumerate(kept) if share >= 1 - threshold)


def check_threshold(threshold: float) -> None:
    """Raise UsageError unless 0 < threshold < 1."""
    if not 0 < threshold < 1:
        raise UsageError(f"threshold {threshold:g} is no share to lose; give one above 0 and below 1, such as 0.1")


def check_delta(delta: float) -> None:
    """Raise UsageError unless delta is a step of lambda: above 0, and finite."""
    if not 0 < delta < float("inf"):
        raise UsageError(f"delta {delta:g} is no step of lambda; give one above 0, or none for the default")


@dataclass(frozen=True)
class Leveled:
    """A layer that is to be given a level; as `Grouped`, which has more on the arguments."""

    name: str
    source: str
    criterion: Matrix
    weight: float = 1.0
    gather: bool = False

    @property
    def counts(self) -> tuple[int, ...]:
        """The group counts of its levels."""
        return levels(*self.criterion.shape)

    def grouped(self, most: int | None = None, at: tuple[Groups, Groups] | None = None) -> Grouped:
        """The layer with the groups of its deepest level, or the deepest of at most so many, and the affinity of all levels.

        Args:
            at: the channels that stand at the places of its rows and columns, in place of their own.
        """
        counts = [count for count in self.counts if most is None or count <= most]
        matrix = self.criterion if at is None else self.criterion[at[0]][:, at[1]]
        each = np.arange(counts[-1])
        weight = self.weight / max(float(self.criterion.sum()), 1e-300)
        affinity = 1 - apart(each, each, counts)
        return Grouped(self.name, self.source, matrix, counts[-1], weight, self.gather, affinity=affinity)


@dataclass(frozen=True)
class Places:
    """Where channels stand.

    Args:
        stored: for each atom the one that takes its place.
        reads: for each layer with a gather its input channels, in the order that it reads them; (in,).
    """

    stored: Atoms
    reads: dict[str, Groups] = field(default_factory=dict)


@dataclass(frozen=True)
class Nested:
    """One order of all channels for all levels.

    Args:
        places: where they stand.
        rows, columns: for each layer the group of each output and input channel at its deepest level.
        value: what is kept of the criteria over all levels, as the search sees it.
    """

    places: Places
    rows: dict[str, Groups]
    columns: dict[str, Groups]
    value: float


def nested(
    channels: Channels, layers: Sequence[Leveled], *, seed: int = 0, begin: Places | None = None, starts: int = 2
) -> Nested:
    """An order of all channels that keeps much of the layers' criteria at all of their levels.

    Args:
        begin: an order to go on from; what comes out is no worse.
        starts: searches, where there is none.
    """
    coarse = [layer.grouped(AT_ONCE) for layer in layers]
    if begin is None:
        coarse = [replace(layer, alone=_divided(layer.criterion, layer.groups)) for layer in coarse]
        orders = settle(channels, coarse, seed=seed, starts=starts)
    else:
        orders = settle(channels, coarse, seed=seed, begin=placed(channels, coarse, begin))
    found = standing(channels, layers, _refined(channels, layers, coarse, _places(coarse, orders), seed))
    if begin is None or found.value >= (before := standing(channels, layers, begin)).value:
        return found
    return before


def standing(channels: Channels, layers: Sequence[Leveled], places: Places) -> Nested:
    """The groups of the layers where channels stand in given places."""
    every = [layer.grouped() for layer in layers]
    orders = placed(channels, every, places)
    value = sum(layer.weight * orders.kept[layer.name] for layer in layers)
    return Nested(places, orders.rows, orders.columns, value)


def placed(channels: Channels, layers: Sequence[Grouped], places: Places) -> Orders:
    """The groups of layers, and what they keep, with channels in given places; those without a gather read them as they are."""
    gathers, rows, columns, kept = {}, {}, {}, {}
    for layer in layers:
        outputs, stands = (channels.order(tensor, places.stored) for tensor in (layer.name, layer.source))
        inputs = places.reads.get(layer.name, stands) if layer.gather else stands
        if layer.gather:
            gathers[layer.name] = np.argsort(stands)[inputs]
        rows[layer.name], columns[layer.name] = (_groups_of(order, layer.groups) for order in (outputs, inputs))
        whole = max(float(layer.criterion.sum()), 1e-300)
        kept[layer.name] = layer.counted(rows[layer.name], columns[layer.name]) / whole
    return Orders(places.stored, gathers, rows, columns, kept)


def _groups_of(order: Groups, groups: int) -> Groups:
    """The group of each channel, where they stand in this order."""
    found = np.empty(len(order), dtype=np.int64)
    found[order] = np.arange(len(order)) // (len(order) // groups)
    return found


def _places(layers: Sequence[Grouped], orders: Orders) -> Places:
    reads = {layer.name: np.argsort(orders.columns[layer.name], kind="stable") for layer in layers if layer.gather}
    return Places(orders.stored, reads)


def tables(graph: GraphArchitecture, layers: Sequence[Leveled], found: Nested) -> list[Table]:
    """A table for each layer: its levels, and what is lost at each in the order that serves all."""
    made = []
    for layer in layers:
        rows, columns = found.rows[layer.name], found.columns[layer.name]
        orders = (np.argsort(rows, kind="stable"), np.argsort(columns, kind="stable"))
        kept = shares(layer.criterion, rows, columns, layer.counts)
        options = [
            Option(count, 1 - share, cost_of(graph, layer.name, count), None if count == 1 else orders)
            for count, share in zip(layer.counts, kept, strict=True)
        ]
        made.append(Table(layer.name, layer.source, layer.criterion, tuple(options), layer.weight))
    return made


def cost_at(graph: GraphArchitecture, groups: Mapping[str, int]) -> Cost:
    """Of the network with so many groups in these layers."""
    params, macs = graph.cost
    for name, count in groups.items():
        dense, now = cost_of(graph, name, 1), cost_of(graph, name, count)
        params, macs = params - dense.params + now.params, macs - dense.macs + now.macs
    return Cost(params, macs)


def bisected(graph: GraphArchitecture, found: Sequence[Table], budget: Budget) -> tuple[float, Cost] | None:
    """The smallest threshold for all layers whose levels are inside a budget on cost, and that cost; None: no level is.

    The deepest level that loses no more is each layer's, as published. The threshold goes up by what a layer loses at some level,
    so it is one of those numbers, and the bisection is over them.
    """

    def cost(threshold: float) -> Cost:
        picked = {t.name: max(o.groups for o in t.options if o.lost <= threshold) for t in found}
        return cost_at(graph, picked)

    every = sorted({option.lost for table in found for option in table.options} | {0.0})
    if not budget.admits(*cost(every[-1])):
        return None
    low, high = 0, len(every) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if budget.admits(*cost(every[middle])) else (middle + 1, high)
    return every[low], cost(every[low])


def _refined(
    channels: Channels, layers: Sequence[Leveled], coarse: Sequence[Grouped], places: Places, seed: int
) -> Places:
    """The order with channels moved inside the coarse groups, for the sake of deeper levels; those of gathers move freely."""
    if all(layer.counts[-1] == wide.groups for layer, wide in zip(layers, coarse, strict=True)):
        return places
    groups = {}  # of the places of each tensor
    for wide in coarse:
        for tensor in (wide.name,) if wide.gather else (wide.name, wide.source):
            count = len(channels.of[tensor])
            groups[tensor, wide.groups] = np.arange(count) // (count // wide.groups)
    cells: list[Atoms] = []  # of each block, the places in the same groups
    for block in channels.blocks:
        inside = [
            of[places_of(channels.of[tensor], block)]
            for (tensor, _), of in groups.items()
            if np.isin(block[0], channels.of[tensor])
        ]
        if inside:
            kind = np.unique(np.concatenate(inside, axis=1), axis=0, return_inverse=True)[1].reshape(-1)
            cells += [part for each in range(kind.max() + 1) if len(part := block[kind == each]) > 1]
    inner = replace(channels, blocks=tuple(cells))
    at = {tensor: channels.order(tensor, places.stored) for tensor, _ in groups}
    inputs = {layer.name: places.reads[layer.name] if layer.gather else at[layer.source] for layer in layers}
    moved = [layer.grouped(at=(at[layer.name], inputs[layer.name])) for layer in layers]
    now = Places(channels.same(), {layer.name: np.arange(len(inputs[layer.name])) for layer in layers})
    found = _places(moved, settle(inner, moved, seed=seed, begin=placed(channels, moved, now)))
    reads = {name: inputs[name][order] for name, order in found.reads.items()}
    return Places(places.stored[found.stored], reads)


def _divided(matrix: Matrix, groups: int) -> tuple[Groups, Groups]:
    """Orders of rows and columns of a matrix alone: cut into the first level's groups, each of them in turn."""
    primes = prime_digits(groups)
    if not primes or max(matrix.shape) > MOST_ALONE:
        return np.arange(matrix.shape[0]), np.arange(matrix.shape[1])
    rows, columns = solve(matrix, primes[0], method="quick")
    found: tuple[list[Groups], list[Groups]] = ([], [])
    for r, c in zip(np.split(rows, primes[0]), np.split(columns, primes[0]), strict=True):
        inner_r, inner_c = _divided(matrix[r][:, c], groups // primes[0])
        found[0].append(r[inner_r])
        found[1].append(c[inner_c])
    return np.concatenate(found[0]), np.concatenate(found[1])
