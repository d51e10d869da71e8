"""An option of each set, of the highest total value, inside limits: a multiple-choice knapsack by SciPy's HiGHS, exact. Floor 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_MARGINS = (0.0, 1e-6, 1e-5, 1e-4)  # of a limit: the solver's constraints hold to a tolerance


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
    scale = np.maximum(np.asarray(limits, dtype=float), 1e-12)
    gains = np.concatenate([np.asarray(each, dtype=float) for each in values])
    least = np.full(len(limits), -np.inf) if floors is None else np.asarray(floors, dtype=float) / scale
    for margin in _MARGINS:
        constraints = [LinearConstraint((np.arange(len(sizes))[:, None] == owner[None]).astype(float), 1, 1)]
        if len(limits):
            ends = np.where(np.asarray(limits) > 0, 1 - margin, 0.0)
            constraints.append(LinearConstraint((every / scale).T, least, np.maximum(ends, least)))
        found = milp(
            -gains,
            integrality=np.ones(len(owner)),
            bounds=Bounds(0, 1),
            constraints=constraints,
            options={"mip_rel_gap": 0.0},
        )
        if found.x is None:
            return None
        taken = np.flatnonzero(found.x > 0.5)
        if (every[taken].sum(axis=0) <= np.asarray(limits)).all():
            return [int(index - owner.searchsorted(owner[index])) for index in taken]
    return None
