"""Where the channels of a whole network stand, so that the layers to be grouped keep much in their diagonal blocks. Floor 6.

A grouped layer reads and writes its groups as consecutive equal slices of two tensors. Channels that many layers share (behind
sums, for example) have one order for all of them; then no gather is needed at all. A layer can also be given a gather of its
own: it then reads its input in an order of its own, at the price of one gather when the network runs.

The search goes block by block (`channels.py`): given the places of all others, the best places of one block's channels are an
assignment problem, solved exactly. Noise on its gains that fades from round to round leads out of bad beginnings.

A layer may count kernels between different groups too, by an affinity of its groups: one order then serves several group counts,
the groups of one inside those of another (levels.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError, near
from ..permutations import solve
from ..permutations.assignment import balanced
from .channels import Atoms, Channels

Gains = NDArray[np.float64]


@dataclass(frozen=True)
class Grouped:
    """A layer that is to have groups.

    Args:
        name: of the node.
        source: the tensor that it reads.
        criterion: (out, in), not negative: what is lost where a kernel is cut.
        groups: divides both.
        weight: of a unit of its criterion in the sum over layers.
        gather: whether it has an input order of its own.
        alone: good orders of its rows and columns, each the other layers left aside, as `permutations.solve` gives them.
        affinity: (groups, groups): what a kernel counts by the group of its row and that of its column, 1 on the diagonal; None:
            nothing between different groups.

    Raises:
        UsageError: groups that do not divide both sides, or an affinity of other groups.
    """

    name: str
    source: str
    criterion: Gains
    groups: int
    weight: float = 1.0
    gather: bool = False
    alone: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
    affinity: Gains | None = None

    def __post_init__(self) -> None:
        outputs, inputs = self.criterion.shape
        if self.affinity is not None and self.affinity.shape != (self.groups, self.groups):
            raise UsageError(
                f"the affinity of {self.name!r} is {self.affinity.shape}; it must be one of {self.groups} groups"
            )
        if self.groups < 1 or outputs % self.groups or inputs % self.groups:
            raise UsageError(
                f"{self.groups} groups do not divide the {outputs} output and {inputs} input channels of {self.name!r}; "
                f"take a divisor of {math.gcd(outputs, inputs)}"
            )

    def counted(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> float:
        """The sum of what counts of the criterion, where the channels are in these groups; (out,) and (in,)."""
        if self.affinity is not None:
            if self.groups > len(columns) // 2:
                return float(np.vdot(self.criterion, self.affinity[:, columns][rows]))
            return float(np.vdot(self.criterion @ np.eye(self.groups)[columns], self.affinity[rows]))
        same = rows[:, None] == columns
        return float(self.criterion[same].sum())


@dataclass(frozen=True)
class Orders:
    """Where channels stand.

    Args:
        stored: for each atom the one that takes its place.
        gathers: for each layer with one, which of the places of its input it reads, in its order; (in,).
        rows, columns: for each layer the group of each output and input channel, by their original numbers.
        kept: of each layer, the share of its criterion inside its groups (by its affinity, if it has one).
    """

    stored: Atoms
    gathers: dict[str, NDArray[np.int64]]
    rows: dict[str, NDArray[np.int64]]
    columns: dict[str, NDArray[np.int64]]
    kept: dict[str, float]


def settle(
    channels: Channels,
    layers: Sequence[Grouped],
    *,
    seed: int = 0,
    rounds: int = 12,
    starts: int = 2,
    begin: Orders | None = None,
) -> Orders:
    """Orders of all channels that keep much of the layers' criteria, summed by their weights: the best of `starts` searches.

    Args:
        rounds: over all blocks, the noise fading; then on until nothing gains.
        begin: of the same layers, perhaps with fewer gathers: one search, from there, without noise; it keeps no less.

    Raises:
        UsageError: a layer that is not in the network, or whose criterion has another shape.
    """
    for layer in layers:
        _check(layer, channels)
    if begin is not None:
        search = _Search(channels, layers, np.random.default_rng(seed))
        search.resume(begin)
        search.run(0)
        return search.result()
    best: tuple[float, _Search] | None = None
    for start in range(starts):
        search = _Search(channels, layers, np.random.default_rng([seed, start]))
        search.begin(follow=start % 2 == 0)
        search.run(rounds if start else 0)
        total = search.total()
        if best is None or total > best[0]:
            best = (total, search)
    assert best is not None
    return best[1].result()


class _Side:
    """One side (outputs or inputs) of a layer: the group of each of its channels, by atom."""

    def __init__(self, layer: Grouped, tensor: str, axis: int, atoms: Atoms) -> None:
        self.layer, self.tensor, self.axis = layer, tensor, axis
        self.atoms = atoms
        self.slot_group = np.repeat(np.arange(layer.groups), len(atoms) // layer.groups)  # of each place
        self.group = self.slot_group.copy()  # of each original channel: where it stands now
        self.every = np.arange(len(atoms))


class _Search:
    """The state of one search."""

    def __init__(self, channels: Channels, layers: Sequence[Grouped], rng: np.random.Generator) -> None:
        self.channels, self.layers, self.rng = channels, layers, rng
        self.stored = channels.same()
        self.rows = {layer.name: _Side(layer, layer.name, 0, channels.of[layer.name]) for layer in layers}
        self.columns = {layer.name: _Side(layer, layer.source, 1, channels.of[layer.source]) for layer in layers}
        shared = [*self.rows.values(), *(side for side in self.columns.values() if not side.layer.gather)]
        self.blocks = []
        for block in channels.blocks:
            member = np.zeros(channels.count, dtype=bool)
            member[block] = True
            sides = [(side, places_of(side.atoms, block)) for side in shared if member[side.atoms].any()]
            if sides:
                self.blocks.append((block, sides))

    def total(self) -> float:
        """What is kept, by weights."""
        return sum(layer.weight * self._inside(layer) for layer in self.layers)

    def begin(self, follow: bool) -> None:
        """Begin as the layers alone would have it, the heaviest first (`follow`), or at random."""
        if not follow:
            for block, sides in self.blocks:
                self._place(block, sides, self.rng.permutation(len(block)))
            for side in self._gathered():
                side.group = self.rng.permutation(side.slot_group)
            return
        blocks = {
            id(side): (block, sides)
            for block, sides in self.blocks
            for side, _ in sides
            if len(block) == len(side.atoms)
        }
        settled: set[int] = set()
        for layer in sorted(self.layers, key=lambda layer: -layer.weight * float(layer.criterion.sum())):
            rows, columns = layer.alone or solve(layer.criterion, layer.groups, method="quick")
            for side, order in ((self.rows[layer.name], rows), (self.columns[layer.name], columns)):
                if side.axis and layer.gather:
                    side.group[order] = side.slot_group
                elif id(side) in blocks:
                    block, sides = blocks[id(side)]
                    if int(block[0]) not in settled:
                        settled.add(int(block[0]))
                        self._place(block, sides, _slots_of(side, block, order))

    def resume(self, orders: Orders) -> None:
        """Begin where these orders are."""
        self.stored = orders.stored.copy()
        for sides, groups in ((self.rows, orders.rows), (self.columns, orders.columns)):
            for name, side in sides.items():
                side.group = groups[name].copy()

    def run(self, rounds: int) -> None:
        """Rounds with fading noise, then rounds until nothing gains."""
        for number in range(rounds):
            self._round(0.5 * (1 - number / rounds) ** 2)
        before = self.total()
        for _ in range(50):
            self._round(0.0)
            after = self.total()
            if after <= before * (1 + 1e-6):
                break
            before = after

    def _round(self, heat: float) -> None:
        for number in self.rng.permutation(len(self.blocks)):
            block, sides = self.blocks[number]
            self._improve(block, sides, heat)
        for side in self._gathered():
            gains = self._gains(side, side.every, np.arange(side.layer.groups))
            if heat:
                gains = gains + heat * gains.std() * self.rng.gumbel(size=gains.shape)
            side.group = balanced(gains, side.group)

    def _gathered(self) -> list[_Side]:
        return [side for side in self.columns.values() if side.layer.gather]

    def _gains(self, side: _Side, channels: NDArray[np.int64], groups: NDArray[np.int64]) -> Gains:
        """What these channels of a side keep in these groups, the other side as it is; (channels, groups)."""
        other = (self.columns if side.axis == 0 else self.rows)[side.layer.name]
        matrix = side.layer.criterion if side.axis == 0 else side.layer.criterion.T
        if (affinity := side.layer.affinity) is not None:
            worth = affinity[groups].T if side.axis == 0 else affinity[:, groups]
            return np.asarray(matrix[channels] @ (side.layer.weight * worth)[other.group])
        hot = np.zeros((len(other.group), side.layer.groups))
        hot[np.arange(len(other.group)), other.group] = side.layer.weight
        return np.asarray(matrix @ hot)[channels][:, groups]

    def _improve(self, block: Atoms, sides: list[tuple[_Side, NDArray[np.int64]]], heat: float) -> None:
        """The best places of a block's atoms given all else; where a layer has it on both sides, only if it gains indeed."""
        size = len(block)
        cells = np.concatenate(
            [side.slot_group[places] for side, places in sides], axis=1
        )  # of each place of the block
        kinds, kind = np.unique(cells, axis=0, return_inverse=True)
        kind = kind.reshape(-1)
        gains = np.zeros((size, len(kinds)))
        at = 0
        for side, places in sides:
            for number in range(places.shape[1]):
                gains += self._gains(side, places[:, number], kinds[:, at])
                at += 1
        if heat:
            gains += heat * gains.std() * self.rng.gumbel(size=gains.shape)
        slot_of = np.empty(size, dtype=np.int64)  # where each atom of the block stands now, as a place of the block
        slot_of[np.searchsorted(block, self.stored[block])] = np.arange(size)
        found = _assigned(gains, kind, kind[slot_of], sides[0][0].layer.affinity is not None)
        order = np.argsort(found, kind="stable")  # atoms by kind of place
        places_by_kind = np.argsort(kind, kind="stable")
        chosen = np.empty(size, dtype=np.int64)
        chosen[places_by_kind] = order
        names = [side.layer.name for side, _ in sides]
        if heat or len(set(names)) == len(names):
            self._place(block, sides, chosen)
            return
        before, kept = self.total(), self.stored[block].copy()
        self._place(block, sides, chosen)
        if self.total() < before:
            self._place(block, sides, np.searchsorted(block, kept))

    def _place(self, block: Atoms, sides: list[tuple[_Side, NDArray[np.int64]]], chosen: NDArray[np.int64]) -> None:
        """Put atom block[chosen[i]] in the place of atom block[i]."""
        self.stored[block] = block[chosen]
        for side, places in sides:
            side.group[places[chosen]] = side.slot_group[places]

    def _inside(self, layer: Grouped) -> float:
        return layer.counted(self.rows[layer.name].group, self.columns[layer.name].group)

    def result(self) -> Orders:
        """As data."""
        gathers = {}
        for side in self._gathered():
            order = self.channels.order(side.tensor, self.stored)  # the channel at each place
            gathers[side.layer.name] = np.argsort(side.group[order], kind="stable")
        kept = {layer.name: self._inside(layer) / max(float(layer.criterion.sum()), 1e-300) for layer in self.layers}
        rows = {name: side.group for name, side in self.rows.items()}
        return Orders(self.stored, gathers, rows, {name: side.group for name, side in self.columns.items()}, kept)


def _check(layer: Grouped, channels: Channels) -> None:
    for name in (layer.name, layer.source):
        if name not in channels.of:
            raise UsageError(f"no node {name!r}{near(name, channels.of)}")
    sides = (len(channels.of[layer.name]), len(channels.of[layer.source]))
    if layer.criterion.shape != sides:
        raise UsageError(
            f"the criterion of {layer.name!r} is {' x '.join(map(str, layer.criterion.shape))}; its layer has {sides[0]} output "
            f"and {sides[1]} input channels"
        )


def places_of(atoms: Atoms, block: Atoms) -> NDArray[np.int64]:
    """The places in a tensor of each atom of a block, in the block's order; (atoms, times that each is there)."""
    by_atom = np.argsort(atoms, kind="stable")
    first = np.searchsorted(atoms[by_atom], block)
    last = np.searchsorted(atoms[by_atom], block, side="right")
    return np.asarray(by_atom[first[:, None] + np.arange(int((last - first)[0]))])


def _slots_of(side: _Side, block: Atoms, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """The atom (by its number in the block) for each place of the block, where the side's channels shall stand in `order`."""
    place = np.searchsorted(block, side.atoms)  # of each channel's atom in the block
    chosen = np.empty(len(block), dtype=np.int64)
    chosen[place] = place[order]
    return chosen


def _assigned(gains: Gains, kind: NDArray[np.int64], now: NDArray[np.int64], nested: bool) -> NDArray[np.int64]:
    """The kind of place for each atom, as many of each as there are, of the highest total gain.

    Args:
        now: where they stand.
        nested: whether layers have an affinity: then one place a kind is common, and what begins from nothing is faster there.
    """
    counts = np.bincount(kind)
    if len(counts) == 1:
        return now
    if (counts == counts[0]).all() and not (nested and counts[0] == 1):
        return balanced(gains, now)
    from scipy.optimize import linear_sum_assignment

    columns = np.repeat(np.arange(len(counts)), counts)
    _, found = linear_sum_assignment(gains[:, columns], maximize=True)
    return columns[found]
