"""Studies that hold many finished candidates, made without training, for benchmarks: real architectures with made-up accuracies."""

from __future__ import annotations

import json
import random
from datetime import datetime
from functools import lru_cache
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.trial import FrozenTrial, TrialState, create_trial

from igcsearch.search.candidate import CANDIDATE, RESULT, describe
from igcsearch.search.samplers import population_size
from igcsearch.search.storage import rdb
from igcsearch.search_spaces import get_space
from igcsearch.spec import Budget, Problem

PROBLEMS = {
    "digits": Problem(8, 1, 10, Budget(params=20_000)),
    "cifar": Problem(32, 3, 10, Budget(params=250_000, macs=20_000_000)),
}


class Drawn:
    """A trial that draws uniformly and keeps what was asked, to make finished trials of."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def _draw(self, name: str, distribution: BaseDistribution, value: Any) -> Any:
        self.distributions.setdefault(name, distribution)
        return self.params.setdefault(name, value)

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of the choices."""
        return self._draw(name, CategoricalDistribution(choices), self._rng.choice(list(choices)))

    def suggest_int(self, name: str, low: int, high: int) -> Any:
        """A whole number in [low, high]."""
        return self._draw(name, IntDistribution(low, high), self._rng.randint(low, high))

    def suggest_float(self, name: str, low: float, high: float) -> Any:
        """A number in [low, high]."""
        return self._draw(name, FloatDistribution(low, high), self._rng.uniform(low, high))


@lru_cache(maxsize=4)
def finished(space: str, count: int) -> list[FrozenTrial]:
    """Complete trials as a search leaves them, each of another architecture; values: a made-up accuracy and the MACs."""
    rng, problem, propose = (
        random.Random(0),
        PROBLEMS[space],
        get_space(space).limited(("interleave", "random")).propose,
    )
    population, trials, seen = population_size(count), list[FrozenTrial](), set[str]()
    while len(trials) < count:
        drawn = Drawn(rng)
        architecture = propose(drawn, problem)
        if architecture.key in seen:
            continue
        seen.add(architecture.key)
        accuracy = 0.5 + 0.4 * architecture.params / 250_000 + 0.05 * rng.random()
        generation = len(trials) // population
        trials.append(
            create_trial(
                state=TrialState.COMPLETE,
                params=drawn.params,
                distributions=drawn.distributions,
                values=[accuracy, architecture.macs],
                user_attrs={
                    CANDIDATE: describe(architecture) | {"seed": 1, "train_images": 1000, "image_size": 8},
                    RESULT: {"state": "complete", "accuracy": accuracy, "epochs": 1, "curve": [], "seconds": 1.0},
                },
                system_attrs={"NSGAIISampler:generation": generation},
                intermediate_values={1: accuracy},
            )
        )
    return trials


def fill(study: optuna.Study, trials: list[FrozenTrial]) -> None:
    """Put finished trials into a study, with as many values as it has objectives."""
    count = len(study.directions)
    for trial in trials:
        values = list(trial.values)[:count]
        made = create_trial(
            state=trial.state,
            params=trial.params,
            distributions=trial.distributions,
            values=values,
            user_attrs=trial.user_attrs,
            system_attrs=trial.system_attrs,
            intermediate_values=trial.intermediate_values if count == 1 else None,
        )
        study.add_trial(made)


def insert(study: optuna.Study, trials: list[FrozenTrial], first: int) -> None:
    """The same for a study in a database, as rows: Optuna's own `add_trial` takes a tenth of a second for each.

    Args:
        study: with one objective; `first` trials are in it.
        trials: finished ones.
        first: the number of the first of them.
    """
    import sqlalchemy
    from optuna.storages._rdb import models

    backend = rdb(study)
    assert backend is not None
    now = datetime.now()
    with backend.engine.begin() as connection:

        def add(model: Any, rows: list[dict[str, Any]]) -> None:
            if rows:
                connection.execute(sqlalchemy.insert(model), rows)

        common = {
            "study_id": study._study_id,
            "state": TrialState.COMPLETE,
            "datetime_start": now,
            "datetime_complete": now,
        }
        add(models.TrialModel, [{**common, "number": first + i} for i in range(len(trials))])
        table = models.TrialModel
        query = sqlalchemy.select(table.trial_id).where(table.study_id == study._study_id, table.number >= first)
        ids = list(connection.execute(query.order_by(table.number)).scalars())
        pairs = list(zip(ids, trials, strict=True))
        params = [
            {
                "trial_id": id,
                "param_name": name,
                "param_value": trial.distributions[name].to_internal_repr(value),
                "distribution_json": distribution_to_json(trial.distributions[name]),
            }
            for id, trial in pairs
            for name, value in trial.params.items()
        ]
        add(models.TrialParamModel, params)
        kind = models.TrialValueModel.TrialValueType.FINITE
        values = [{"trial_id": i, "objective": 0, "value": t.values[0], "value_type": kind} for i, t in pairs]
        add(models.TrialValueModel, values)
        finite = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
        steps = [
            {"trial_id": i, "step": 1, "intermediate_value": t.values[0], "intermediate_value_type": finite}
            for i, t in pairs
        ]
        add(models.TrialIntermediateValueModel, steps)
        for model, attributes in (
            (models.TrialUserAttributeModel, "user_attrs"),
            (models.TrialSystemAttributeModel, "system_attrs"),
        ):
            rows = [
                {"trial_id": id, "key": key, "value_json": json.dumps(value)}
                for id, trial in pairs
                for key, value in getattr(trial, attributes).items()
            ]
            add(model, rows)
