"""Which candidates are retrained."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from igcsearch.errors import UsageError
from igcsearch.publish.choose import finalists, spread
from igcsearch.spec import Budget

from .studies import FakeStudy, candidate, fake_study


def ids(found: list) -> list[int]:  # type: ignore[type-arg]
    return [one.id for one in found]


def test_finalists_are_the_most_accurate_trained_alike(tmp_path: Path) -> None:
    """Not the stopped, not those of fewer epochs or over the latency limit; each architecture once; ties to the smaller."""
    found = [candidate(number, 0.9) for number in range(4)]
    found += [
        replace(candidate(4), state="stopped", accuracy=0.99),
        replace(candidate(5), epochs=7, accuracy=0.99),
        replace(candidate(0), id=6, accuracy=0.91),
        replace(candidate(6), id=7, accuracy=0.99, latency_ms=5.0),
        replace(candidate(7), id=8, state="settled", accuracy=None),
    ]
    study = FakeStudy(tmp_path, found)
    study.config = replace(study.config, budget=Budget(latency_ms=1.0))
    rest = sorted(found[1:4], key=lambda one: one.params)
    assert ids(finalists(study, 9)) == [6, *ids(rest)]
    assert ids(finalists(study, 2)) == [6, rest[0].id]


def test_finalists_of_two_objectives_are_of_the_front(tmp_path: Path) -> None:
    study = fake_study(tmp_path, 5, objectives=("accuracy", "macs"))
    study.front = lambda: study.found[:2]  # type: ignore[method-assign]
    assert ids(finalists(study, 9)) == [1, 0]


def test_spread_covers_the_whole_ranking(tmp_path: Path) -> None:
    """First and last are in it, steps between ranks differ by at most one, stopped ones take part."""
    found = [candidate(number % 8, 0.3 + number / 100, id=number, hash=str(number)) for number in range(40)]
    found = [replace(one, state="stopped") if one.id % 3 else one for one in found]
    study = FakeStudy(tmp_path, found)
    for count in (2, 7, 15, 40):
        chosen = ids(spread(study, count))
        assert len(set(chosen)) == count
        assert (chosen[0], chosen[-1]) == (39, 0)
        steps = {before - after for before, after in pairwise(chosen)}
        assert max(steps) - min(steps) <= 1
    assert len(spread(study, 99)) == 40


def test_too_few(tmp_path: Path) -> None:
    study = fake_study(tmp_path, 1)
    with pytest.raises(UsageError, match="at least 2"):
        spread(study, 15)
    study.found = []
    with pytest.raises(UsageError, match="no complete candidate"):
        finalists(study, 3)
