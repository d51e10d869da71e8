"""Publishing candidates by their ids: exactly those, in that order, without a choice and without a word of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igcsearch.errors import UsageError
from igcsearch.publish import events, publish, read_finalists, rounds
from igcsearch.publish.choose import named
from igcsearch.publish.retrain import Job
from igcsearch.publish.workers import OnMessage
from igcsearch.report.facts import Facts
from igcsearch.report.retrained import finalists_section

from .ladders import instant
from .studies import FakeStudy, Published, candidate, fake_study, run
from .test_publish import _wait_until_gone


@pytest.fixture
def retrained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(id, seed) of every retraining; they are instant."""
    done: list[tuple[int, int]] = []

    def noted(jobs: Sequence[Job], *others: Any) -> None:
        done.extend((job.id, job.seed) for job in jobs)
        instant(jobs, *others)

    monkeypatch.setattr(rounds, "run_jobs", noted)
    return done


def ids(found: Published) -> list[int]:
    return [entry.metrics["provenance"]["trial"] for entry in found.entries]


# Rule: as named and in that order, whatever the ranking says; no other candidate is trained or sees the test split.
def test_exactly_those_are_published(tmp_path: Path, retrained: list[tuple[int, int]]) -> None:
    study = fake_study(tmp_path / "study")
    found = run(study, tmp_path / "zoo", candidates=[1, 4, 0], seeds=2)
    assert ids(found) == [1, 4, 0]
    assert sorted(retrained) == [(id, seed) for id in (0, 1, 4) for seed in (0, 1)]
    assert [hash for hash, _ in found.evaluated] == [study.found[id].hash for id in (1, 1, 4, 4, 0, 0)]
    assert sorted(path.name for path in (tmp_path / "zoo").iterdir() if path.is_dir()) == sorted(
        entry.name for entry in found.entries
    )


# Rule: what is recorded claims no ranking; what a ranking published still does.
def test_origin_claims_no_ranking(tmp_path: Path, retrained: list[tuple[int, int]]) -> None:
    study = fake_study(tmp_path / "study")
    found = run(study, tmp_path / "zoo", candidates=[1, 4], seeds=1)
    for entry in found.entries:
        origin = entry.metrics["provenance"]
        assert "candidates_ranked" not in origin
        assert origin["chosen_by"] == "id"
        assert "ranked" not in (entry.path / "README.md").read_text()
    stored = read_finalists(study.path)
    assert stored is not None
    assert stored["chosen_by"] == "id"
    assert {row["id"]: (row["chosen"], row["entry"] is None) for row in stored["finalists"]} == {
        1: (True, False),
        4: (True, False),
    }
    [said] = [event.message for event in found.told if isinstance(event, events.FinalistsChosen)]
    assert said == "to be published, as named: candidate 1, 4"
    page = finalists_section(facts(stored))
    assert "Named by their ids" in page
    assert "Chosen by mean" not in page
    [best] = run(study, tmp_path / "zoo", top=1, seeds=1).entries
    assert best.metrics["provenance"]["candidates_ranked"] == 5
    assert "chosen_by" not in best.metrics["provenance"]
    after = read_finalists(study.path)
    assert after is not None
    assert "Chosen by mean validation accuracy" in finalists_section(facts(after))  # as of studies made before


def facts(stored: dict[str, Any]) -> Facts:
    """As much of a page's facts as the section on finalists reads."""
    made = object.__new__(Facts)
    object.__setattr__(made, "finalists", stored)
    return made


# Rule: a retraining is of a candidate, a recipe and a seed, whoever asked for it first.
def test_retrainings_are_shared_with_the_best(tmp_path: Path, retrained: list[tuple[int, int]]) -> None:
    study = fake_study(tmp_path / "study")
    run(study, tmp_path / "zoo", top=1, seeds=2)
    assert {id for id, _ in retrained} == {2, 3, 4}
    retrained.clear()
    again = run(study, tmp_path / "zoo", candidates=[2, 0], seeds=2)
    assert retrained == [(0, 0), (0, 1)]
    assert [event.reused for event in again.told if isinstance(event, events.SeedDone) and event.id == 2] == [True] * 2
    retrained.clear()
    run(study, tmp_path / "zoo", top=2, seeds=2)
    assert retrained == [(1, 0), (1, 1)]


# Rule: a candidate stopped early has a network like all others; a study where all were stopped can publish by id alone.
def test_stopped_candidates_can_be_named(tmp_path: Path, retrained: list[tuple[int, int]]) -> None:
    study = fake_study(tmp_path / "study")
    study.found = [replace(each, state="stopped") for each in study.found]
    assert ids(run(study, tmp_path / "zoo", candidates=np.array([3, 2]), seeds=1)) == [3, 2]


def refusing(jobs: Sequence[Job], workers: int, on_message: OnMessage, pool: object) -> None:
    raise AssertionError("nothing is to be trained")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": [1], "top": 1}, r"top and candidates \(--top, --candidates\) exclude each other.*give one"),
        ({"candidates": []}, "the list is empty; give the id of at least one"),
        ({"candidates": [2, 2]}, "candidates: 2 is there twice; leave one of them out"),
        ({"candidates": "1,2"}, r"candidates '1,2': give the ids of candidates as a list, such as \[62, 55\]"),
        ({"candidates": 1}, "candidates 1: give the ids of candidates as a list"),
        ({"candidates": [1.0]}, "1.0 is no id of a candidate; give whole numbers of at least 0"),
        ({"candidates": [True]}, "True is no id"),
        ({"candidates": [-1]}, "-1 is no id"),
        ({"candidates": [1, 9]}, "this study has no candidate 9; trained are 0 to 2, 6$"),
        ({"candidates": [3]}, r"candidate 3 failed \(out of memory\): it cannot be published; trained are 0 to 2, 6$"),
        ({"candidates": [4]}, r"candidate 4 was settled and never trained \(20,001 params > 20,000\).*trained are"),
        ({"candidates": [5]}, "candidate 5 is in training or waits to go on: it cannot be published"),
        ({"candidates": [1, 6]}, "candidates 1 and 6 are the same network, [0-9a-f]+; leave one of them out"),
    ],
    ids=str,
)
def test_refuses_before_any_training(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "run_jobs", refusing)
    study = fake_study(tmp_path / "study", 6)
    states = {3: ("failed", "out of memory"), 4: ("settled", "20,001 params > 20,000"), 5: ("running", "")}
    for number, (state, reason) in states.items():
        study.found[number] = replace(study.found[number], state=state, reason=reason, accuracy=None)
    study.found.append(replace(candidate(1), id=6))
    with pytest.raises(UsageError, match=message):
        publish(study, to=tmp_path / "zoo", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "zoo").exists()


def test_of_many_ids_an_error_lists_the_first(tmp_path: Path) -> None:
    study = FakeStudy(tmp_path, [candidate(number % 5, id=3 * number, hash=str(number)) for number in range(20)])
    with pytest.raises(UsageError, match=r"trained are 0, 3, 6, .*, 33 and 8 more$"):
        named(study, [1])  # type: ignore[arg-type]
    study.found = []
    with pytest.raises(UsageError, match="no candidate 1; none is trained yet; resume the search first"):
        named(study, [1])  # type: ignore[arg-type]


# Rule: one that fails is missing and said so; the others are published.
def test_one_that_fails_keeps_none_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def partly(jobs: Sequence[Job], workers: int, on_message: OnMessage, pool: object) -> None:
        for job in jobs:
            if job.id == 3:
                on_message(job, "failed", {"reason": "no luck"})
            else:
                instant([job], workers, on_message)

    monkeypatch.setattr(rounds, "run_jobs", partly)
    study = fake_study(tmp_path / "study")
    found = run(study, tmp_path / "zoo", candidates=[3, 1], seeds=1)
    assert ids(found) == [1]
    stored = read_finalists(study.path)
    assert stored is not None
    assert [(row["id"], row["chosen"], row["failed"]) for row in stored["finalists"]] == [
        (1, True, None),
        (3, False, "seed 0: no luck"),
    ]
    [said] = [event.message for event in found.told if isinstance(event, events.FinalistsChosen)]
    assert said == "to be published, as named: candidate 1; failed in training and not published: candidate 3"


KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from tests.publish.studies import fake_study
from igcsearch.publish import events, publish

def tell(event):
    if isinstance(event, events.EpochDone):
        print(event.epoch, event.seconds, flush=True)

if __name__ == "__main__":
    publish(fake_study(Path(sys.argv[1]), 3), candidates=[1], seeds=1, epochs=6, to=sys.argv[2], on_event=tell)
"""


# Rule: kill -9 costs at most the epoch under way.
def test_killed_it_goes_on_from_its_last_epoch(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, str(script), str(tmp_path / "study"), str(tmp_path / "zoo"), root]
    environment = {**os.environ, "IGCSEARCH_TEST_MARK": str(tmp_path)}
    seen: list[tuple[int, float]] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            epoch, seconds = line.split()
            seen.append((int(epoch), float(seconds)))
            if len(seen) == 3:
                break
        os.kill(process.pid, signal.SIGKILL)
    assert len(seen) == 3
    _wait_until_gone(str(tmp_path))
    study = fake_study(tmp_path / "study", 3)
    assert not list((study.path / "publish").rglob("result-*.json")), "it was finished before it was killed"
    again = run(study, tmp_path / "zoo", candidates=[1], seeds=1, epochs=6)
    told = [(event.epoch, event.seconds) for event in again.told if isinstance(event, events.EpochDone)]
    assert [epoch for epoch, _ in told] == [1, 2, 3, 4, 5, 6]
    assert told[:3] == seen, (
        "epochs of the checkpoint are told again, with the times that they took; none is trained again"
    )
    assert ids(again) == [1]
    result = json.loads(next((study.path / "publish").rglob("result-*.json")).read_text())
    assert result["epochs"] == 6
