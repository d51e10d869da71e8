"""A study as results: candidates, front, best, counts. Read from the storage alone, also while a search is running."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from .candidate import STATES, Candidate, comparable, read_candidate
from .config import SearchConfig
from .latency import LatencyTable, stored_table
from .pareto import front_indices
from .places import place_at
from .storage import Place, close

if TYPE_CHECKING:
    import pandas

_COLUMNS = {
    "id": "int64",
    "state": "str",
    "family": "str",
    "params": "Int64",
    "macs": "Int64",
    "latency_ms": "Float64",
    "accuracy": "Float64",
    "epochs": "int64",
    "train_images": "Int64",
    "image_size": "Int64",
    "seconds": "Float64",
    "hash": "str",
    "seed": "Int64",
    "device": "str",
    "reason": "str",
}


def open_study(path: Path | str | None = None, *, storage: str | None = None, study: str | None = None) -> Study:
    """A study, read-only and possible while searches are running on it.

    Args:
        path: its folder, or the `study.db` in it.
        storage: URL of the database server that holds it, for a study without a folder here.
        study: its name there.

    Raises:
        UsageError: there is none, or its database cannot be read.
    """
    return Study(place_at(path, storage, study))


class Study:
    """What a search has found so far. Each call reads the storage again.

    Attributes:
        path: the study's folder.
        place: the folder with its database.
        config: what is searched.
        latency: what latencies are predicted from; None where they are not.
        optuna: the `optuna.Study`, for plots and dashboards.
    """

    def __init__(self, place: Place) -> None:
        self.place, self.path = place, place.folder
        self.optuna: optuna.Study = place.load()
        self.config: SearchConfig = place.stored_config(self.optuna)
        with place.readable():
            attributes = self.optuna.user_attrs
            self.data: dict[str, Any] = attributes["igcsearch:data"]
            self.plan: dict[str, Any] = attributes["igcsearch:plan"]
            self.versions: dict[str, str] = attributes["igcsearch:versions"]
            self.latency: LatencyTable | None = stored_table(attributes)

    def close(self) -> None:
        """Give the database's connections back."""
        close(self.optuna)

    def candidates(self, states: Iterable[str] = STATES) -> list[Candidate]:
        """The candidates in those states, by id. One that a dead run left is listed once, as the trial that took it over."""
        wanted = set(states)
        with self.place.readable():
            found = [read_candidate(trial) for trial in self.optuna.get_trials(deepcopy=False)]
        return [candidate for candidate in found if candidate is not None and candidate.state in wanted]

    def front(self) -> list[Candidate]:
        """The non-dominated candidates, by rising cost.

        Compared are complete candidates within the latency budget, trained alike (epochs, training images, image size): most
        accurate, and cheapest in the study's second objective; with the single objective accuracy, cheapest in parameters and MACs.
        Of equal ones the first is kept.
        """
        costs = self.config.objectives[1:] or ("params", "macs")
        names = {"latency": "latency_ms"}
        points: dict[tuple[float, ...], Candidate] = {}
        for candidate in self.comparable():
            values = [getattr(candidate, names.get(cost, cost)) for cost in costs]
            if candidate.accuracy is not None and None not in values:
                points.setdefault((*map(float, values), -candidate.accuracy), candidate)
        losses = list(points)
        return [points[losses[i]] for i in sorted(front_indices(losses), key=lambda i: losses[i])]

    def best(self) -> Candidate | None:
        """The most accurate of the candidates that may be on a front, the cheaper one of equals; None before the first."""
        able = [c for c in self.comparable() if c.accuracy is not None]
        return min(able, key=lambda c: (-(c.accuracy or 0.0), c.params, c.macs, c.id), default=None)

    def status(self) -> dict[str, Any]:
        """Counts by state, and the best candidate as {"id", "accuracy", "params", "macs", "latency_ms", "hash"} or None.

        `waiting` candidates were under way when a run ended or died, and go on when the study is resumed; `active` says if a search
        is running now (None: unknown).
        """
        self.config = self.place.stored_config(self.optuna)  # a run that resumes may have asked for more candidates
        active = self.place.is_running(self.optuna)  # first: a search that ends meanwhile leaves nothing running
        counts = Counter(candidate.state for candidate in self.candidates())
        best = self.best()
        with self.place.readable():
            waiting = len(self.optuna.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,)))
        proposals = sum(counts.values())
        if active is False:
            waiting, counts["running"] = waiting + counts["running"], 0
        shown = ("id", "accuracy", "params", "macs", "latency_ms", "hash")
        return {
            **{state: counts[state] for state in ("complete", "stopped", "settled", "failed", "running")},
            "best": None if best is None else {name: getattr(best, name) for name in shown},
            "waiting": waiting,
            "trials": self.config.trials,
            "proposals": proposals,
            "acceptance": round(1 - counts["settled"] / proposals, 4) if proposals else None,
            "active": active,
        }

    def frame(self) -> pandas.DataFrame:
        """One row a candidate, in all states: typed columns, `on_front` last."""
        import pandas

        candidates = self.candidates()
        front = {candidate.id for candidate in self.front()}
        frame = pandas.DataFrame({name: [_cell(c, name) for c in candidates] for name in _COLUMNS})
        return frame.astype(_COLUMNS).assign(on_front=[c.id in front for c in candidates])

    def comparable(self) -> list[Candidate]:
        """The candidates that may be compared: complete, within the latency budget, trained as most of those are."""
        return comparable(self.candidates(), self.config.budget)


def _cell(candidate: Candidate, name: str) -> Any:
    """A candidate's value for a column; what is not known, because it was not trained, is missing and not 0."""
    value = getattr(candidate, name)
    if name == "seed":
        return value if candidate.train_images else None
    return None if value == 0 and name in ("params", "macs", "train_images", "image_size", "seconds") else value
