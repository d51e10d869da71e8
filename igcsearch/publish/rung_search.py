"""A rung's search: it begins with what the other studies of the ladder have trained, and goes on until enough are complete.

Between rungs.py, which says where the rung's study is, and `igcsearch.search.run_search`, which is called until the number is
reached. Candidates stopped early do not count, nor do inherited ones that a smaller rung of the ladder admits too: ten networks of
the rung below would make this one complete without a look at its own sizes. Each call can be killed at any moment and is gone on
with by the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import UsageError
from ..spec import Budget, Problem
from .rounds import OnEvent
from .rungs import Rung, RungPlace, other_places, rung_place

if TYPE_CHECKING:
    from ..search import Candidate, SearchConfig, Study
    from ..search.engines import Engine
    from ..search.latency import LatencyTable

_ROUNDS = 30  # of search in one rung, where candidates are stopped early
View = Callable[[], AbstractContextManager[Callable[[Any], None]]]


class Interrupted(Exception):  # noqa: N818 - what the user did, not a mistake
    """The user ended a rung's search."""


@dataclass(frozen=True)
class Plan:
    """How all rungs are built.

    Attributes:
        zoo: that the entries go to.
        top, seeds, epochs: as in `publish`; `epochs` resolved.
        least: complete candidates that a rung needs.
        device: of the retrainings.
        running: fields of SearchConfig that say what the searches run on: workers, engine, address ...
        storage: URL of the parent's server as it was given.
        latency: fields of SearchConfig that say where latency is meant, where they differ from the parent's.
    """

    zoo: Path
    top: int
    seeds: int
    epochs: int
    least: int
    device: str
    running: Mapping[str, Any]
    storage: str | None
    tell: OnEvent
    view: View
    engine: Callable[[SearchConfig, Path], Engine] | None = None  # for tests
    latency: Mapping[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """What a finished rung must have been built with to be left alone."""
        settings = {"zoo": str(self.zoo.resolve()), "top": self.top, "seeds": self.seeds, "epochs": self.epochs}
        return settings | ({"latency": dict(self.latency)} if self.latency else {})


def search_rung(parent: Study, rungs: Sequence[Rung], rung: Rung, plan: Plan) -> Study:
    """The rung's study with enough complete candidates.

    Raises:
        UsageError: it cannot have as many, and why.
    """
    from ..search import run_search
    from ..search.inherit import gather

    place = rung_place(parent, rung.name, plan.storage)
    others = [other.open() for other in other_places(parent, rungs, rung, plan.storage)]
    table = _latency_table(parent, rung_config(parent, rung, plan, 1), place, plan)
    inherit = gather([parent, *others], rung.within(parent.config.budget), table)
    for other in others:
        other.close()
    smaller = rungs[: rungs.index(rung)]
    for _ in range(_ROUNDS):
        study = place.open() if place.exists() else None
        have = trained = 0
        if study is not None:
            inherit, have = inherit.missing_in(study), count(study, smaller).needed
            trained = len(study.candidates(("complete", "stopped")))
            if have >= plan.least and not inherit.candidates:
                return study
            study.close()
        have += sum(not _admitted(each.candidate, smaller) for each in inherit.candidates)
        missing = max(0, plan.least - have)
        config = rung_config(parent, rung, plan, max(1, trained + len(inherit.candidates) + missing))
        with plan.view() as shown:
            last = _Last(shown)
            engine = None if plan.engine is None else plan.engine(config, place.folder)
            run_search(
                config,
                place.folder,
                resume=True,
                storage=place.storage,
                study_name=place.study,
                on_event=last,
                engine=engine,
                inherit=inherit,
                table=table,
            ).close()
        _check_end(last.event, place, smaller, plan.least)
    raise UsageError(
        f"{_needed(place, smaller)} of {plan.least} candidates are complete after {_ROUNDS} rounds of search, the others were "
        "stopped early; lower --min-candidates"
    )


def _latency_table(parent: Study, config: SearchConfig, place: RungPlace, plan: Plan) -> LatencyTable | None:
    """What the rung's latencies are predicted from: its study's table, the parent's if it is of the same setting, or a new one.

    It is there before the search, because it decides which candidates the rung inherits.

    Raises:
        UsageError: the rung's study means latency somewhere else.
    """
    from ..search.config import check_same_question
    from ..search.run import measured_table

    if config.latency is None:
        return None
    if place.exists():
        study = place.open()
        study.close()
        check_same_question(study.config, config, str(place.folder))
        if study.latency is not None:
            return study.latency
    if parent.latency is not None and parent.latency.setting == config.latency:
        return parent.latency
    sizes = {name: parent.data[name] for name in ("image_size", "in_channels", "num_classes")}
    problem = Problem(**sizes, budget=config.budget)
    with plan.view() as shown:
        return measured_table(config, problem, shown)


class _Last:
    """Passes events on and keeps the last one, which says how the search ended."""

    def __init__(self, shown: Callable[[Any], None]) -> None:
        self._shown = shown
        self.event: Any = None

    def __call__(self, event: Any) -> None:
        self.event = event
        self._shown(event)


def _check_end(ended: Any, place: RungPlace, smaller: Sequence[Rung], least: int) -> None:
    """What the last event of a search says: another round, or no more.

    Raises:
        UsageError: the search ended for another reason than its number of candidates, and has too few.
    """
    reason = getattr(ended, "reason", "interrupted")
    if reason in ("interrupted", "timeout"):
        raise Interrupted
    if reason != "trials" and (complete := _needed(place, smaller)) < least:
        raise UsageError(f"{complete} of {least} candidates are complete: {ended.message}")


class Count(NamedTuple):
    """Complete candidates of a rung's study: all, those trained elsewhere, and those that count towards what it needs."""

    complete: int
    inherited: int
    needed: int


def count(study: Study, smaller: Sequence[Rung]) -> Count:
    """What a rung's study has, beside the smaller rungs of its ladder."""
    from ..search.inherit import inherited_trials

    elsewhere = {trial.number for trial in inherited_trials(study.optuna)}
    complete = study.comparable()
    needed = [c for c in complete if c.id not in elsewhere or not _admitted(c, smaller)]
    return Count(len(complete), sum(c.id in elsewhere for c in complete), len(needed))


def _admitted(candidate: Candidate, smaller: Sequence[Rung]) -> bool:
    return any(rung.within(Budget()).admits(candidate.params, candidate.macs) for rung in smaller)


def _needed(place: RungPlace, smaller: Sequence[Rung]) -> int:
    study = place.open()
    try:
        return count(study, smaller).needed
    finally:
        study.close()


def rung_config(parent: Study, rung: Rung, plan: Plan, trials: int) -> SearchConfig:
    """The rung's search: the parent's question within the rung's budget, on what this build runs on."""
    defaults = {name: each.default for name, each in type(parent.config).__dataclass_fields__.items()}
    places = (
        "engine",
        "address",
        "gpus_per_candidate",
        "cpus_per_candidate",
        "max_concurrent",
        "devices_per_candidate",
    )
    fresh = {name: defaults[name] for name in (*places, "workers", "threads_per_worker", "timeout_s")}
    where = {"device": plan.device, "checkpoints": None, **plan.running}
    budget = rung.within(parent.config.budget)
    return replace(parent.config, **{**fresh, **where, **plan.latency, "budget": budget, "trials": trials})
