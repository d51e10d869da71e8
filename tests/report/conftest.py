"""A study as the page reads it: real proposals of the digits space in an Optuna study in memory, with made-up learning curves."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import pytest

from igcsearch.search import Candidate, SearchConfig
from igcsearch.search.candidate import describe
from igcsearch.search.latency import LatencyTable
from igcsearch.search_spaces import get_space
from igcsearch.spec import Budget, Problem
from igcsearch.training import DataSpec, Recipe


@dataclass
class FakeStudy:
    """What `igcsearch.open_study` gives, as far as the page needs it."""

    path: Path
    config: SearchConfig
    optuna: optuna.Study
    found: list[Candidate] = field(default_factory=list)
    latency: LatencyTable | None = None

    def candidates(self) -> list[Candidate]:
        return self.found

    def front(self) -> list[Candidate]:
        complete = [c for c in self.found if c.state == "complete"]
        return [
            c
            for c in complete
            if not any((o.accuracy or 0) >= (c.accuracy or 0) and o.params < c.params for o in complete)
        ]

    def best(self) -> Candidate | None:
        complete = [c for c in self.found if c.state == "complete"]
        return max(complete, key=lambda c: c.accuracy or 0.0, default=None)


@pytest.fixture(scope="session")
def make_study(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., FakeStudy]:
    """`make_study(trained, stopped, settled)`: a study of so many candidates."""

    def make(trained: int = 14, stopped: int = 4, settled: int = 9, failed: int = 1, seed: int = 0) -> FakeStudy:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        config = SearchConfig(
            space="digits",
            data=DataSpec("digits"),
            budget=Budget(params=20_000),
            recipe=Recipe(epochs=20),
            trials=max(1, trained + stopped),
        )
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed))
        fake = FakeStudy(tmp_path_factory.mktemp("study"), config, study)
        states = ["complete"] * trained + ["stopped"] * stopped + ["settled"] * settled + ["failed"] * failed
        stream = random.Random(seed)
        stream.shuffle(states)
        space, problem = get_space("digits"), Problem(8, 1, 10, config.budget)
        for state in states:
            trial = study.ask()
            architecture = space.propose(trial, problem)
            top = 1 - 0.004 - 0.05 * math.exp(-architecture.params / 5_000) - 0.03 * stream.random() ** 2
            epochs = 20 if state == "complete" else stream.choice([2, 6]) if state == "stopped" else 0
            points = [
                top - 0.85 * math.exp(-e / (2 + stream.random())) - 0.004 * stream.random()
                for e in range(1, epochs + 1)
            ]
            curve = [
                {"epoch": e, "train_loss": 1.0, "validation_accuracy": v, "seconds": 1.0}
                for e, v in enumerate(points, 1)
            ]
            reason = {"settled": "over budget: 24,000 params > 20,000", "failed": "loss is nan"}.get(state, "")
            plain = {key: value for key, value in describe(architecture).items() if key != "architecture"}
            fake.found.append(
                Candidate(
                    id=trial.number,
                    state=state,
                    reason=reason,
                    data=architecture.to_dict(),
                    accuracy=points[-1] if points else None,
                    epochs=epochs,
                    train_images=1079,
                    image_size=8,
                    curve=curve,
                    seconds=20.0 * epochs,
                    device="cpu",
                    **plain,
                )
            )
            if state == "complete":
                study.tell(trial, points[-1])
            else:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return fake

    return make
