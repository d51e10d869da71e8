"""What others do, by their names, to compare with; and the plain alternation that beats both."""

from __future__ import annotations

import time

import numpy as np

from .assignment import balanced
from .types import Criterion, Groups

SORTS = 10  # gconv-prune's N_S in all its runs
PROGRAMS = 20  # StrucSpars' iterations at the start of a CIFAR training
STARTS = 8  # of `alternating`


def alternate(criterion: Criterion, rows_R: Groups, cols_C: Groups, groups: int) -> tuple[Groups, Groups]:
    """Columns, then rows to their best groups and so on until nothing changes; what the columns were before hardly matters."""
    ones, before = np.eye(groups), -1.0
    while True:
        cols_C = balanced(criterion.T @ ones[rows_R], cols_C)
        gains_RG = criterion @ ones[cols_C]
        rows_R = balanced(gains_RG, rows_R)
        total = float(gains_RG[np.arange(len(rows_R)), rows_R].sum())
        if total <= before * (1 + 1e-12):
            return rows_R, cols_C
        before = total


def alternating(
    criterion: Criterion, groups: int, deadline: float | None, rng: np.random.Generator
) -> tuple[Groups, Groups]:
    """`alternate` from random groups, 8 times or until the deadline; the best."""
    found: tuple[float, Groups, Groups] | None = None
    starts = 0
    while not starts or (starts < STARTS if deadline is None else time.monotonic() < deadline):
        starts += 1
        rows, cols = alternate(criterion, *random_groups(criterion, groups, rng), groups)
        total = inside(criterion, rows, cols)
        if found is None or total > found[0]:
            found = total, rows, cols
    assert found is not None
    return found[1:]


def random_groups(criterion: Criterion, groups: int, rng: np.random.Generator) -> tuple[Groups, Groups]:
    """Groups of equal size for rows and columns."""
    height, width = criterion.shape
    rows, cols = (rng.permutation(np.repeat(np.arange(groups), size // groups)) for size in (height, width))
    return rows, cols


def inside(criterion: Criterion, rows_R: Groups, cols_C: Groups) -> float:
    """The sum of the entries whose row and column are of one group."""
    return float(criterion[rows_R[:, None] == cols_C[None, :]].sum())


def gconv_prune(
    criterion: Criterion, groups: int, deadline: float | None, rng: np.random.Generator
) -> tuple[Groups, Groups]:
    """The heuristic of gconv-prune (Zhao and Luk, 2019; `papers/compression.md` 3.2): corner blocks by sorting, then a matching.

    From the last group on, columns and rows of what is left are sorted by their sums over the corner block's rows and columns, in
    turn, `SORTS` times; in the end blocks of rows and blocks of columns are paired by one linear assignment.
    """
    from scipy.optimize import linear_sum_assignment

    height, width = (size // groups for size in criterion.shape)
    rows, cols = (np.arange(size) for size in criterion.shape)
    for left in range(groups, 0, -1):
        bottom, right = left * height, left * width
        for _ in range(SORTS):
            block = criterion[rows[bottom - height : bottom]][:, cols[:right]]
            cols[:right] = cols[:right][np.argsort(block.sum(axis=0), kind="stable")]
            block = criterion[rows[:bottom]][:, cols[right - width : right]]
            rows[:bottom] = rows[:bottom][np.argsort(block.sum(axis=1), kind="stable")]
    sums_GG = criterion[rows][:, cols].reshape(groups, height, groups, width).sum(axis=(1, 3))
    partner = linear_sum_assignment(-sums_GG)[1]
    rows_R, cols_C = (np.empty(size, dtype=np.int64) for size in criterion.shape)
    rows_R[rows] = np.repeat(np.arange(groups), height)
    cols_C[cols] = np.repeat(np.argsort(partner), width)
    return rows_R, cols_C


def strucspars(
    criterion: Criterion, groups: int, deadline: float | None, rng: np.random.Generator
) -> tuple[Groups, Groups]:
    """The alternating linear programs of StrucSpars (Zhang et al., UAI 2021; `papers/compression.md` 1.1 and 1.2).

    Rows, then columns, are put where the matrix costs least under a penalty for the off-diagonal quadrants, halved at each deeper
    level; 20 times. One pair of permutations serves all group counts. The programs' vertices are permutations, so each is solved as
    a linear assignment.
    """
    from scipy.optimize import linear_sum_assignment

    height, width = criterion.shape
    penalty = _penalty(height, width)
    rows, cols, before = np.arange(height), np.arange(width), np.inf
    for _ in range(PROGRAMS):
        # place i takes row r at the cost sum_j S[r, cols[j]] * penalty[i, j]
        rows = linear_sum_assignment(penalty @ criterion[:, cols].T)[1]
        cols = linear_sum_assignment(penalty.T @ criterion[rows])[1]
        cost = float((criterion[rows][:, cols] * penalty).sum())
        if cost >= before * (1 - 1e-12):
            break
        before = cost
    rows_R, cols_C = (np.empty(size, dtype=np.int64) for size in (height, width))
    rows_R[rows] = np.repeat(np.arange(groups), height // groups)
    cols_C[cols] = np.repeat(np.arange(groups), width // groups)
    return rows_R, cols_C


def _penalty(height: int, width: int, value: float = 1.0) -> Criterion:
    """1 in the off-diagonal quadrants, half of it in those of the diagonal ones, and so on while both sides are even."""
    penalty = np.zeros((height, width))
    if height % 2 or width % 2:
        return penalty
    middle, centre = height // 2, width // 2
    penalty[:middle, centre:] = penalty[middle:, :centre] = value
    penalty[:middle, :centre] = penalty[middle:, centre:] = _penalty(middle, centre, value / 2)
    return penalty
