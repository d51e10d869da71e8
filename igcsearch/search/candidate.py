"""One candidate as the study records it, and the reading of it back from an Optuna trial.

A trial carries at most three user attributes, written in few calls because each is one transaction:
`igcsearch:candidate` (when it is handed out: what is trained and how), `igcsearch:result` (when it ends: numbers, reason) and
`igcsearch:state` (stopped, settled, failed, interrupted; complete needs none). Every reader goes through `read_candidate`.
A trial that goes on with a candidate of a dead run is queued with three more (recovery.py): which trial it goes on with
(`retry_of`), which one was the candidate's first (`origin`), and how many runs died meanwhile (`revivals`). On a server each trial
names its coordinator (`owner`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from igcsearch.spec import Architecture, Budget

from .latency import LatencyTable

CANDIDATE, RESULT, STATE, RETRY_OF = "igcsearch:candidate", "igcsearch:result", "igcsearch:state", "igcsearch:retry_of"
ORIGIN, REVIVALS, OWNER = "igcsearch:origin", "igcsearch:revivals", "igcsearch:owner"
STATES = ("complete", "stopped", "settled", "failed", "running")
INTERRUPTED = "interrupted"  # its run died; the candidate lives on as another trial, and this one is no candidate


@dataclass(frozen=True, repr=False)
class Candidate:
    """One proposal of a study and what became of it.

    Attributes:
        id: the trial's number.
        state: complete, stopped (early), settled (not trained), failed or running.
        reason: why it was settled, stopped or failed; "" otherwise.
        data: the architecture as JSON data, hardened where training learned something; None if the space gave none.
        proposed: as the search space gave it.
        hash, key, family, params, macs: of the architecture; "" and 0 where there is none.
        latency_ms: milliseconds, where there is a budget or an objective of latency: predicted before it was trained (see
            latency.py). In studies that have no table, measured by its worker.
        accuracy: on the validation split after the last epoch; None where it was not trained.
        epochs: trained.
        train_images, image_size: the images it was trained on.
        curve: one dictionary an epoch, as training gives it.
        seconds: of training, over all runs.
        seed: of the training.
        device, threads: where it was trained.
        params_drawn: the search space's parameters.
        learned: how its shuffles and group counts were learned (`training.TrainResult.learned`); None where none were.
    """

    id: int
    state: str
    reason: str = ""
    data: Mapping[str, Any] | None = None
    proposed: Mapping[str, Any] | None = None
    hash: str = ""
    key: str = ""
    family: str = ""
    params: int = 0
    macs: int = 0
    latency_ms: float | None = None
    accuracy: float | None = None
    epochs: int = 0
    train_images: int = 0
    image_size: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    seed: int = 0
    device: str = ""
    threads: int = 0
    params_drawn: Mapping[str, Any] = field(default_factory=dict)
    learned: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        facts = (
            f"{self.id} {self.state}, {self.family or 'no architecture'}, {self.params:,} params, {self.macs:,} MACs"
        )
        return f"<Candidate {facts}{'' if self.accuracy is None else f', accuracy {self.accuracy:.4f}'}>"

    @cached_property
    def architecture(self) -> Architecture:
        """The network; raises ValueError where the proposal gave none."""
        if self.data is None:
            raise ValueError(f"candidate {self.id} has no architecture ({self.reason or self.state})")
        return Architecture.from_dict(self.data)

    @property
    def trained_alike(self) -> tuple[int, int, int]:
        """What two candidates must share to be compared: epochs, training images, image size."""
        return self.epochs, self.train_images, self.image_size


def comparable(candidates: Iterable[Candidate], budget: Budget) -> list[Candidate]:
    """The complete candidates within the latency budget that are trained alike: as most of them are, should they differ."""
    limit = budget.latency_ms
    able = [
        candidate
        for candidate in candidates
        if candidate.state == "complete"
        and (limit is None or candidate.latency_ms is None or candidate.latency_ms <= limit)
    ]
    ways = Counter(candidate.trained_alike for candidate in able).most_common(1)
    return [candidate for candidate in able if candidate.trained_alike == ways[0][0]]


def describe(architecture: Architecture, *, stored: bool = True, table: LatencyTable | None = None) -> dict[str, Any]:
    """The part of a candidate's record that its architecture gives; `stored` puts the architecture itself in."""
    facts: dict[str, Any] = {"hash": architecture.hash, "key": architecture.key, "family": architecture.family}
    facts |= {"params": architecture.params, "macs": architecture.macs}
    if table is not None:
        facts["latency_ms"] = table.predict(architecture)
    return facts | ({"architecture": architecture.to_dict()} if stored else {})


def read_candidate(trial: FrozenTrial) -> Candidate | None:
    """The candidate of a trial; None for one that is none (waiting, interrupted, or not recorded yet)."""
    state = _state(trial)
    if state is None:
        return None
    record: dict[str, Any] = {**trial.user_attrs.get(CANDIDATE, {}), **trial.user_attrs.get(RESULT, {})}
    proposed = trial.user_attrs.get(CANDIDATE, {}).get("architecture")
    plain = {name: record[name] for name in _PLAIN if record.get(name) is not None}
    if state == "running":
        plain["accuracy"] = (
            trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None
        )
        plain["epochs"] = max(trial.intermediate_values, default=0)
    return Candidate(
        id=trial.number,
        state=state,
        data=record.get("architecture"),
        proposed=proposed,
        params_drawn=trial.params,
        **plain,
    )


#: What a candidate's record holds under the candidate's own names.
_PLAIN = tuple(f.name for f in fields(Candidate) if f.name not in ("id", "state", "data", "proposed", "params_drawn"))


def was_interrupted(trial: FrozenTrial) -> bool:
    """True if the trial's run died. One that its own coordinator told in the last moment has its result."""
    told = trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and RESULT in trial.user_attrs
    return trial.user_attrs.get(STATE) == INTERRUPTED and not told


def _state(trial: FrozenTrial) -> str | None:
    recorded = trial.user_attrs.get(STATE)
    if was_interrupted(trial) or trial.state == TrialState.WAITING:
        return None
    if recorded == INTERRUPTED:  # another coordinator was about to take it over when it was told
        recorded = trial.user_attrs[RESULT]["state"]
    if trial.state == TrialState.RUNNING:
        return "running" if CANDIDATE in trial.user_attrs else None
    if recorded in STATES:
        return str(recorded)
    return "complete" if trial.state == TrialState.COMPLETE else "failed"
