"""What becomes of candidates whose run died. Called under the study's lock, so every trial that still runs is dead.

A kill -9 can fall between any two writes, of a search or of a recovery, so each step looks at what is recorded and can be repeated:
a trial with a recorded result is told; another one is queued again unless a trial already names it as RETRY_OF, and then failed
as `interrupted`. A candidate has a trial for each run that it was part of, and only the last one counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from .candidate import CANDIDATE, INTERRUPTED, RESULT, RETRY_OF, STATE


def recover(study: optuna.Study, tell: Callable[[optuna.Trial, dict[str, Any]], None]) -> int:
    """Finish or queue again every trial that a dead run left.

    Args:
        study: under its lock.
        tell: tells Optuna what a candidate's record says.

    Returns:
        How many candidates wait to go on.
    """
    trials = study.get_trials(deepcopy=False)
    queued = {trial.user_attrs[RETRY_OF] for trial in trials if RETRY_OF in trial.user_attrs}
    for frozen in trials:
        if frozen.state != TrialState.RUNNING:
            continue
        trial = optuna.Trial(study, frozen._trial_id)
        if RESULT in frozen.user_attrs:
            tell(trial, {**frozen.user_attrs.get(CANDIDATE, {}), **frozen.user_attrs[RESULT]})
        elif frozen.number in queued:
            requeue(study, trial, frozen, None)
        else:  # killed before it was recorded as a candidate: proposed anew, unless its parameters came from the queue
            params = frozen.params if CANDIDATE in frozen.user_attrs else frozen.system_attrs.get("fixed_params")
            requeue(study, trial, frozen, params)
    return len(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))


def requeue(study: optuna.Study, trial: optuna.Trial, frozen: FrozenTrial, params: dict[str, Any] | None) -> None:
    """Queue a candidate's parameters again (None: not this time) and fail its trial as interrupted, in this order.

    As `Study.enqueue_trial`, but a generation that NSGA-II gave goes with it: without one it would not be in its population.
    """
    if params:
        system = {name: value for name, value in frozen.system_attrs.items() if name.endswith(":generation")}
        system["fixed_params"] = params
        waiting = create_trial(state=TrialState.WAITING, system_attrs=system, user_attrs={RETRY_OF: frozen.number})
        study.add_trial(waiting)
    trial.set_user_attr(STATE, INTERRUPTED)
    study.tell(frozen.number, state=TrialState.FAIL)
