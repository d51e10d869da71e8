"""Telling Optuna what a candidate's record says. The record is stored before, so this can be done again after a kill."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from .candidate import RESULT, STATE
from .settle import tell_settled

_WORST = {"params": 10**12, "macs": 10**15, "latency_ms": 1e9}


class NotOurs(Exception):  # noqa: N818 - what was found out, not a mistake
    """The trial was told by another coordinator, which took this one for dead."""


class Teller:
    """Tells the trials of one study.

    Args:
        study: whose trials are told.
        objectives: of the search, in the order of the study's directions.
        sampler: by name; each learns from settled proposals in its own way.
    """

    def __init__(self, study: optuna.Study, objectives: tuple[str, ...], sampler: str) -> None:
        self._study, self._objectives, self._sampler = study, objectives, sampler
        self._unconditional: set[str] | None = None  # parameters that every full proposal has had

    def know(self, params: dict[str, Any]) -> None:
        """The parameters of a proposal that was made to its end."""
        self._unconditional = set(params) if self._unconditional is None else self._unconditional & set(params)

    def record(self, trial: optuna.Trial, record: dict[str, Any], facts: dict[str, Any]) -> None:
        """Store what became of a candidate or proposal, then tell it. `facts` are what was recorded of it before.

        Raises:
            NotOurs: it was told by another coordinator.
        """
        try:
            trial.set_user_attr(RESULT, record)
        except UpdateFinishedTrialError:
            raise NotOurs from None
        self.tell(trial, {**facts, **record})

    def tell(self, trial: optuna.Trial, record: dict[str, Any]) -> None:
        """Tell Optuna a record that is stored already.

        Raises:
            NotOurs: the trial was told by another coordinator.
        """
        try:
            self._tell(trial, record)
        except UpdateFinishedTrialError:
            raise NotOurs from None
        except ValueError:  # Optuna's word for a trial that is told already
            if not self._study._storage.get_trial(trial._trial_id).state.is_finished():
                raise
            raise NotOurs from None

    def _tell(self, trial: optuna.Trial, record: dict[str, Any]) -> None:
        state = record["state"]
        if state != "complete":
            trial.set_user_attr(STATE, state)
        if state == "complete":
            self._study.tell(trial.number, self._values(record))
        elif state == "stopped":
            self._study.tell(trial.number, state=TrialState.PRUNED)
        elif state == "failed":
            self._study.tell(trial.number, state=TrialState.FAIL)
        else:
            whole = self._unconditional is not None and self._unconditional <= set(trial.params)
            known = {name: value for name, value in record.items() if value is not None}
            values = self._values({**_WORST, **known, "accuracy": 0.0})
            tell_settled(self._study, trial, record["violation"], self._sampler, values, complete_params=whole)

    def _values(self, record: dict[str, Any]) -> list[float]:
        names = {"latency": "latency_ms"}
        return [float(record[names.get(objective, objective)]) for objective in self._objectives]
