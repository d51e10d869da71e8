"""Channels to groups of equal size, exactly: a transportation problem, solved by cycles from an answer that is there already.

Exchanging channels along a cycle of groups keeps the sizes. An assignment is the best there is exactly if no cycle gains anything
(Klein 1967, for flows), so cycles are looked for until there is none. From a good start, as an alternation or an annealing has one,
that takes a few, where `scipy.optimize.linear_sum_assignment` on repeated columns begins from nothing each time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .types import Gains, Groups


def balanced(gains_NG: Gains, start_N: Groups) -> Groups:
    """The assignment of the highest total gain.

    Args:
        gains_NG: of each channel in each group.
        start_N: groups of equal size to begin with; the better, the faster.
    """
    count, groups = gains_NG.shape
    found_N = start_N.copy()
    tolerance = 1e-10 * max(float(np.abs(gains_NG).max(initial=0.0)), 1e-300)
    each = np.arange(count)
    while groups > 1:
        members = np.argsort(found_N, kind="stable").reshape(groups, -1)
        change = (gains_NG - gains_NG[each, found_N][:, None])[members]  # (group, member, group to go to)
        which = change.argmax(axis=1)
        moves_GG = np.take_along_axis(change, which[:, None], axis=1)[:, 0]
        cycles = _gaining_cycles(moves_GG, tolerance)
        if not cycles:
            break
        for cycle in cycles:
            ahead = cycle[1:] + cycle[:1]
            found_N[members[cycle, which[cycle, ahead]]] = ahead
    return found_N


def _gaining_cycles(moves_GG: NDArray[np.float64], tolerance: float) -> list[list[int]]:
    """Cycles of groups, none in common, along which moving one channel each gains something; empty if there is none.

    Bellman and Ford's longest walks; a cycle among the predecessors is one that gains.
    """
    groups = len(moves_GG)
    steps_GG = moves_GG.copy()
    np.fill_diagonal(steps_GG, -np.inf)
    reach_G, before_G = np.zeros(groups), np.full(groups, -1)
    for _ in range(groups + 1):
        walks_GG = reach_G[:, None] + steps_GG
        last_G = walks_GG.argmax(axis=0)
        longer_G = walks_GG[last_G, np.arange(groups)]
        better_G = longer_G > reach_G + tolerance
        if not better_G.any():
            return []
        reach_G, before_G = np.where(better_G, longer_G, reach_G), np.where(better_G, last_G, before_G)
        cycles = [cycle for cycle in _cycles(before_G.tolist()) if _gain(cycle, steps_GG) > tolerance]
        if cycles:
            return cycles
    return []


def _gain(cycle: list[int], steps_GG: NDArray[np.float64]) -> float:
    return float(steps_GG[cycle, cycle[1:] + cycle[:1]].sum())


def _cycles(before: list[int]) -> list[list[int]]:
    """The cycles of a graph in which each node has at most one predecessor (-1: none), in the direction of the arcs."""
    seen = [0] * len(before)
    found = []
    for start in range(len(before)):
        path, node = [], start
        while node != -1 and not seen[node]:
            seen[node] = start + 1
            path.append(node)
            node = before[node]
        if node != -1 and seen[node] == start + 1:
            found.append(path[path.index(node) :][::-1])
    return found
