"""One proposal: ask -> space -> settle -> claim. What comes out is worth training, or is told to the sampler by the coordinator."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from igcsearch.errors import UsageError
from igcsearch.spec import Architecture, Problem

from .candidate import CANDIDATE, INTERRUPTED, ORIGIN, RESULT, RETRY_OF, STATE, describe, was_interrupted
from .config import SearchConfig
from .grid import Grid, GridSampler
from .jobs import DataFacts
from .latency import LatencyTable
from .samplers import derived_seed, make_sampler
from .settle import Settled, Space, nothing_learned, settle, space_refused
from .storage import Place
from .telling import Teller


@dataclass(frozen=True)
class Proposal:
    """A candidate, recorded as such. `origin`: the number of its first trial; `facts`: its record; `seed`: of its training."""

    trial: optuna.Trial
    architecture: Architecture
    facts: dict[str, Any]
    origin: int
    seed: int


@dataclass(frozen=True)
class Rejected:
    """A proposal that is not worth training, with what is known of it."""

    trial: optuna.Trial
    settled: Settled
    facts: dict[str, Any]


class Proposer:
    """Makes the proposals of one coordinator.

    Args:
        study: is asked; its sampler is set anew for each proposal (see samplers.py).
        config: of the search.
        space: proposes architectures.
        facts: what the workers found in the data.
        population: of samplers that evolve one.
        place: of the study.
        teller: is told the parameters of each whole proposal.
        salt: of the random numbers, where other coordinators work on the study already; "" for the first.
        table: predicts latency; None where nothing asks for it.
    """

    def __init__(
        self,
        study: optuna.Study,
        config: SearchConfig,
        *,
        space: Space,
        facts: DataFacts,
        population: int,
        place: Place,
        teller: Teller,
        salt: str,
        table: LatencyTable | None = None,
    ) -> None:
        self._study, self._config, self._space, self._data = study, config, space, facts
        self._population, self._place, self._teller = population, place, teller
        self._table = table
        self._problem: Problem = facts.problem(config.budget)
        self._salt = f" of {salt}" if salt else ""
        self._seen: dict[str, int] = {}
        self._grid = Grid(space, self._problem) if config.sampler == "grid" else None
        self._asked = 0  # proposals so far, those of dead runs that come again not counted

    def remember(self, frozen: FrozenTrial) -> None:
        """A proposal that was made before, here or by another coordinator."""
        self._asked += 1
        if CANDIDATE in frozen.user_attrs:  # as it was proposed: training may have made another architecture of it
            self._seen[frozen.user_attrs[CANDIDATE]["key"]] = frozen.number

    @property
    def points(self) -> int | None:
        """Points of the grid; None where the search is of no grid."""
        return None if self._grid is None else len(self._grid.points)

    @property
    def left(self) -> int | None:
        """Points still to be proposed, those of dead runs included; None where the search is of no grid."""
        return None if self._grid is None else len(self._grid.left(self._study)) + self.waiting

    @property
    def waiting(self) -> int:
        """Candidates of dead runs that are to be asked for again."""
        return len(self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))

    def propose(self) -> Proposal | Rejected | None:
        """The next proposal; None for one that came to nothing, because others were faster."""
        seed = derived_seed(self._config.seed, f"proposal {self._asked}{self._salt}")
        if self._grid is None:
            self._study.sampler = make_sampler(self._config.sampler, seed, self._population)
        else:
            self._study.sampler = GridSampler(self._grid.left(self._study))
        trial = self._study.ask()
        self._asked += 1
        try:
            return self._made(trial)
        except UpdateFinishedTrialError:
            return None  # this coordinator was away for so long that another one took it for dead

    def _made(self, trial: optuna.Trial) -> Proposal | Rejected | None:
        self._place.own(trial)
        try:
            architecture = self._space.propose(trial, self._problem)
        except UsageError as error:
            return Rejected(trial, space_refused(error), {})
        self._teller.know(trial.params)
        origin = trial.user_attrs.get(ORIGIN, trial.number)
        known = describe(architecture, stored=False, table=self._table)
        if RETRY_OF not in trial.user_attrs:
            settled = settle(architecture, self._config.budget, self._seen, known.get("latency_ms"))
            settled = settled or nothing_learned(architecture, self._config.shuffles, self._config.group_counts)
            if settled is not None:
                return Rejected(trial, settled, known)
        elif not self._was_left(trial.user_attrs[RETRY_OF], trial.number):
            self._drop(trial)
            return None
        holder = self._place.claim(architecture.key, origin, self._config.trials)
        if holder is None:  # all that were asked for are under way
            self._drop(trial)
            return None
        if holder != origin:
            duplicate = settle(architecture, self._config.budget, {architecture.key: holder})
            assert duplicate is not None
            return Rejected(trial, duplicate, known)
        seed = derived_seed(self._config.seed, architecture.key)
        images = {"train_images": self._data.train, "image_size": self._data.image_size}
        facts = describe(architecture) | known | {"seed": seed} | images
        try:
            trial.set_user_attr(CANDIDATE, facts)
        except UpdateFinishedTrialError:
            if origin == trial.number:
                self._place.release(origin, forget=True)
            raise
        self._seen[architecture.key] = trial.number
        return Proposal(trial, architecture, facts, origin, seed)

    def _was_left(self, number: int, retry: int) -> bool:
        """True if the trial of that number was left by a dead coordinator, and not told by a slow one after all.

        And if it was queued twice, because two coordinators saw to the dead at once, `retry` is the first of the two.
        """
        trials = self._study.get_trials(deepcopy=False)
        left = next(trial for trial in trials if trial.number == number)
        first = min((trial.number for trial in trials if trial.user_attrs.get(RETRY_OF) == number), default=retry)
        told = left.state in (TrialState.COMPLETE, TrialState.PRUNED) and RESULT in left.user_attrs
        return first == retry and not told and (was_interrupted(left) or not left.state.is_finished())

    def _drop(self, trial: optuna.Trial) -> None:
        trial.set_user_attr(STATE, INTERRUPTED)
        with suppress(ValueError):  # told meanwhile
            self._study.tell(trial.number, state=TrialState.FAIL)
