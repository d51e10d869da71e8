"""What becomes of candidates whose coordinator died. Called by one coordinator at a time (`Place.sweeping`).

A kill -9 can fall between any two writes, of a search or of a recovery, so each step looks at what is recorded and can be repeated:
a trial with a recorded result is told; another one is queued again unless a trial already names it as RETRY_OF, and then failed
as `interrupted`. A candidate has a trial for each run that it was part of, and only the last one counts; ORIGIN names the first.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from .candidate import CANDIDATE, INTERRUPTED, ORIGIN, RESULT, RETRY_OF, REVIVALS, STATE
from .storage import Place
from .telling import NotOurs, Teller

MAX_REVIVALS = 10  # coordinators that may die of one candidate, or beside it


def recover(place: Place, study: optuna.Study, teller: Teller) -> int:
    """Finish or queue again every trial that a dead coordinator left.

    Returns:
        How many candidates wait to go on.
    """
    trials = study.get_trials(deepcopy=False)
    dead = place.dead([trial for trial in trials if trial.state == TrialState.RUNNING])
    queued = {trial.user_attrs[RETRY_OF] for trial in trials if RETRY_OF in trial.user_attrs}
    for frozen in dead:
        trial = optuna.Trial(study, frozen._trial_id)
        with suppress(NotOurs):  # it lived after all, or another one was faster
            _recover(place, study, teller, trial, frozen, frozen.number in queued)
    return len(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def _recover(
    place: Place, study: optuna.Study, teller: Teller, trial: optuna.Trial, frozen: FrozenTrial, queued: bool
) -> None:
    attributes = frozen.user_attrs
    revivals = int(attributes.get(REVIVALS, 0)) + 1
    if RESULT in attributes:
        teller.tell(trial, {**attributes.get(CANDIDATE, {}), **attributes[RESULT]})
        if attributes[RESULT]["state"] in ("failed", "settled"):
            place.release(origin_of(frozen))
    elif queued:
        requeue(study, trial, frozen, None)
    elif revivals > MAX_REVIVALS:
        reason = f"the search died {revivals} times while it was trained"
        teller.record(trial, {"state": "failed", "reason": reason}, {})
        place.release(origin_of(frozen))
    else:  # killed before it was recorded as a candidate: proposed anew, unless its parameters came from the queue
        params = frozen.params if CANDIDATE in attributes else frozen.system_attrs.get("fixed_params")
        if not params:
            place.release(origin_of(frozen), forget=True)
        requeue(study, trial, frozen, params, revivals)


def requeue(
    study: optuna.Study, trial: optuna.Trial, frozen: FrozenTrial, params: dict[str, Any] | None, revivals: int = 0
) -> None:
    """Queue a candidate's parameters again (None: not this time) and fail its trial as interrupted, in this order.

    As `Study.enqueue_trial`, but a generation that NSGA-II gave goes with it: without one it would not be in its population.
    Raises NotOurs where the trial was told meanwhile.
    """
    if params:
        system = {name: value for name, value in frozen.system_attrs.items() if name.endswith(":generation")}
        system["fixed_params"] = params
        user = {RETRY_OF: frozen.number, ORIGIN: origin_of(frozen), REVIVALS: revivals}
        study.add_trial(create_trial(state=TrialState.WAITING, system_attrs=system, user_attrs=user))
    try:
        trial.set_user_attr(STATE, INTERRUPTED)
        study.tell(frozen.number, state=TrialState.FAIL)
    except (UpdateFinishedTrialError, ValueError):
        if not study._storage.get_trial(frozen._trial_id).state.is_finished():
            raise
        raise NotOurs from None


def origin_of(frozen: FrozenTrial) -> int:
    """The number of the first trial of a candidate."""
    return int(frozen.user_attrs.get(ORIGIN, frozen.user_attrs.get(RETRY_OF, frozen.number)))
