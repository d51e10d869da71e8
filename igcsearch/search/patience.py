"""Waiting for a database server that is gone for a while, and repeating the call then."""

from __future__ import annotations

import functools
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from .storage import DATABASE_ERRORS

PATIENCE_S = 600.0  # for a server that is gone in the middle of a search
_LOCK_TIMEOUT = "55P03"  # PostgreSQL's code: others held a lock for too long, which is no outage
T = TypeVar("T")


class PatientStorage(RDBStorage):
    """Optuna's storage, which waits for a server that is gone for a while and repeats the call then.

    A call that the server had carried out before the connection broke is carried out again: attributes and parameters are set
    to the same values, a trial that was told already is told, and a trial that was created twice is nobody's and is swept.
    """

    def __init__(self, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        weakref.finalize(self, self.engine.dispose)  # readers need not close what they opened


class _Outage:
    """Since when this process waits for a server that is away: what one call waited, the next ones do not wait again."""

    since: float | None = None


def patient(call: Callable[[], T]) -> T:
    """The call's result, repeated while the server is away, until PATIENCE_S after the outage began."""
    pause = 0.2
    while True:
        try:
            result = call()
        except DATABASE_ERRORS as error:
            if not is_outage(error):
                raise
            _Outage.since = time.monotonic() if _Outage.since is None else _Outage.since
            if time.monotonic() - _Outage.since > PATIENCE_S:
                raise
        else:
            _Outage.since = None
            return result
        time.sleep(pause)
        pause = min(2 * pause, 5.0)


def _repeated(name: str) -> Callable[..., Any]:
    method = getattr(RDBStorage, name)

    @functools.wraps(method)
    def call(self: RDBStorage, *args: Any, **kwargs: Any) -> Any:
        return patient(lambda: method(self, *args, **kwargs))

    return call


def _told(self: RDBStorage, trial_id: int, state: TrialState, values: Any = None) -> bool:
    """`set_trial_state_values`; a repetition finds the trial as it wanted it."""
    tries = 0

    def once() -> bool:
        nonlocal tries
        tries += 1
        try:
            return RDBStorage.set_trial_state_values(self, trial_id, state, values)
        except UpdateFinishedTrialError:
            if tries > 1 and self.get_trial(trial_id).state == state:
                return True
            raise

    return patient(once)


for _name in (
    *("create_new_study", "set_study_user_attr", "set_study_system_attr", "get_study_id_from_name"),
    *("get_study_name_from_id", "get_study_directions", "get_study_user_attrs", "get_study_system_attrs"),
    *("get_all_studies", "create_new_trial", "set_trial_param", "set_trial_intermediate_value"),
    *("set_trial_user_attr", "set_trial_system_attr", "get_trial", "get_all_trials", "_get_trials"),
    *("get_trial_id_from_study_id_trial_number", "get_trial_param", "get_best_trial"),
    *("_create_new_trial", "_set_trial_param"),  # Optuna's cache calls these
):
    setattr(PatientStorage, _name, _repeated(_name))
PatientStorage.set_trial_state_values = _told  # type: ignore[method-assign]


def is_outage(error: BaseException) -> bool:
    """True for a connection that broke or could not be made, and for a transaction that may simply be repeated."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, sqlalchemy.exc.DBAPIError) and getattr(error.orig, "sqlstate", None) != _LOCK_TIMEOUT:
        return error.connection_invalidated or isinstance(
            error, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError
        )
    return False
