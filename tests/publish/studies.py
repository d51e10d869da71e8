"""A study as `publish` sees it, without a search: real configuration and candidates, made-up search accuracies."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import igcsearch.publish.finalists as finalists_module
from igcsearch.blocks import dense, igcv2, network, stage
from igcsearch.entries import Entry
from igcsearch.publish import events, publish
from igcsearch.search import Candidate, SearchConfig
from igcsearch.search.candidate import comparable
from igcsearch.spec import Architecture, Budget, Problem
from igcsearch.training import DataSpec, Recipe, evaluate

RECIPE = Recipe(epochs=1, batch_size=64, lr=0.1, warmup_epochs=0.2)


@dataclass
class FakeStudy:
    """Has what igcsearch.search.Study has and publish uses."""

    path: Path
    found: list[Candidate]
    config: SearchConfig = field(
        default_factory=lambda: SearchConfig("digits", DataSpec("digits", train_images=300), Budget(20_000), RECIPE, 5)
    )

    def candidates(self) -> list[Candidate]:
        return self.found

    def comparable(self) -> list[Candidate]:
        return comparable(self.found, self.config.budget)

    def front(self) -> list[Candidate]:
        return [candidate for candidate in self.found if candidate.state == "complete"]


def digits_net(number: int) -> Architecture:
    """Small networks for digits, all different."""
    problem = Problem(image_size=8, in_channels=1, num_classes=10)
    if number % 2:
        return network(problem, 8 + 4 * number, [stage(dense, 8 + 4 * number, 16, 1, stride=2)])
    width = 8 * (1 + number // 2)
    return network(problem, width, [stage(igcv2, width, width, 1, branch_widths=(width // 4, 4))], stem_stride=2)


def candidate(number: int, accuracy: float | None = None, **fields: Any) -> Candidate:
    """Candidate `number` with that search accuracy."""
    architecture = digits_net(number)
    made = Candidate(
        id=number,
        state="complete",
        data=architecture.to_dict(),
        hash=architecture.hash,
        key=architecture.key,
        family=architecture.family,
        params=architecture.params,
        macs=architecture.macs,
        accuracy=0.5 + number / 100 if accuracy is None else accuracy,
        epochs=1,
        train_images=300,
        image_size=8,
    )
    return replace(made, **fields)


def fake_study(path: Path, count: int = 5, **config: Any) -> FakeStudy:
    """A study of `count` candidates, the last one best."""
    study = FakeStudy(path, [candidate(number) for number in range(count)])
    study.config = replace(study.config, **config)
    path.mkdir(parents=True, exist_ok=True)
    return study


@dataclass
class Published:
    """One publication and what it said."""

    study: FakeStudy
    zoo: Path
    entries: list[Entry]
    told: list[events.Event]
    evaluated: list[tuple[str, int]]  # (hash, images) of every call of evaluate


def run(study: FakeStudy, zoo: Path, **options: Any) -> Published:
    """Publish with `evaluate` instrumented."""
    told: list[events.Event] = []
    evaluated: list[tuple[str, int]] = []

    def watched(network: Any, split: Any, **more: Any) -> tuple[float, int]:
        answer = evaluate(network, split, **more)
        evaluated.append((network.architecture.hash, answer[1]))
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finalists_module, "evaluate", watched)
        found = publish(study, to=zoo, on_event=told.append, **options)  # type: ignore[arg-type]
    return Published(study, zoo, found, told, evaluated)
