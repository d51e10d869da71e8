"""The coordinator: it asks and tells Optuna for every engine. One on a study in a folder, one or several on a server.

Engines call it from one thread. A proposal goes ask -> space -> settle, and becomes a Job or is told to the sampler at once.
Results are recorded before the trial is told, so a kill -9 at any moment leaves a study that another coordinator makes whole
(recovery.py). What several coordinators share (who is dead, who trains which architecture, how many are trained) they ask of the
study's `Place`.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from igcsearch.spec import Architecture

from . import events
from .candidate import CANDIDATE, describe, read_candidate
from .checkpoints import Checkpoints
from .config import SearchConfig
from .jobs import MAX_ATTEMPTS, DataFacts, Job
from .latency import LatencyTable
from .proposer import Proposal, Proposer, Rejected
from .recovery import origin_of, recover, requeue
from .samplers import make_pareto_halving, make_pruner
from .settle import Settled, Space
from .storage import Place
from .telling import NotOurs, Teller

MAX_SETTLED = 1000  # proposals in a row that were not worth training
_KINDS = {"budget": "over budget", "duplicate": "duplicates", "latency": "too slow", "space": "refused by the space"}
MIN_FAILURES = 10  # failed candidates that end a run: more than this and more than `trials`
PROPOSING_S = 2.0  # at most in one go: engines have more to do, and ask again
ABSORB_S = 1.0  # between looks at what other coordinators have finished
MIN_COMPLETE = 4  # candidates trained to the end before any is stopped early


@dataclass(frozen=True)
class Plan:
    """What is decided once, when a study is created: the resolved stopping rule and the population of evolving samplers."""

    stopping: str
    population: int


@dataclass
class _Running:
    """A candidate that is handed out, or waits to be handed out again. `origin`: the number of its first trial."""

    trial: optuna.Trial
    job: Job
    facts: dict[str, Any]
    origin: int
    reported: int = 0
    deaths: int = 0  # of its workers, since it finished an epoch last


class Coordinator:
    """Proposes, settles, stops, retries and records the candidates of one study.

    Args:
        study: opened while its place is held.
        config: with its recipe resolved.
        space: proposes architectures.
        facts: what the workers found in the data.
        plan: of the study.
        place: of the study.
        checkpoints: of candidates under way.
        table: of the study, where latency is predicted.
        emit: called with every event.
        clock: seconds, for the time limit.
    """

    def __init__(
        self,
        study: optuna.Study,
        config: SearchConfig,
        *,
        space: Space,
        facts: DataFacts,
        plan: Plan,
        place: Place,
        checkpoints: Checkpoints,
        table: LatencyTable | None = None,
        emit: Callable[[events.Event], None] = lambda event: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if config.recipe is None:
            raise ValueError("the coordinator needs a resolved recipe")
        self.config, self.recipe, self.facts, self.emit = config, config.recipe, facts, emit
        self._study, self._plan, self._clock = study, plan, clock
        self._place, self._checkpoints, self._table = place, checkpoints, table
        self._teller = Teller(study, config.objectives, config.sampler)
        study.pruner = make_pruner(plan.stopping, self.recipe.epochs)
        against_cost = len(config.objectives) > 1 and plan.stopping == "halving"
        self._halving = make_pareto_halving(self.recipe.epochs) if against_cost else None
        self._deadline = None if config.timeout_s is None else clock() + config.timeout_s
        self._running: dict[int, _Running] = {}
        self._retries: deque[int] = deque()
        self._counted: set[int] = set()  # finished trials that are in the tally, this coordinator's and others'
        self._tally = {"complete": 0, "stopped": 0, "settled": 0, "failed": 0}
        self._best = -1.0
        self._in_a_row = self._failures = 0
        self._absorbed = 0.0
        self._last_reason, self._kinds = "", Counter[str]()
        self.ended: tuple[str, str] | None = None
        self._proposer = Proposer(
            study,
            config,
            space=space,
            facts=facts,
            population=plan.population,
            place=place,
            teller=self._teller,
            salt=place.enter(study),
            table=table,
        )
        self.recovered = self._take_over()

    # ------------------------------------------------------------------ what engines call

    def next_job(self) -> Job | None:
        """The next candidate to train; None if there is none now: the search has ended, or waits for those that run."""
        if self._retries:
            return self._hand_out(self._retries.popleft())
        until = self._clock() + PROPOSING_S
        while self.ended is None:
            self.tick()
            if self._limit_reached() or self._clock() > until:
                return None
            running = self._propose()
            if running is not None:
                self._in_a_row = 0
                self._running[running.trial.number] = running
                return self._hand_out(running.trial.number)
        return None

    def report(self, id: int, record: dict[str, Any]) -> bool:
        """An epoch of a candidate: {"epoch" (from 1), "validation_accuracy", "seconds", ...}. False: stop it there."""
        running = self._running.get(id)
        if running is None:
            return False  # it was taken over
        epoch, accuracy = int(record["epoch"]), float(record["validation_accuracy"])
        if epoch <= running.reported:
            return True  # read back from the checkpoint after a worker died
        running.reported, running.deaths = epoch, 0
        event = events.EpochDone(
            self.counts, id, epoch, self.recipe.epochs, accuracy, float(record.get("seconds", 0.0))
        )
        prune = False
        if record.get("soft"):  # still to become the network that is trained: no figure to hold against others
            self.emit(event)
            return True
        if len(self.config.objectives) == 1:
            try:
                running.trial.report(accuracy, step=epoch)
                prune = running.trial.should_prune()  # also records the rung that later candidates are held against
            except UpdateFinishedTrialError:
                self._taken_over(id)
                return False
        self.emit(event)
        if self._halving is not None:
            learned = {name: record[name] for name in ("params", "macs") if record.get(name)}
            self._halving.record(running.origin, [record], self._costs({**running.facts, **learned}))
            return self._tally["complete"] < MIN_COMPLETE or not self._halving.stops(running.origin, epoch)
        if self._plan.stopping == "none" or epoch >= self.recipe.epochs:
            return True
        return self._tally["complete"] < MIN_COMPLETE or not prune

    def note(self, id: int, text: str) -> None:
        """Something that the user should know of a candidate under way."""
        self.emit(events.Noted(self.counts, id, text))

    def finished(self, id: int, result: dict[str, Any]) -> None:
        """A candidate's training is over: {"accuracy", "epochs", "curve", "seconds", "stopped", "device", "threads",
        "architecture" (hardened JSON data, where something was learned)}."""
        running = self._running.pop(id, None)
        if running is None:
            return  # it was taken over
        learned = result.get("architecture")
        facts = describe(Architecture.from_dict(learned), table=self._table) if learned else {}
        state = "stopped" if result.get("stopped") else "complete"
        record = {**facts, **{k: v for k, v in result.items() if k not in ("stopped", "architecture")}}
        record["state"] = state
        if state == "stopped":
            record["reason"] = f"stopped early at epoch {result['epochs']} of {self.recipe.epochs}"
        if not self._tell(running, record):
            return
        self._tally[state] += 1
        accuracy, cost = float(record["accuracy"]), {**running.facts, **record}
        if state == "stopped":
            self.emit(events.Stopped(self.counts, id, int(result["epochs"]), accuracy))
            return
        best, self._best = accuracy > self._best, max(accuracy, self._best)
        seconds, latency = float(record.get("seconds", 0.0)), cost.get("latency_ms")
        self.emit(events.Finished(self.counts, id, accuracy, cost["params"], cost["macs"], latency, seconds, best))

    def failed(self, id: int, reason: str) -> None:
        """A candidate failed by itself (its loss diverged, it raised): the reason is recorded, the search goes on."""
        running = self._running.pop(id, None)
        if running is None or not self._tell(running, {"state": "failed", "reason": reason}):
            return
        self._place.release(running.origin)
        self._tally["failed"] += 1
        self._failures += 1
        self.emit(events.Failed(self.counts, id, reason))
        if self._failures > max(MIN_FAILURES, self.config.trials):
            self._end("failures", f"{self._failures} candidates failed in this run, the last one: {reason}")

    def lost(self, id: int, reason: str) -> None:
        """A candidate's worker died: it goes on from its checkpoint on another one. A bounded number of deaths without an
        epoch in between, since it may be the candidate that kills them."""
        running = self._running.get(id)
        if running is None:
            return  # it was taken over
        running.deaths += 1
        if running.deaths >= MAX_ATTEMPTS:
            self.failed(id, f"{reason}, {running.deaths} times")
            return
        running.job = replace(running.job, attempt=running.job.attempt + 1)
        self._retries.append(id)
        self.emit(events.Retried(self.counts, id, reason, running.job.attempt))

    def interrupt(self, reason: str) -> None:
        """End now (`interrupted` or `timeout`): what still runs is queued, to go on from its checkpoint when resumed."""
        for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if frozen.number in self._running:
                with suppress(NotOurs):
                    requeue(self._study, self._running.pop(frozen.number).trial, frozen, frozen.params)
        self._running.clear()
        self._retries.clear()
        what = "the time limit is over" if reason == "timeout" else "interrupted"
        self._end(
            reason, f"{what} with {self.counts.trained} of {self.config.trials} candidates trained; resume to go on"
        )

    def tick(self) -> None:
        """Called by the engine about every second: signs of life, and what other coordinators did and left."""
        if self._place.beat():
            with self._place.sweeping() as mine:
                if mine:
                    recover(self._place, self._study, self._teller)

    # ------------------------------------------------------------------ what callers may know

    @property
    def counts(self) -> events.Counts:
        """Where the study stands."""
        return events.Counts(self.config.trials, running=len(self._running), **self._tally)

    @property
    def expired(self) -> bool:
        """True once the time limit is over; the engine then stops its workers and calls `interrupt`."""
        return self._deadline is not None and self._clock() >= self._deadline

    @property
    def remaining(self) -> int:
        """Candidates to train until the limit or the end of a grid, those under way included."""
        asked, left = max(0, self.config.trials - self.counts.trained), self._proposer.left
        return asked if left is None else min(asked, left + len(self._running))

    # ------------------------------------------------------------------ proposing

    def _costs(self, facts: dict[str, Any]) -> list[float]:
        """What a candidate costs in the objectives that follow accuracy."""
        known = {"params": facts["params"], "macs": facts["macs"], "latency": facts.get("latency_ms") or 0.0}
        return [float(known[cost]) for cost in self.config.objectives[1:]]

    def _limit_reached(self) -> bool:
        if self._place.shared and self._clock() >= self._absorbed + ABSORB_S:
            self._absorb()
        if self.remaining == 0:
            trained = f"{self.counts.trained} candidates are trained, {self.config.trials} were asked for"
            if self.counts.trained >= self.config.trials:
                self._end("trials", trained)
            else:
                self._end(
                    "grid",
                    f"the grid is exhausted: each of its {self._proposer.points:,} points was proposed; {trained}",
                )
        if self._proposer.points is None and self._in_a_row >= MAX_SETTLED:
            why = ", ".join(f"{n:,} {_KINDS.get(kind, kind)}" for kind, n in self._kinds.most_common())
            what = f"{MAX_SETTLED:,} proposals in a row were settled without training ({why}; the last: {self._last_reason})"
            self._end("settled", f"{what}; widen the space or the budget")
        if self.ended is not None or self.expired or len(self._running) >= self.remaining:
            return True
        # Where others train the rest, only what a dead one left is to be done here.
        return not self._place.room(self.config.trials) and not self._proposer.waiting

    def _propose(self) -> _Running | None:
        """Ask for one proposal; None if it was settled."""
        proposed = self._proposer.propose()
        if isinstance(proposed, Rejected):
            self._settle(proposed.trial, proposed.settled, proposed.facts)
        if not isinstance(proposed, Proposal):
            return None
        architecture, number = proposed.architecture, proposed.trial.number
        checkpoint = self._checkpoints.place(architecture.hash)
        recipe = self.recipe.within(self.config.budget, architecture).to_dict() | {"seed": proposed.seed}
        job = Job(number, architecture.to_json(), recipe, checkpoint)
        return _Running(proposed.trial, job, proposed.facts, proposed.origin)

    def _hand_out(self, id: int) -> Job:
        running = self._running[id]
        facts, job = running.facts, running.job
        self.emit(
            events.CandidateStarted(
                self.counts, id, facts["hash"], facts["family"], facts["params"], facts["macs"], job.attempt
            )
        )
        return job

    def _settle(self, trial: optuna.Trial, settled: Settled, facts: dict[str, Any]) -> None:
        record = {
            **facts,
            "state": "settled",
            "kind": settled.kind,
            "reason": settled.reason,
            "violation": settled.violation,
        }
        with suppress(NotOurs):
            self._teller.record(trial, record, {})
        self._counted.add(trial.number)
        self._tally["settled"] += 1
        if not self._in_a_row:
            self._kinds.clear()
        self._kinds[settled.kind] += 1
        self._in_a_row, self._last_reason = self._in_a_row + 1, settled.reason
        self.emit(events.ProposalSettled(self.counts, trial.number, settled.kind, settled.reason))

    # ------------------------------------------------------------------ telling

    def _tell(self, running: _Running, record: dict[str, Any]) -> bool:
        """Record and tell what became of a candidate; False if another coordinator did so meanwhile."""
        number = running.trial.number
        try:
            self._teller.record(running.trial, record, running.facts)
        except NotOurs:
            self._running[number] = running
            self._taken_over(number)
            return False
        self._counted.add(number)
        self._checkpoints.clear(running.facts["hash"])
        return True

    def _taken_over(self, id: int) -> None:
        """This coordinator gave no sign of life for so long that another one goes on with its candidate."""
        self.note(id, "another coordinator took it over: this one was away for too long")
        self._running.pop(id)

    def _end(self, reason: str, message: str) -> None:
        if self.ended is None:
            self.ended = (reason, message)

    # ------------------------------------------------------------------ what the study already holds

    def _take_over(self) -> int:
        """Rebuild what this object knows from the study, and make dead runs' trials whole. Number of candidates queued again."""
        with self._place.readable():
            trials = self._study.get_trials(deepcopy=False)
        for frozen in trials:
            if frozen.state in (TrialState.COMPLETE, TrialState.PRUNED) or CANDIDATE in frozen.user_attrs:
                self._teller.know(frozen.params)
        queued = 0
        with self._place.sweeping() as mine:
            if mine:
                queued = recover(self._place, self._study, self._teller)
        self._absorb()
        return queued

    def _absorb(self) -> None:
        """Count and remember the trials that were finished since the last look, other coordinators' too."""
        self._absorbed = self._clock()
        for frozen in self._study.get_trials(deepcopy=False):
            if frozen.state.is_finished() and frozen.number not in self._counted:
                self._counted.add(frozen.number)
                self._remember(frozen)

    def _remember(self, frozen: FrozenTrial) -> None:
        candidate = read_candidate(frozen)
        if candidate is None:
            return
        self._proposer.remember(frozen)
        self._tally[candidate.state] += 1
        if CANDIDATE in frozen.user_attrs and candidate.state in ("failed", "settled"):
            self._place.release(origin_of(frozen))  # again: its coordinator may have died before it did so
        if CANDIDATE in frozen.user_attrs:
            proposed = frozen.user_attrs[CANDIDATE]
            if self._halving is not None:
                known = {"params": candidate.params, "macs": candidate.macs, "latency_ms": candidate.latency_ms}
                costs = self._costs({**proposed, **known})
                hard = [epoch for epoch in candidate.curve if not epoch.get("soft")]
                self._halving.record(origin_of(frozen), hard, costs)
            self._checkpoints.clear(proposed["hash"])
        if candidate.state == "complete" and candidate.accuracy is not None:
            self._best = max(self._best, candidate.accuracy)
