"""A study as results: the front by its definition, what may be on it, typed frames; read without torch, while a search runs."""

import subprocess
import sys

import pandas
import pytest

from igcsearch.search import Candidate, open_study
from igcsearch.search.run import _attributes
from igcsearch.search.sqlite import SqlitePlace
from igcsearch.search.storage import close
from igcsearch.search.study import Study, _cell
from igcsearch.spec import Budget


@pytest.fixture
def study(driven, tmp_path):
    """A study in a folder, made by a coordinator; options of the search by keyword."""

    def make(**changes) -> Study:
        folder = tmp_path / "out"
        search = driven(**changes)
        directions = ["maximize"] + ["minimize"] * (len(search.config.objectives) - 1)
        folder.mkdir()
        made = SqlitePlace(folder).create(directions, _attributes(search.config, search.coordinator.facts))
        search = driven(made, **changes)
        search.run()
        failing = search.coordinator.next_job()
        assert failing is None
        close(made)
        return open_study(folder)

    return make


def dominated(a, b, costs):
    """True if b is as accurate and cheap as a in everything, and better in something."""
    at_least = b.accuracy >= a.accuracy and all(getattr(b, cost) <= getattr(a, cost) for cost in costs)
    return at_least and (b.accuracy > a.accuracy or any(getattr(b, cost) < getattr(a, cost) for cost in costs))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
@pytest.mark.parametrize("objectives", [("accuracy",), ("accuracy", "macs"), ("accuracy", "params")])
def test_front_is_what_no_complete_candidate_beats(study, objectives, sampler):
    found = study(trials=15, sampler=sampler, objectives=objectives, budget=Budget(params=40_000))
    costs = objectives[1:] or ("params", "macs")
    complete = found.candidates(("complete",))
    assert len(complete) == 15
    expected = {a.id for a in complete if not any(dominated(a, b, costs) for b in complete)}
    front = found.front()
    assert {c.id for c in front} == expected
    assert [getattr(c, costs[0]) for c in front] == sorted(getattr(c, costs[0]) for c in front)
    assert found.best().accuracy == max(c.accuracy for c in complete)
    assert found.best().id in expected


# Stopped candidates can be more accurate than complete ones; settled ones have a value for NSGA-II. Neither may be compared.
def test_stopped_and_settled_are_never_on_a_front(study, driven):
    found = study(trials=25, sampler="random", stopping="halving", budget=Budget(params=30_000))
    states = {c.state for c in found.candidates()}
    assert {"complete", "stopped", "settled"} <= states
    assert {c.state for c in found.front()} == {"complete"}
    assert found.best().state == "complete"
    assert found.status()["stopped"] == len(found.candidates(("stopped",)))


def test_frame_is_typed_and_has_a_row_for_each_candidate(study):
    found = study(trials=6, sampler="nsga2", budget=Budget(params=30_000))
    frame = found.frame()
    assert list(frame.id) == [c.id for c in found.candidates()]
    assert frame.params.dtype == frame.macs.dtype == "Int64"
    assert frame.accuracy.dtype == frame.latency_ms.dtype == "Float64"
    assert frame.on_front.dtype == bool
    assert frame[frame.on_front].state.eq("complete").all()
    settled = frame[frame.state == "settled"]
    assert len(settled) > 0
    assert settled.accuracy.isna().all()
    assert frame.latency_ms.isna().all()
    assert isinstance(frame.describe(), pandas.DataFrame)


# 0 is a seed like any other; only candidates that were not trained have none.
def test_seed_0_is_not_missing():
    trained = Candidate(id=0, state="complete", train_images=100, seed=0)
    settled = Candidate(id=1, state="settled", params=5)
    assert (_cell(trained, "seed"), _cell(settled, "seed"), _cell(settled, "train_images")) == (0, None, None)


def test_status_counts_and_names_the_best(study):
    found = study(trials=5, budget=Budget(params=30_000))
    status = found.status()
    assert (status["complete"], status["stopped"], status["failed"], status["running"]) == (5, 0, 0, 0)
    assert status["proposals"] == 5 + status["settled"]
    assert status["acceptance"] == pytest.approx(5 / status["proposals"], abs=1e-4)
    best = found.best()
    assert status["best"]["id"] == best.id
    assert status["best"]["accuracy"] == best.accuracy
    assert status["active"] is False


def test_an_empty_study_has_no_best(study, monkeypatch):
    monkeypatch.setattr("igcsearch.search.coordinator.MAX_SETTLED", 3)
    found = study(trials=1, budget=Budget(params=1))
    assert found.front() == []
    assert found.best() is None
    assert found.status()["best"] is None
    assert len(found.frame()) == 3


def test_a_study_is_read_without_torch(study):
    found = study(trials=2)
    code = (
        "import sys, igcsearch.search.run\n"
        f"study = __import__('igcsearch').open_study({str(found.path)!r})\n"
        "study.frame(); study.front(); study.status()\n"
        "assert not {'torch', 'ray'} & set(sys.modules), 'heavy imports'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_database_may_be_named_instead_of_the_folder(study):
    found = study(trials=2)
    assert len(open_study(found.path / "study.db").candidates()) == 2
