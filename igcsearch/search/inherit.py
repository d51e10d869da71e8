"""Candidates of other studies as the first ones of a study of the same question with a tighter budget (rungs of a ladder).

`gather` chooses them: complete, trained alike, within the new budget. `Inheritance.adopt` adds them as finished trials before the
coordinator starts: it then counts them, settles duplicates of them, and its sampler knows them, by the parameters that give them
under the new budget (invert.py). Where such parameters are not found, the trial is one that Optuna's samplers pass over (FAIL), and
a complete candidate all the same. Each says where it was trained (`origin`). Adding a trial is one transaction, and those that
are there already are left out, so a kill -9 at any moment costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from igcsearch.errors import UsageError
from igcsearch.spec import Architecture, Budget, Problem

from .candidate import CANDIDATE, RESULT, STATE, Candidate
from .config import SearchConfig, space_sha256
from .invert import find_parameters
from .jobs import DataFacts
from .latency import LatencyTable
from .settle import Space
from .storage import Place

if TYPE_CHECKING:
    from .study import Study

INHERITED = "igcsearch:inherited"  # {"study", "trial"}: where the candidate was trained
MOST_PROPOSALS = 100_000  # for all inversions of one study: a minute or two
_SAME_DATA = ("image_size", "in_channels", "num_classes", "train", "validation", "test", "fingerprint")


@dataclass(frozen=True)
class Inherited:
    """One candidate to be taken over.

    Attributes:
        candidate: as the other study has it.
        trial: the other study's.
        origin: {"study", "trial"} of where it was trained.
        latency_ms: as the new study predicts it; None: it predicts none.
    """

    candidate: Candidate
    trial: FrozenTrial
    origin: Mapping[str, Any]
    latency_ms: float | None = None

    @property
    def key(self) -> str:
        """Duplicates are found by it: that of the network proposed."""
        return str(self.trial.user_attrs[CANDIDATE]["key"])

    @property
    def proposed(self) -> Architecture:
        """The network as the space gave it."""
        return Architecture.from_dict(dict(self.candidate.proposed or {}))


@dataclass(frozen=True)
class Inheritance:
    """What a study takes over.

    Attributes:
        candidates: each network once.
        data: what the studies that they come from found in the images; the new one must find the same.
    """

    candidates: Sequence[Inherited] = ()
    data: Mapping[str, Any] = field(default_factory=dict)

    def missing_in(self, study: Study) -> Inheritance:
        """The part that the study does not have yet."""
        known = known_keys(study.optuna)
        return replace(self, candidates=[each for each in self.candidates if each.key not in known])

    def adopt(
        self, study: optuna.Study, place: Place, config: SearchConfig, space: Space, problem: Problem, facts: DataFacts
    ) -> int:
        """Add the candidates that the study does not have yet, as finished trials. Returns how many.

        Args:
            study, place, config, space, facts: of the search that is about to start; its place is held.
            problem: with the search's budget.

        Raises:
            UsageError: the images are not those that the candidates were trained on.
        """
        for name in _SAME_DATA if self.data else ():
            if self.data.get(name) != (now := getattr(facts, name)):
                what = f"{name} {self.data.get(name)}, not {now}"
                raise UsageError(
                    f"the candidates to begin with were trained on other data ({what}); give the study's own data"
                )
        place.enter(study)
        while True:
            with place.sweeping() as mine:  # one search at a time, on a server too
                if mine:
                    return self._adopt(study, place, config, space, problem)
            time.sleep(0.5)

    def _adopt(self, study: optuna.Study, place: Place, config: SearchConfig, space: Space, problem: Problem) -> int:
        known = known_keys(study)
        new = [each for each in self.candidates if each.key not in known]
        left, found = MOST_PROPOSALS, dict[str, tuple[dict[str, Any], dict[str, BaseDistribution]]]()
        for each in sorted(new, key=lambda each: -(each.candidate.accuracy or 0.0)):  # the best are the most telling
            if left <= 0:
                break
            trial, asked = find_parameters(space, problem, each.proposed, each.trial.params)
            left -= asked
            if trial is not None:
                found[each.key] = trial.params, trial.distributions
        for each in new:
            study.add_trial(_finished(each, found.get(each.key), config.objectives))
        if place.shared:
            for number, key in ((t.number, t.user_attrs[CANDIDATE]["key"]) for t in inherited_trials(study)):
                place.claim(key, number, 10**9)
        return len(new)


def gather(sources: Iterable[Study], budget: Budget, table: LatencyTable | None = None) -> Inheritance:
    """The comparable candidates of studies that a budget admits, each network once, as the first study has it.

    Their latency is what `table` predicts, whatever the other studies said of it.

    Raises:
        UsageError: a study whose search space was changed since.
    """
    found: dict[str, Inherited] = {}
    data: Mapping[str, Any] = {}
    for study in sources:
        if study.optuna.user_attrs.get("igcsearch:space_sha256") != space_sha256(study.config.space):
            raise UsageError(
                f"the file of space {study.config.space!r} was changed since the study in {study.path} began; restore it "
                "as it was"
            )
        data = data or study.data
        trials = {trial.number: trial for trial in study.optuna.get_trials(deepcopy=False)}
        for candidate in study.comparable():
            trial = trials[candidate.id]
            admitted = budget.admits(candidate.params, candidate.macs)
            latency_ms = None if table is None else table.predict(candidate.architecture)
            slow = budget.latency_ms is not None and (latency_ms or 0.0) > budget.latency_ms
            if admitted and not slow and CANDIDATE in trial.user_attrs and RESULT in trial.user_attrs:
                here = {"study": study.path.resolve().name, "trial": candidate.id}
                one = Inherited(candidate, trial, trial.user_attrs.get(INHERITED, here), latency_ms)
                found.setdefault(one.key, one)
    return Inheritance(list(found.values()), data)


def known_keys(study: optuna.Study) -> set[str]:
    """Equivalence keys of all networks that a study has handed out, or taken over."""
    trials = study.get_trials(deepcopy=False)
    return {trial.user_attrs[CANDIDATE]["key"] for trial in trials if CANDIDATE in trial.user_attrs}


def inherited_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The trials of a study that were trained elsewhere."""
    return [trial for trial in study.get_trials(deepcopy=False) if INHERITED in trial.user_attrs]


def _finished(
    each: Inherited,
    parameters: tuple[dict[str, Any], dict[str, BaseDistribution]] | None,
    objectives: Sequence[str],
) -> FrozenTrial:
    """The trial that a study gets for a candidate."""
    source = each.trial
    known = {"latency_ms": each.latency_ms}  # in place of what was known there
    user = {name: source.user_attrs[name] | known for name in (CANDIDATE, RESULT)} | {INHERITED: dict(each.origin)}
    if parameters is None:
        return create_trial(
            state=TrialState.FAIL,
            params=source.params,
            distributions=source.distributions,
            user_attrs=user | {STATE: "complete"},
        )
    record = {**user[CANDIDATE], **user[RESULT]}
    names = {"latency": "latency_ms"}
    return create_trial(
        state=TrialState.COMPLETE,
        values=[float(record[names.get(objective, objective)]) for objective in objectives],
        params=parameters[0],
        distributions=parameters[1],
        intermediate_values=source.intermediate_values if len(objectives) == 1 else {},
        user_attrs=user,
        # Of NSGA-II's first generation: without one they would not be in its population.
        system_attrs={name: 0 for name in source.system_attrs if name.endswith(":generation")},
    )
