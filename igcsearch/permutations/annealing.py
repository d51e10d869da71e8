"""The default: groups grown from what rows have in common, an annealing of exchanges, and exact alternation behind both.

Three facts make it fast. Where the columns' groups are fixed, what a row adds in each group is one matrix product, and exchanging
two rows changes nothing for the others: hundreds of exchanges are judged and made at once. The same with rows and columns swapped.
And rows that belong together (a planted structure, however weak beside the noise) have a high inner product, as only they are large
in the same columns.
"""

from __future__ import annotations

import time
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .published import alternate, inside, random_groups
from .types import Criterion, Groups

_EFFORT = {
    16: (100, 10),
    128: (170, 3),
    384: (300, 1),
}  # sweeps of an annealing and how many of them, up to so many channels
_MOST = (500, 1)  # above
_SMALL = 128  # up to so many channels alternations from random groups cost next to nothing
_STARTS = 6000  # of them, by the square of the number of channels; never under 4
#: The ways to take two of four, the first two first.
_HALVES = np.array([[i in pair for i in range(4)] for pair in combinations(range(4), 2)], dtype=np.float64)
_HOT, _COLD = 1.4, 0.3  # temperatures, in standard deviations of what a channel adds to a group


def best(criterion: Criterion, groups: int, deadline: float | None, rng: np.random.Generator) -> tuple[Groups, Groups]:
    """Groups of rows and columns; see `solve`."""
    return _searched(criterion, groups, deadline, rng, anneals=True)


def quick(criterion: Criterion, groups: int, deadline: float | None, rng: np.random.Generator) -> tuple[Groups, Groups]:
    """As `best`, without annealing: for tables of many matrices and group counts."""
    return _searched(criterion, groups, None, rng, anneals=False)


def _searched(
    criterion: Criterion, groups: int, deadline: float | None, rng: np.random.Generator, anneals: bool
) -> tuple[Groups, Groups]:
    height, width = criterion.shape
    if groups == 1:
        return np.zeros(height, dtype=np.int64), np.zeros(width, dtype=np.int64)
    if groups == height == width:
        from scipy.optimize import linear_sum_assignment

        return np.arange(groups), np.argsort(linear_sum_assignment(-criterion)[1])
    in_order = [np.repeat(np.arange(groups), size // groups) for size in (height, width)]
    found: list[tuple[float, Groups, Groups]] = []

    def add(rows_R: Groups, cols_C: Groups) -> float:
        rows_R, cols_C = alternate(criterion, rows_R, cols_C, groups)
        if 2 * groups == height == width <= _SMALL:
            rows_R, cols_C = paired(criterion, rows_R, cols_C, groups)
        total = inside(criterion, rows_R, cols_C)
        if not found or total > found[0][0]:
            found[:] = [(total, rows_R, cols_C)]
        return total

    one, other = add(*in_order), add(alike(criterion, groups), in_order[1])
    large = max(height, width) > _SMALL
    # Two ways to one answer, among so many: there is a structure, and both saw it.
    planted = large and abs(one - other) <= 1e-9 * one
    sweeps, rounds = next((effort for size, effort in _EFFORT.items() if max(height, width) <= size), _MOST)
    sweeps = round(sweeps * min(1.0, (16 / groups) ** 0.5))
    for _ in range(0 if large or not anneals else max(4, _STARTS // max(height, width) ** 2)):
        add(*random_groups(criterion, groups, rng))
    for _ in range(0 if planted or not anneals else rounds):
        add(*anneal(criterion, *random_groups(criterion, groups, rng), sweeps, (_HOT, _COLD), deadline, rng))
    while deadline is not None and time.monotonic() < deadline:
        sweeps = sweeps * 5 // 4
        warm = rng.random() < 0.5  # half of the rounds go on from the best
        begin = found[0][1:] if warm else random_groups(criterion, groups, rng)
        add(*anneal(criterion, *begin, sweeps, (_HOT / 2 if warm else _HOT, _COLD), deadline, rng))
    return found[0][1:]


def alike(criterion: Criterion, groups: int) -> Groups:
    """Groups of equal size of rows that are large in the same columns: clusters joined, the most alike first, while they fit.

    The affinity of two clusters is the mean inner product of their rows, the matrix's row and column means taken away.
    """
    centred = criterion - criterion.mean(axis=0) - criterion.mean(axis=1, keepdims=True) + criterion.mean()
    affinity = centred @ centred.T
    count = len(affinity)
    size = count // groups
    np.fill_diagonal(affinity, -np.inf)
    label, sizes = np.arange(count), np.ones(count, dtype=np.int64)
    partner = affinity.argmax(axis=1)
    value = affinity[np.arange(count), partner]
    while True:
        one = int(value.argmax())
        if value[one] == -np.inf:
            break
        other = int(partner[one])
        joined = sizes[one] + sizes[other]
        mean = (sizes[one] * affinity[one] + sizes[other] * affinity[other]) / joined
        mean[sizes + joined > size] = -np.inf
        mean[[one, other]] = -np.inf
        affinity[one], affinity[:, one] = mean, mean
        affinity[other], affinity[:, other] = -np.inf, -np.inf
        label[label == other] = one
        sizes[one], sizes[other] = joined, 2 * count  # too large for anything
        stale = np.flatnonzero((partner == one) | (partner == other))
        stale = np.unique(np.append(stale, [one, other]))
        partner[stale] = affinity[stale].argmax(axis=1)
        value[stale] = affinity[stale, partner[stale]]
        higher = mean > value
        partner[higher], value[higher] = one, mean[higher]
    return _filled(label, size)


def _filled(label: NDArray[np.int64], size: int) -> Groups:
    """Clusters of at most `size` members as groups of just so many: the largest stay together, the smallest fill up."""
    names, counts = np.unique(label, return_counts=True)
    rank = np.empty(len(label), dtype=np.int64)
    for place, name in enumerate(names[np.argsort(-counts, kind="stable")]):
        rank[label == name] = place
    whole = np.argsort(rank, kind="stable")
    groups = np.empty(len(label), dtype=np.int64)
    groups[whole] = np.arange(len(label)) // size
    return groups


def anneal(
    criterion: Criterion,
    rows_R: Groups,
    cols_C: Groups,
    sweeps: int,
    temperatures: tuple[float, float],
    deadline: float | None,
    rng: np.random.Generator,
) -> tuple[Groups, Groups]:
    """Simulated annealing by exchanges of channels between groups; a sweep tries half of the rows and half of the columns.

    Args:
        temperatures: first and last, in standard deviations of a channel's gain; they fall geometrically.
        deadline: it may end before its sweeps are done.
    """
    groups = int(rows_R.max()) + 1
    narrow = np.ascontiguousarray(criterion, dtype=np.float32)
    turned = np.ascontiguousarray(narrow.T)
    ones = np.eye(groups, dtype=np.float32)
    rows_R, cols_C = rows_R.copy(), cols_C.copy()
    spread = float(narrow.std())
    sides = [(narrow, rows_R, cols_C), (turned, cols_C, rows_R)]
    scales = [spread * np.sqrt(len(other) / groups) for _, _, other in sides]
    for heat in np.geomspace(*temperatures, sweeps):
        if deadline is not None and time.monotonic() > deadline:
            break
        for (matrix, own, other), scale in zip(sides, scales, strict=True):
            _exchange(matrix @ ones[other], own, np.float32(heat * scale), rng)
    return rows_R, cols_C


def paired(criterion: Criterion, rows_R: Groups, cols_C: Groups, groups: int) -> tuple[Groups, Groups]:
    """Every two groups of two rows and two columns divided anew, both sides at once, until no two gain by it.

    With groups as small as that, exchanges of one side alone lead nowhere long before the optimum.
    """
    rows_GK, cols_GK = (np.argsort(side, kind="stable").reshape(groups, 2) for side in (rows_R, cols_C))
    one, other = (index.astype(np.int64) for index in np.triu_indices(groups, 1))
    while True:
        rows_P4, cols_P4 = (np.concatenate([side[one], side[other]], axis=1) for side in (rows_GK, cols_GK))
        table_P44 = criterion[rows_P4[:, :, None], cols_P4[:, None, :]]
        values_P66 = _HALVES @ table_P44 @ _HALVES.T + (1 - _HALVES) @ table_P44 @ (1 - _HALVES).T
        flat = values_P66.reshape(len(one), -1)
        choice = flat.argmax(axis=1)
        gain = flat[np.arange(len(one)), choice] - values_P66[:, 0, 0]  # the first half is the division that there is
        if gain.max() <= 1e-12 * abs(values_P66).max():
            return _members(rows_GK), _members(cols_GK)
        free = np.ones(groups, dtype=bool)
        for pair in np.argsort(-gain, kind="stable"):
            g, h = one[pair], other[pair]
            if gain[pair] <= 0:
                break
            if free[g] and free[h]:
                free[[g, h]] = False
                for side_GK, side_P4, half in zip(
                    (rows_GK, cols_GK), (rows_P4, cols_P4), divmod(choice[pair], 6), strict=True
                ):
                    mine = _HALVES[half].astype(bool)
                    side_GK[g], side_GK[h] = side_P4[pair][mine], side_P4[pair][~mine]


def _members(side_GK: NDArray[np.int64]) -> Groups:
    groups = np.empty(side_GK.size, dtype=np.int64)
    groups[side_GK.reshape(-1)] = np.repeat(np.arange(len(side_GK)), side_GK.shape[1])
    return groups


def _exchange(gains_NG: NDArray[np.float32], groups_N: Groups, heat: np.float32, rng: np.random.Generator) -> None:
    """Half of the channels, drawn at random, each propose to go to a group that is good for them, in exchange for one of it.

    The wanted group is the best one after noise of the size of the temperature; the exchange is taken as in Metropolis' rule, and
    where two touch the same channel the later one alone, so that all that are made are independent.
    """
    count, groups = gains_NG.shape
    shuffled = rng.permutation(count)
    members = shuffled[np.argsort(groups_N[shuffled], kind="stable")].reshape(groups, -1)
    mover = shuffled[: count // 2]
    noise = rng.standard_exponential((len(mover), groups), dtype=np.float32)
    target = (gains_NG[mover] + heat * noise).argmax(axis=1)
    partner = members[target, np.arange(len(mover)) % members.shape[1]]
    home = groups_N[mover]
    change = gains_NG[mover, target] + gains_NG[partner, home] - gains_NG[mover, home] - gains_NG[partner, target]
    taken = change > -0.5 * heat * rng.standard_exponential(len(mover), dtype=np.float32)
    taken &= target != home
    mover, partner, target, home = mover[taken], partner[taken], target[taken], home[taken]
    owner = np.full(count, -1)
    number = np.arange(len(mover))
    owner[partner] = number
    owner[mover] = number
    alone = (owner[mover] == number) & (owner[partner] == number)
    groups_N[mover[alone]], groups_N[partner[alone]] = target[alone], home[alone]
