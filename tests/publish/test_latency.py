"""Latency in publications: finalists measured whole before they are retrained, those over the budget named and left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import igcsearch.publish.rounds as rounds
import igcsearch.search.run as run_module
from igcsearch.errors import UsageError
from igcsearch.publish import events, read_finalists
from igcsearch.publish.ladder import build_zoo
from igcsearch.publish.retrain import Job
from igcsearch.publish.rungs import make_ladder
from igcsearch.search import open_study
from igcsearch.search.measuring import Meter
from igcsearch.spec import Architecture, Budget

from .ladders import FAKES, fake_engine, instant, parent
from .studies import FakeStudy, fake_study, run

BUDGET = Budget(latency_ms=1.0)


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done, in order: "measured HASH", "retrained HASH"; retrainings are instant."""
    done: list[str] = []

    def noted(jobs: Sequence[Job], *others: Any) -> None:
        done.extend(f"retrained {job.hash}" for job in jobs)
        instant(jobs, *others)

    monkeypatch.setattr(rounds, "run_jobs", noted)
    return done


@pytest.fixture
def measures(monkeypatch: pytest.MonkeyPatch, log: list[str]) -> Callable[[Callable[[Architecture], float]], None]:
    """Replace the measuring of whole networks."""

    def replaced(ms: Callable[[Architecture], float]) -> None:
        def network(self: Meter, architecture: Architecture) -> dict[str, Any]:
            log.append(f"measured {architecture.hash}")
            how = {"device": "cpu", "threads": self.setting.threads, "batch": self.setting.batch}
            return {"median_ms": ms(architecture), **how, "dtype": "float32", "execution": "optimized"}

        monkeypatch.setattr(Meter, "network", network)

    return replaced


def with_predictions(folder: Path, **config: Any) -> FakeStudy:
    study = fake_study(folder, **{"budget": BUDGET, **config})
    study.found = [replace(each, latency_ms=0.9) for each in study.found]
    return study


# Rule: measured before any retraining; the next in the ranking takes the place of one that is too slow; nothing is measured twice.
def test_finalists_over_the_budget_are_named_and_left_out(
    tmp_path: Path, log: list[str], measures: Callable[..., None]
) -> None:
    study = with_predictions(tmp_path / "study", latency_batch=4)
    best = study.found[4].hash
    measures(lambda architecture: 1.25 if architecture.hash == best else 0.5)
    done = run(study, tmp_path / "zoo", top=1, seeds=1)
    assert log[:4] == [f"measured {study.found[number].hash}" for number in (4, 3, 2, 1)]
    assert log[4:] == [f"retrained {study.found[number].hash}" for number in (3, 2, 1)]
    [said] = [event.message for event in done.told if isinstance(event, events.Note)]
    assert f"candidate 4 ({best}) is left out" in said
    assert "measured 1.25 ms, predicted 0.9 ms, budget 1 ms" in said
    stored = read_finalists(study.path)
    assert stored is not None
    [row] = [row for row in stored["finalists"] if row["id"] == 4]
    assert (row["chosen"], row["latency_ms"], row["predicted_ms"]) == (False, 1.25, 0.9)
    assert "over the latency budget" in row["failed"]
    [entry] = done.entries
    latency = entry.metrics["latency"]
    assert {"median_ms": 0.5, "predicted_ms": 0.9, "batch": 4, "execution": "optimized"}.items() <= latency.items()
    card = (entry.path / "README.md").read_text()
    assert "0.50 ms median, 0.90 ms predicted (cpu, 1 thread, batch 4, float32, optimized for inference)" in card
    log.clear()
    run(study, tmp_path / "zoo", top=1, seeds=1)
    assert log == []


# Rule: of candidates that were named none is left out; one over the budget is refused before any training.
def test_named_candidates_over_the_budget_are_refused(
    tmp_path: Path, log: list[str], measures: Callable[..., None]
) -> None:
    study = with_predictions(tmp_path / "study")
    measures(lambda architecture: 1.25 if architecture.hash == study.found[3].hash else 0.5)
    refused = "candidate 3 is over the latency budget: measured 1.25 ms, .*budget 1 ms; leave 3 out of those to publish"
    with pytest.raises(UsageError, match=refused):
        run(study, tmp_path / "zoo", candidates=[2, 3], seeds=1)
    assert not any(line.startswith("retrained") for line in log)
    done = run(study, tmp_path / "zoo", candidates=[2, 0], seeds=1)
    assert [entry.metrics["latency"]["median_ms"] for entry in done.entries] == [0.5, 0.5]


def test_where_all_are_too_slow_nothing_is_trained(
    tmp_path: Path, log: list[str], measures: Callable[..., None]
) -> None:
    measures(lambda architecture: 1.5)
    with pytest.raises(
        UsageError, match=r"every candidate is too slow .*measured 1.5 ms, predicted 0.9 ms, budget 1 ms"
    ):
        run(with_predictions(tmp_path / "study"), tmp_path / "zoo", top=1, seeds=1)
    assert not any(line.startswith("retrained") for line in log)


def test_a_study_without_latency_measures_nothing_before_it_retrains(
    tmp_path: Path, log: list[str], measures: Callable[..., None]
) -> None:
    measures(lambda architecture: 1.5)
    done = run(fake_study(tmp_path / "study"), tmp_path / "zoo", top=1, seeds=1)
    assert not any(line.startswith("measured") for line in log)
    # Where nothing was asked for, it is measured in the same way for the entry.
    assert done.entries[0].metrics["latency"]["execution"] == "optimized"


# Rules: a rung inherits what its own table predicts to be fast enough, whatever the parent knew; its finalists are measured.
def test_a_ladder_with_a_limit_on_latency(
    tmp_path: Path, log: list[str], measures: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    study, asked = parent(tmp_path / "study", trials=8), list[Any]()
    limit = sorted(c.macs for c in study.comparable())[4] / 1e6

    def measured(space: Any, problem: Any, setting: Any, **how: Any) -> Any:
        asked.append((problem.budget, setting))
        return FAKES.macs_table(setting)

    monkeypatch.setattr(run_module, "measure_table", measured)
    measures(lambda architecture: architecture.macs / 1e6)
    how: dict[str, Any] = {"seeds": 1, "min_candidates": 6, "device": "cpu", "engine": fake_engine}
    how |= {"latency": {"latency_threads": 2}, "to": tmp_path / "zoo"}
    ladder = make_ladder([60_000], latency_ms=limit)
    zoo = build_zoo(study, ladder, **how)
    [rung] = zoo.rungs
    assert (rung.state, rung.rung.limits["latency_ms"]) == ("built", limit)
    assert rung.inherited == 5
    assert [(budget.latency_ms, setting.threads) for budget, setting in asked] == [(limit, 2)]
    made = open_study(rung.folder)
    assert all(c.latency_ms == pytest.approx(c.macs / 1e6) and c.latency_ms <= limit for c in made.comparable())
    made.close()
    assert zoo.entries[0].metrics["latency"]["threads"] == 2
    assert build_zoo(study, ladder, **how).rungs[0].state == "kept"
    [other] = build_zoo(study, ladder, **{**how, "latency": {}}).rungs
    assert (other.state, "threads = 2, not 1" in other.error) == ("failed", True)  # another question
    study.close()
