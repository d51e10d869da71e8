"""Early stopping for accuracy against a cost: asynchronous successive halving by non-dominated rank. Optuna has no pruner for it.

A candidate's cost is known before it is trained, so at each rung (a number of epochs) it is compared with all candidates that
reached that rung, at their accuracy there: those that are dominated too often end. Nothing is kept but the candidates' learning
curves, so a resumed study decides as an uninterrupted one.

After Jamieson & Talwalkar (2016) and Li et al. (ASHA, 2020), with the rank of NSGA-II (Deb et al., 2002) as what is compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .pareto import ranks_of_two


def rungs(epochs: int, first: int, factor: int) -> tuple[int, ...]:
    """The epochs after which candidates are compared: first, first * factor, ... below `epochs`."""
    found, rung = [], first
    while rung < epochs:
        found.append(rung)
        rung *= factor
    return tuple(found)


class ParetoHalving:
    """Decides who goes on at each rung.

    Args:
        epochs: of a whole training.
        first: epochs before the first comparison.
        factor: the best 1 / factor go on; candidates of rank 0 (dominated by nobody) always do.
    """

    def __init__(self, epochs: int, first: int, factor: int = 3) -> None:
        self._at: dict[int, dict[int, tuple[float, ...]]] = {rung: {} for rung in rungs(epochs, first, factor)}
        self._factor = factor

    def record(self, id: int, curve: Iterable[Mapping[str, Any]], costs: Sequence[float]) -> None:
        """A candidate's epochs so far; later ones may follow."""
        for done in curve:
            if (rung := int(done["epoch"])) in self._at:
                self._at[rung][id] = (-float(done["validation_accuracy"]), *costs)

    def stops(self, id: int, epoch: int) -> bool:
        """True if the candidate, whose epoch was recorded, should end there."""
        seen = self._at.get(epoch)
        if seen is None or id not in seen:
            return False
        ranks = dict(zip(seen, ranks_of_two(list(seen.values())), strict=True))
        better = sum(rank < ranks[id] for rank in ranks.values())
        return ranks[id] > 0 and better >= max(1, len(seen) // self._factor)
