"""A zoo along a ladder, with instant searches and retrainings: what each rung inherits, needs, leaves alone and says."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import igcsearch.publish.rounds as rounds
from igcsearch.entries import load, read_folder
from igcsearch.errors import UsageError
from igcsearch.publish import events
from igcsearch.publish.ladder import Zoo
from igcsearch.publish.rungs import Rung, make_ladder
from igcsearch.search import open_study
from igcsearch.search.inherit import INHERITED

from .ladders import FAKES, PARENT_BUDGET, instant, parent, run

LADDER = (5_000, 20_000, PARENT_BUDGET)


@dataclass
class Built:
    """A ladder of three rungs and what it said."""

    study: Path
    zoo: Path
    result: Zoo
    told: list[events.Event] = field(default_factory=list)


@pytest.fixture(scope="module", autouse=True)
def _instant() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "run_jobs", instant)
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("ladder")
    parent(folder / "study").close()
    told: list[events.Event] = []
    result = run(folder / "study", folder / "zoo", LADDER, told.append)
    return Built(folder / "study", folder / "zoo", result, told)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "log"
    path.touch()
    monkeypatch.setenv("FAKE_LOG", str(path))
    return path


def test_each_rung_has_enough_candidates_of_its_own_size(built: Built) -> None:
    """At least as many as asked for are complete; those inherited from below a smaller rung are not what makes them enough."""
    assert [rung.state for rung in built.result.rungs] == ["built"] * 3
    below = 0
    for limit, rung in zip(LADDER, built.result.rungs, strict=True):
        study = open_study(rung.folder)
        complete = study.candidates(("complete",))
        inherited = {t.number for t in study.optuna.get_trials() if INHERITED in t.user_attrs}
        assert all(candidate.params <= limit for candidate in complete)
        assert sum(c.id not in inherited or c.params > below for c in complete) >= 4
        assert (rung.complete, rung.inherited) == (len(complete), len(inherited & {c.id for c in complete}))
        assert study.config.budget.params == limit
        below = limit
        study.close()


def test_rungs_begin_with_all_that_fits_and_train_no_network_twice(built: Built) -> None:
    trained: Counter[str] = Counter()
    known: set[str] = set()
    parents = open_study(built.study)
    known |= {c.key for c in parents.candidates(("complete",))}
    trained.update(c.key for c in parents.candidates(("complete",)))
    sizes = {c.key: c.params for c in parents.candidates(("complete",))}
    for limit, rung in zip(LADDER, built.result.rungs, strict=True):
        study = open_study(rung.folder)
        inherited = {t.number for t in study.optuna.get_trials() if INHERITED in t.user_attrs}
        keys = {c.key for c in study.candidates(("complete",)) if c.id in inherited}
        assert keys == {key for key in known if sizes[key] <= limit}
        own = [c for c in study.candidates(("complete",)) if c.id not in inherited]
        trained.update(c.key for c in own)
        known |= {c.key for c in own}
        sizes |= {c.key: c.params for c in own}
        study.close()
    assert set(trained.values()) == {1}
    parents.close()


def test_inherited_candidates_say_where_they_were_trained(built: Built) -> None:
    """The study and the trial there, not the rung between; the sampler has the parameters that give the network here."""
    parents, last = open_study(built.study), open_study(built.result.rungs[-1].folder)
    studies = {"study": parents} | {r.rung.name: open_study(r.folder) for r in built.result.rungs}
    origins = set()
    for trial in last.optuna.get_trials():
        if INHERITED in trial.user_attrs:
            origin = trial.user_attrs[INHERITED]
            there = {c.id: c for c in studies[origin["study"]].candidates()}[origin["trial"]]
            here = {c.id: c for c in last.candidates()}[trial.number]
            assert (here.hash, here.accuracy, here.curve) == (there.hash, there.accuracy, there.curve)
            assert trial.values == [there.accuracy]
            assert trial.params == there.params_drawn  # this space does not look at the budget
            origins.add(origin["study"])
    assert origins >= {"study", "params-5k"}
    for study in (*studies.values(), last):
        study.close()


def test_entries_name_their_rungs_and_load(built: Built) -> None:
    for rung in built.result.rungs:
        [entry] = rung.entries
        origin = read_folder(entry.path).metrics["provenance"]
        assert origin["rungs"][rung.rung.name] == {"params": rung.rung.params}
        assert entry.architecture.params <= (rung.rung.params or 0)
        assert origin["study"] == "study"
        assert origin["found_in"] in ("study", "params-5k", "params-20k", "params-60k")
        assert load(entry.path) is not None
        assert f"[{entry.name}]" in (built.zoo / "README.md").read_text()
        record = json.loads((rung.folder / "rung.json").read_text())
        assert record["entries"] == [entry.name]
        finalists = json.loads((rung.folder / "publish" / "finalists.json").read_text())["finalists"]
        assert [row["entry"] for row in finalists if row["chosen"]] == [entry.name]


def test_events_are_a_line_each(built: Built) -> None:
    assert all(event.message and "\n" not in event.message for event in built.told)
    started = [event for event in built.told if isinstance(event, events.RungStarted)]
    assert [event.rung for event in started] == ["params-5k", "params-20k", "params-60k"]
    assert [type(event) for event in built.told if isinstance(event, events.RungDone | events.RungSearched)] == [
        events.RungSearched,
        events.RungDone,
    ] * 3


def test_the_same_call_again_does_nothing(built: Built, log: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in built.zoo.rglob("*") if path.is_file()}
    told: list[events.Event] = []
    again = run(built.study, built.zoo, LADDER, told.append)
    assert [rung.state for rung in again.rungs] == ["kept"] * 3
    assert [entry.name for entry in again.entries] == [entry.name for entry in built.result.entries]
    assert log.read_text() == ""
    assert files == {path: path.stat().st_mtime_ns for path in files}
    assert all(event.kept for event in told if isinstance(event, events.RungDone))


def test_a_new_rung_builds_only_that(built: Built, log: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (built.study / "zoo" / "params-5k").rglob("*.json")}
    wider = run(built.study, built.zoo, (5_000, 14_000, 20_000, PARENT_BUDGET))
    assert [rung.state for rung in wider.rungs] == ["kept", "built", "kept", "kept"]
    assert before == {path: path.stat().st_mtime_ns for path in before}
    known = set()
    for name in ("", "zoo/params-5k", "zoo/params-20k", "zoo/params-60k"):
        study = open_study(built.study / name)
        known |= {candidate.hash for candidate in study.candidates(("complete",))}
        study.close()
    trained = {line.split()[0] for line in log.read_text().splitlines()} - {"retrained"}
    assert not trained & known, "what a larger rung has trained is inherited too"


def test_entries_that_were_removed_come_back_without_training(built: Built, log: Path) -> None:
    import shutil

    [entry] = built.result.rungs[0].entries
    shutil.rmtree(entry.path)
    again = run(built.study, built.zoo, LADDER)
    assert [rung.state for rung in again.rungs] == ["built", "kept", "kept"]
    assert [e.name for e in again.rungs[0].entries] == [entry.name]
    assert log.read_text() == ""


def test_more_seeds_train_only_those(built: Built, log: Path, tmp_path: Path) -> None:
    again = run(built.study, tmp_path / "zoo", LADDER[:1], seeds=2)
    assert again.rungs[0].state == "built"
    lines = [line.split() for line in log.read_text().splitlines()]
    assert {(word, seed) for word, _, seed in lines} == {("retrained", "1")}
    assert len(again.entries[0].metrics["seeds"]) == 2


def test_a_network_that_wins_two_rungs_is_one_entry(tmp_path: Path, built: Built, log: Path) -> None:
    """A hair's breadth between the limits and one candidate enough: the larger rung's own first one is hardly better."""
    [winner] = built.result.rungs[0].entries
    size = winner.architecture.params
    told: list[events.Event] = []
    result = run(built.study, tmp_path / "zoo", (size, size + 1, size + 2), told.append, min_candidates=1)
    names = [rung.entries[0].name for rung in result.rungs]
    assert names == [winner.name] * 3
    [entry] = result.entries
    assert [path.name for path in (tmp_path / "zoo").iterdir() if path.is_dir()] == [winner.name]
    assert list(read_folder(entry.path).metrics["provenance"]["rungs"]) == [rung.rung.name for rung in result.rungs]
    done = [event for event in told if isinstance(event, events.RungDone)]
    assert done[-1].also == (entry.name,)
    assert "also won another rung" in done[-1].message
    assert "params-" in (entry.path / "README.md").read_text()


def test_one_failing_rung_loses_no_other(built: Built, tmp_path: Path) -> None:
    told: list[events.Event] = []
    result = run(built.study, built.zoo, (20, *LADDER), told.append)
    assert result.rungs[0].state == "failed"
    assert all(rung.entries for rung in result.rungs[1:])
    assert "no architecture of the space" in result.rungs[0].error
    assert "raise the budget" in result.rungs[0].error
    assert "\n" not in result.rungs[0].error
    assert result.failed == [result.rungs[0]]
    assert not (built.study / "zoo" / "params-20").exists(), "nothing is left of it"


def test_a_rung_that_finds_nothing_new_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny space has four networks: ten complete ones cannot be."""
    monkeypatch.setattr("igcsearch.search.coordinator.MAX_SETTLED", 20)
    parent(tmp_path / "study", trials=2, space=FAKES.TINY_SPACE).close()
    result = run(tmp_path / "study", tmp_path / "zoo", (PARENT_BUDGET,), min_candidates=10)
    assert "4 of 10 candidates are complete: 20 proposals in a row were settled" in result.rungs[0].error
    assert not (tmp_path / "zoo" / "README.md").exists()
    # Fewer are enough when fewer are asked for, and nothing is trained again.
    assert run(tmp_path / "study", tmp_path / "zoo", (PARENT_BUDGET,), min_candidates=4).rungs[0].state == "built"


def test_all_failing_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent(tmp_path / "study", trials=2).close()
    monkeypatch.setenv("FAKE_DIVERGE", ",".join("0123456789abcdef"))
    result = run(tmp_path / "study", tmp_path / "zoo", (20_000,))
    assert "candidates failed in this run, the last one: loss is not finite" in result.rungs[0].error


def test_bad_ladders_are_refused() -> None:
    for params, macs, message in [
        ([], [], "at least one rung"),
        ([20_000, 20_000], [], "--ladder: rung 20k is there twice"),
        ([50_000, 20_000], [], "rung 20k comes after the larger 50k"),
        ([], [5_000_000, 1_000_000], "--ladder-macs: rung 1M comes after the larger 5M"),
        ([1, 2], [3], "--ladder has 2 rungs, --ladder-macs has 1"),
    ]:
        with pytest.raises(UsageError, match=message):
            make_ladder(params, macs)


def test_names_of_rungs_are_exact() -> None:
    names = [rung.name for rung in make_ladder([500, 1_500, 20_000, 1_500_000, 2_000_000])]
    assert names == ["params-500", "params-1500", "params-20k", "params-1500k", "params-2M"]
    assert make_ladder([20_000], [1_000_000])[0].name == "params-20k-macs-1M"
    assert Rung(macs=5_000_000).words == "5,000,000 MACs"


def test_what_does_not_fit_the_study_is_refused_before_any_training(built: Built, tmp_path: Path, log: Path) -> None:
    zoo = tmp_path / "zoo"
    cases: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
        ("params-61k is above the study's own budget of 60,000", (61_000,), {}),
        ("top 0", (8_000,), {"top": 0}),
        ("min_candidates 0", (8_000,), {"min_candidates": 0}),
        ("unknown engine 'rya'", (8_000,), {"running": {"engine": "rya"}}),
        ("workers = 0", (8_000,), {"running": {"workers": 0}}),
    ]
    for message, ladder, options in cases:
        with pytest.raises(UsageError, match=message):
            run(built.study, zoo, ladder, **options)
    assert log.read_text() == ""
    assert not zoo.exists()


def test_a_study_without_candidates_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_DIVERGE", ",".join("0123456789abcdef"))
    parent(tmp_path / "study", trials=1).close()
    with pytest.raises(UsageError, match="no complete candidate to begin with; resume its search first"):
        run(tmp_path / "study", tmp_path / "zoo", (8_000,))
