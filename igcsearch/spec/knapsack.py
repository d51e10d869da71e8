"""An option of each set, of the highest total value, inside limits: a multiple-choice knapsack by SciPy's HiGHS, exact. Floor 0."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

_RETRIES = 50  # of choices that the solver took for good and that are not: its constraints hold to a tolerance


def choose(
    values: Sequence[Sequence[float]],
    costs: Sequence[Sequence[Sequence[float]]],
    limits: Sequence[float],
    floors: Sequence[float] | None = None,
) -> list[int] | None:
    """The number of the chosen option of each set; None where no choice is inside the limits.

    Args:
        values: of each option of each set.
        costs: of each option of each set, one number for each limit.
        limits: what the chosen costs may come to, each; not below 0.
        floors: what they are to come to at least, each.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    if not values:
        return []
    sizes = [len(each) for each in values]
    owner = np.repeat(np.arange(len(sizes)), sizes)
    every = np.array([cost for each in costs for cost in each], dtype=float).reshape(len(owner), len(limits))
    most = np.asarray(limits, dtype=float)
    least = np.full(len(limits), -np.inf) if floors is None else np.asarray(floors, dtype=float)
    if (least > most).any():
        return None
    gains = np.concatenate([np.asarray(each, dtype=float) for each in values])
    gains = 1e3 * gains / max(float(np.abs(gains).max(initial=0.0)), 1e-300)  # the solver stops at 1e-6 of the best
    scale = np.where(most > 0, most, np.maximum(every.max(axis=0, initial=0.0), 1.0)) / 1e4  # one in 1e9 is seen
    allowed = (every <= most).all(axis=1).astype(float)
    constraints = [LinearConstraint((np.arange(len(sizes))[:, None] == owner[None]).astype(float), 1, 1)]
    if len(limits):
        inside = np.where(allowed[:, None] > 0, every, 0.0)
        constraints.append(LinearConstraint((inside / scale).T, least / scale, most / scale))
    for _ in range(_RETRIES):
        with _stdout_aside():
            found = milp(
                -gains,
                integrality=np.ones(len(owner)),
                bounds=Bounds(0, allowed),
                constraints=constraints,
                options={"mip_rel_gap": 0.0},
            )
        if found.x is None:
            return None
        taken = found.x > 0.5
        spent = every[taken].sum(axis=0)
        if (spent <= most).all() and (spent >= least).all():
            return [int(index - owner.searchsorted(owner[index])) for index in np.flatnonzero(taken)]
        constraints.append(LinearConstraint(taken.astype(float)[None], -np.inf, len(sizes) - 1))
    return None


@contextmanager
def _stdout_aside() -> Iterator[None]:
    """What the solver's library prints on the process's stdout goes to stderr: a command's JSON stands there alone."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
