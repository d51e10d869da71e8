"""agreement: Kendall's tau of search and retrained accuracy, against counting pairs; what publish retrained is reused."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from igcsearch.publish import agreement, events, read_agreement

from .studies import Published


def test_tau_over_the_ranking(published: Published) -> None:
    """The test split stays untouched, stopped candidates take part, and fewer candidates than asked for are said."""
    study = replace(published.study, found=[replace(one) for one in published.study.found])
    study.found[0] = replace(study.found[0], state="stopped")
    told: list[events.Event] = []
    found = agreement(study, candidates=15, workers=2, on_event=told.append)  # type: ignore[arg-type]
    assert found == read_agreement(study.path)
    plan = next(event for event in told if isinstance(event, events.Planned))
    assert (plan.retrainings, plan.reused) == (5, 3)
    assert isinstance(told[0], events.Note)
    assert isinstance(told[-1], events.Agreed)
    pairs = found["pairs"]
    assert [pair["id"] for pair in pairs] == [4, 3, 2, 1, 0]
    assert pairs[-1]["state"] == "stopped"
    assert found["tau"] == pytest.approx(tau_b([(p["search_accuracy"], p["retrained_accuracy"]) for p in pairs]))
    assert len(list((study.path / "publish").rglob("test-*.json"))) == 2, "those of the published one"


def tau_b(points: list[tuple[float, float]]) -> float:
    """Kendall's tau-b by its definition."""

    def sign(value: float) -> int:
        return (value > 0) - (value < 0)

    signs = [(sign(a[0] - b[0]), sign(a[1] - b[1])) for a, b in combinations(points, 2)]
    total = sum(x * y for x, y in signs)
    return float(total / (sum(x * x for x, _ in signs) * sum(y * y for _, y in signs)) ** 0.5)


def test_nothing_stored(tmp_path: Path) -> None:
    assert read_agreement(tmp_path) is None
