"""Between Ray Tune and the coordinator: Tune asks it for candidates, and tells it what their workers report.

`Bridge` holds the logic; the three small classes below it are the forms in which Tune wants it (a Searcher that suggests, a
Stopper that answers each report, a Callback at each turn of Tune's loop). Everything runs in the driver's main thread. Whatever is
raised on the way is kept in `error` and ends the run, since Tune would turn it into a text.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle, tune
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from igcsearch.errors import UsageError
from igcsearch.search.coordinator import Coordinator
from igcsearch.search.jobs import Job

from .estimate import estimate

_TICK = 0.5  # seconds between the coordinator's ticks
_MAX_START_FAILURES = 3  # processes in a row that die before they have said anything
_PATIENCE = 600.0  # seconds in which a cluster may have no room for any candidate


@dataclass
class _Open:
    """A candidate that Tune places or runs."""

    job: Job
    timed: bool  # its step is being timed
    records: list[dict[str, Any]] = field(default_factory=list)
    ready: bool = False  # its process has reported


class Bridge:
    """Hands the coordinator's jobs to Tune and Tune's reports to the coordinator.

    Args:
        coordinator: of the study.
        room: gives how many candidates can run at once, now.
        workers: how many that was at the start, for the estimate.
        stopped: True once the user wants it to end.
        place: device and threads of the workers, for the results of candidates that are stopped early.
        answer: called with a key and whether a candidate goes on, after each of its epochs; Tune is then not asked to stop it
            (ray_group.py says why). The key ends in the number of the epoch.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        *,
        room: Callable[[], int],
        workers: int,
        stopped: Callable[[], bool],
        place: dict[str, Any],
        answer: Callable[[str, bool], None] | None = None,
    ) -> None:
        self.error: BaseException | None = None
        self._coordinator, self._room, self._workers, self._stopped, self._place = (
            coordinator,
            room,
            workers,
            stopped,
            place,
        )
        self._answer = answer
        self._open: dict[str, _Open] = {}
        self._trials: dict[str, Any] = {}  # Tune's own, of those that are open
        self._seen = 0  # how many of Tune's trials were looked at
        self._first = True
        self._start_failures = 0
        self._ever_ready = False  # a process has reported in this run
        self._ticked = 0.0
        self._roomy = time.monotonic()  # when there was room last
        self._ending = False

    # ------------------------------------------------------------------ what Tune calls, through the classes below

    def suggest(self, tune_id: str) -> dict[str, Any] | str | None:
        """The next candidate for Tune to place; None if there is none now, FINISHED if there will be none."""
        if self._over():
            return Searcher.FINISHED
        self._tick()  # with nothing to do, Tune asks for minutes before its next turn
        if any(each.timed for each in self._open.values()) or len(self._open) >= self._room():
            return None
        job = self._coordinator.next_job()
        if job is None:
            return Searcher.FINISHED if self._coordinator.ended is not None and not self._open else None
        job = replace(job, checkpoint=str(Path(job.checkpoint).absolute()))
        self._open[tune_id] = _Open(job, timed=self._first)
        self._first = False
        return {"job": job, "time": self._open[tune_id].timed}

    def told(self, tune_id: str, result: dict[str, Any]) -> bool:
        """A worker's message. True: its candidate is over, or is to be."""
        running = self._open.get(tune_id)
        if running is None or "message" not in result:
            return True
        job, coordinator = running.job, self._coordinator
        self._start_failures, running.ready, self._ever_ready = 0, True, True
        for text in result["notes"]:
            coordinator.note(job.id, text)
        kind, value = result["message"]
        if kind == "ready":
            return False
        running.timed = False  # also where the timing was left out
        if kind == "timed":
            coordinator.emit(estimate(float(value), coordinator, self._workers))
            return False
        if kind == "epoch":
            running.records.append(value)
            go_on = coordinator.report(job.id, value)
            if self._answer is not None:
                self._answer(f"{tune_id}/{len(running.records)}", go_on)
            if go_on or self._answer is not None:
                return False
            coordinator.finished(job.id, self._stopped_early(running.records))
        elif kind == "finished":
            coordinator.finished(job.id, value)
        elif kind == "failed":
            coordinator.failed(job.id, value)
        elif kind == "refused":
            raise UsageError(value)
        self._forget(tune_id)
        return True

    def lost(self, tune_id: str) -> None:
        """A candidate's process or node died, unless it was over already."""
        running = self._open.get(tune_id)
        if running is None or self._over():
            return
        reason = _reason(self._trials.get(tune_id))
        if (
            not running.ready and not self._ever_ready
        ):  # a process that is used again says nothing before its first epoch
            self._start_failures += 1
            if self._start_failures >= _MAX_START_FAILURES:
                raise UsageError(f"training processes end at their start ({reason}); see their messages in Ray's logs")
        self._forget(tune_id)
        self._coordinator.lost(running.job.id, reason)

    def turn(self, trials: list[Any]) -> None:
        """Once in each turn of Tune's loop."""
        for trial in trials[self._seen :]:
            if trial.trial_id in self._open:
                self._trials[trial.trial_id] = trial
        self._seen = len(trials)
        self._tick()

    def end_all(self) -> bool:
        """True if Tune is to end everything now; the workers are killed first, for Tune would wait for their epoch."""
        if not self._over():
            return False
        if not self._ending:
            self._ending = True
            for trial in self._trials.values():
                actor = trial.temporary_state.ray_actor
                if actor is not None:
                    ray.kill(actor, no_restart=True)
        return True

    # ------------------------------------------------------------------ private

    def _tick(self) -> None:
        """The coordinator's tick and what is to be looked at now and then, at most every `_TICK` seconds."""
        now = time.monotonic()
        if now - self._ticked < _TICK:
            return
        self._ticked = now
        self._coordinator.tick()
        for tune_id, trial in list(self._trials.items()):
            if trial.status == "ERROR":  # a process that Tune could not use again: it does not say so otherwise
                self.lost(tune_id)
        if self._room() > 0:
            self._roomy = now
        elif now - self._roomy > _PATIENCE and not self._over():
            raise UsageError(
                f"the cluster has had no room for a candidate for {_PATIENCE / 60:.0f} minutes; bring nodes back and resume"
            )

    def _over(self) -> bool:
        return self.error is not None or self._stopped() or self._coordinator.expired

    def _forget(self, tune_id: str) -> None:
        del self._open[tune_id]
        self._trials.pop(tune_id, None)

    def _stopped_early(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        """The result of a candidate that is stopped, from what it has reported: its worker is not asked for another."""
        last = records[-1]
        return {
            "accuracy": last["validation_accuracy"],
            "epochs": last["epoch"],
            "curve": records,
            "seconds": sum(float(record.get("seconds", 0.0)) for record in records),
            "stopped": True,
            **self._place,
        }


def _reason(trial: Any) -> str:
    """Why a process ended, in words, from the error that Tune keeps of its trial."""
    error = _error(trial)
    text = "" if error is None else str(error)
    if "OutOfMemory" in type(error).__name__ or "out of memory" in text.lower() or "memory pressure" in text:
        return "its training process died (out of memory)"
    if "node has died" in text or "NodeDied" in type(error).__name__ or "node died" in text.lower():
        return "its node died"
    last = (text.strip().splitlines() or [""])[-1].strip()
    if last.startswith(("ModuleNotFoundError: ", "ImportError: ")):
        return f"its training process could not start ({last}); is igcsearch the same on every node?"
    if "unexpected" in text.lower() or "died" in text.lower() or not text:
        return "its training process died"
    return f"its training process failed ({(text.strip().splitlines() or ['?'])[-1][:200]})"


def _error(trial: Any) -> Any:
    """What Tune keeps of the error of its trial, in its folder here: where Trial.get_error looks, it is only later."""
    with suppress(Exception):  # no trial, no file, nothing that can be read
        return cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    with suppress(Exception):
        return Path(trial.error_file).read_text()
    return None


class Suggest(Searcher):
    """The bridge as Tune's search algorithm."""

    def __init__(self, bridge: Bridge | None) -> None:
        super().__init__(metric=None, mode=None)
        self._bridge = bridge

    def suggest(self, trial_id: str) -> Any:
        if self._bridge is None:
            return Searcher.FINISHED
        return _kept(self._bridge, Searcher.FINISHED, self._bridge.suggest, trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if error and self._bridge is not None:
            _kept(self._bridge, None, self._bridge.lost, trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the record."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a resumed search is another Tuner on the same study."""

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        return True

    def __reduce__(self) -> Any:  # Tune stores a copy of its settings, which is not for use
        return Suggest, (None,)


class Stop(Stopper):
    """The bridge as what decides after each report."""

    def __init__(self, bridge: Bridge | None) -> None:
        self._bridge = bridge

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._bridge is None or _kept(self._bridge, True, self._bridge.told, trial_id, result)

    def stop_all(self) -> bool:
        return self._bridge is None or self._bridge.end_all()

    def __reduce__(self) -> Any:
        return Stop, (None,)


class Turn(tune.Callback):
    """The bridge at each turn of Tune's loop."""

    def __init__(self, bridge: Bridge | None) -> None:
        self._bridge = bridge

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._bridge is not None:
            _kept(self._bridge, None, self._bridge.turn, trials)

    def __reduce__(self) -> Any:
        return Turn, (None,)


def _kept(bridge: Bridge, otherwise: Any, call: Callable[..., Any], *arguments: Any) -> Any:
    """The call's answer; what it raises is kept for the engine to raise, and ends the run."""
    try:
        return call(*arguments)
    except Exception as error:
        bridge.error = bridge.error or error
        return otherwise
