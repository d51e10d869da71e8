"""The local engine with real processes: workers and coordinators that are killed, stopped and resumed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest

from igcsearch.errors import UsageError
from igcsearch.search import events, open_study, run_search
from igcsearch.search.engines.local import LocalEngine
from igcsearch.search.sqlite import SqlitePlace
from igcsearch.spec import Budget

PROCESS = Path(__file__).with_name("search_process.py")


@pytest.fixture
def log(tmp_path, monkeypatch):
    """A file that gets a line for each epoch trained: hash, epoch, process."""
    path = tmp_path / "log"
    path.touch()
    monkeypatch.setenv("FAKE_LOG", str(path))
    return path


@pytest.fixture
def search(tmp_path, fakes, config):
    """Run a search here with fake training; returns (study, events)."""

    def run(out=None, resume=False, on_event=None, **changes):
        seen = []
        configured = config(**changes)

        def told(event):
            seen.append(event)
            if on_event is not None:
                on_event(event)

        engine = LocalEngine(configured, trainer=fakes.TRAINER)
        return run_search(configured, out or tmp_path / "out", resume=resume, on_event=told, engine=engine), seen

    return run


def trained(log):
    """(hash, epoch) to how often it was trained."""
    return Counter(tuple(line.split()[:2]) for line in log.read_text().splitlines())


def processes(log):
    return {int(line.split()[2]) for line in log.read_text().splitlines()}


def alive(pid):
    """True if the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids, seconds=10.0):
    """True once all of these processes are."""
    end = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def start(out, **options):
    """A search in a process (and session) of its own."""
    command = [sys.executable, str(PROCESS), str(out), json.dumps(options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def check_whole(study, log, trials, epochs=3):
    """No finished candidate lost or trained again, none stuck, no epoch trained twice but the one that was under way."""
    status = study.status()
    assert (status["complete"], status["failed"], status["running"], status["waiting"]) == (trials, 0, 0, 0)
    assert not study.optuna.get_trials(states=(optuna.trial.TrialState.RUNNING,))
    candidates = study.candidates(("complete",))
    assert len({c.key for c in candidates}) == trials
    counted = trained(log)
    for candidate in candidates:
        assert [record["epoch"] for record in candidate.curve] == list(range(1, epochs + 1))
        assert all(counted[candidate.hash, str(epoch)] >= 1 for epoch in range(1, epochs + 1))
    return counted


def test_a_search_runs_in_processes_and_leaves_none(search, log, tmp_path):
    study, seen = search(workers=2, trials=5)
    counted = check_whole(study, log, 5)
    assert set(counted.values()) == {1}
    assert gone(processes(log))
    assert os.getpid() not in processes(log)
    kinds = [type(event) for event in seen]
    assert kinds[0] is events.Started
    assert kinds.index(events.Estimate) < kinds.index(events.EpochDone)
    assert kinds[-1] is events.Ended
    assert kinds.count(events.Finished) == 5
    estimate = seen[kinds.index(events.Estimate)]
    # 0.01 s a step: 1000 images in batches, then the validation images (forward alone: a third of a step), 3 epochs
    size = study.config.recipe.batch_size
    steps = -(-1000 // size) + study.data["validation"] / size / 3
    assert estimate.candidate_seconds == pytest.approx(0.01 * steps * 3)
    timed = kinds.index(events.Estimate)
    assert kinds[:timed].count(events.CandidateStarted) == 1  # nothing else runs while the step is timed
    assert estimate.total_seconds == pytest.approx(3 * estimate.candidate_seconds)  # 5 candidates by 2 workers
    assert not (tmp_path / "out" / "candidates").exists()  # checkpoints are gone


def test_with_one_worker_the_same_seed_gives_the_same_study(search, tmp_path):
    frames = [search(tmp_path / name, workers=1, trials=5, seed=2)[0].frame() for name in "ab"]
    assert frames[0].equals(frames[1])


def test_a_killed_worker_is_replaced_and_its_candidate_retried(search, log, monkeypatch):
    monkeypatch.setenv("FAKE_KILL", "")  # every one
    study, seen = search(workers=2, trials=3)
    check_whole(study, log, 3)
    retried = [event for event in seen if isinstance(event, events.Retried)]
    assert sorted(event.id for event in retried) == [0, 1, 2]
    assert "signal 9" in retried[0].reason


def test_a_worker_killed_from_outside_goes_on_from_its_last_epoch(search, log, monkeypatch):
    monkeypatch.setenv("FAKE_EPOCH", "0.2")

    def kill(event):
        if isinstance(event, events.EpochDone) and event.id == 0 and event.epoch == 2:
            os.kill(int(log.read_text().splitlines()[0].split()[2]), signal.SIGKILL)

    study, seen = search(workers=1, trials=2, on_event=kill)
    assert sum(isinstance(event, events.Retried) for event in seen) == 1
    counted = check_whole(study, log, 2)
    first = study.candidates()[0].hash
    assert counted[first, "1"] == counted[first, "2"] == 1
    assert [event.epoch for event in seen if isinstance(event, events.EpochDone) and event.id == 0] == [1, 2, 3]


def test_a_candidate_that_fails_by_itself_has_its_reason(search, monkeypatch):
    monkeypatch.setenv("FAKE_DIVERGE", "0,1,2,3,4,5,6,7")
    study, _ = search(workers=1, trials=3)
    failed = study.candidates(("failed",))
    assert failed
    assert all(c.reason == "loss is not finite at step 3" for c in failed)
    assert study.status()["complete"] == 3


def test_the_time_limit_ends_a_run_and_resume_goes_on(search, log, monkeypatch):
    monkeypatch.setenv("FAKE_EPOCH", "0.4")
    study, seen = search(workers=1, trials=3, timeout_s=2.0)
    assert seen[-1].reason == "timeout"
    assert study.status()["running"] == 0
    monkeypatch.setenv("FAKE_EPOCH", "0")
    study, seen = search(workers=2, trials=4, resume=True)
    check_whole(study, log, 4)
    assert seen[0].resumed
    assert study.status()["trials"] == 4


def test_ctrl_c_ends_cleanly_and_resume_goes_on(tmp_path, log, monkeypatch):
    monkeypatch.setenv("FAKE_EPOCH", "0.3")
    process = start(tmp_path / "out", workers=2, trials=4)
    while "EpochDone" not in process.stdout.readline():
        pass
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[-1] == "Ended"
    assert gone(processes(log))
    assert open_study(tmp_path / "out").status()["running"] == 0
    assert open_study(tmp_path / "out").status()["waiting"] >= 1
    monkeypatch.setenv("FAKE_EPOCH", "0")
    resumed = start(tmp_path / "out", workers=2, trials=4, resume=True)
    resumed.communicate(timeout=60)
    assert resumed.returncode == 0
    check_whole(open_study(tmp_path / "out"), log, 4)


def kill_and_resume(tmp_path, log, monkeypatch, kills, seed):
    """Kill the coordinator's process at random moments, resume to the end, look at everything."""
    rng, out = random.Random(seed), tmp_path / "out"
    monkeypatch.setenv("FAKE_EPOCH", "0.03")
    options = {"workers": 2, "trials": 8 + 2 * kills, "epochs": 3, "seed": seed}
    complete = {}
    for _ in range(kills):
        process = start(out, resume=True, **options)
        time.sleep(rng.uniform(0.5, 4.0))
        process.kill()
        process.communicate()
        assert gone(processes(log)), "workers outlive the coordinator"
        if (out / "study.db").exists():
            now = {c.hash: c for c in open_study(out).candidates(("complete",))}
            assert all(now[name] == candidate for name, candidate in complete.items()), (
                "a finished candidate was lost or changed"
            )
            complete = now
    final = start(out, resume=True, **options)
    _, err = final.communicate(timeout=120)
    assert (final.returncode, err) == (0, "")
    study = open_study(out)
    counted = check_whole(study, log, options["trials"])
    again = sum(count - 1 for count in counted.values())
    assert again <= 2 * kills  # at most the epoch under way in each worker
    return study


def test_kill_9_of_the_coordinator_then_resume(tmp_path, log, monkeypatch):
    kill_and_resume(tmp_path, log, monkeypatch, kills=2, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_ten_kills_of_the_coordinator_then_resume(tmp_path, log, monkeypatch, seed):
    kill_and_resume(tmp_path, log, monkeypatch, kills=10, seed=seed)


# ---------------------------------------------------------------- bad input


def test_bad_data_is_an_error_before_anything_is_made(search, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_REFUSE", "data folder x is missing; give an existing one")
    with pytest.raises(UsageError, match="data folder x is missing"):
        search(workers=2)
    assert not (tmp_path / "out").exists()


def test_an_impossible_budget_is_an_error_before_anything_is_made(search, tmp_path, monkeypatch):
    monkeypatch.setattr("igcsearch.search.settle._TRIES", 50)
    with pytest.raises(UsageError, match="raise the budget"):
        search(budget=Budget(params=20))
    assert not (tmp_path / "out").exists()


def test_a_worker_that_cannot_start_is_an_error(config, tmp_path):
    with pytest.raises(UsageError, match=r"ended at its start \(exit code 1\)"):
        run_search(config(), tmp_path / "out", engine=LocalEngine(config(), trainer="igcsearch.nowhere:Trainer"))


def test_the_same_command_again_says_so_and_touches_nothing(search, tmp_path):
    search(trials=1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    with pytest.raises(UsageError, match="holds a study already; give --resume"):
        search(trials=1)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": "digits"}, "space .*, not 'digits'"),
        ({"budget": Budget(params=10**6)}, "budget params = None, not 1000000"),
        ({"sampler": "random"}, "sampler 'tpe', not 'random'"),
        ({"objectives": ("accuracy", "macs")}, "objectives"),
        ({"seed": 4}, "seed 0, not 4"),
    ],
)
def test_a_study_of_another_question_is_not_resumed(search, changes, message):
    search(trials=1)
    with pytest.raises(UsageError, match=message):
        search(resume=True, **changes)


# The space's file may have been edited between two runs: proposals of two spaces do not belong in one study.
def test_a_study_is_not_resumed_with_a_changed_space(search, tmp_path, fakes):
    space = tmp_path / "space.py"
    space.write_bytes(Path(fakes.__file__).read_bytes())
    search(trials=1, space=f"{space}:space")
    search(trials=2, space=f"{space}:space", resume=True)
    space.write_text(space.read_text() + "# another line\n")
    with pytest.raises(UsageError, match=r"was changed since the study in .* began; restore it as it was to resume"):
        search(trials=3, space=f"{space}:space", resume=True)


# The folder may get its study between the first look and the lock.
def test_a_study_that_came_meanwhile_is_kept(search, tmp_path, monkeypatch):
    search(trials=1)
    looks = iter([False])
    real = SqlitePlace.exists
    monkeypatch.setattr(SqlitePlace, "exists", lambda place: next(looks, None) is not False and real(place))
    with pytest.raises(UsageError, match="holds a study already; give --resume"):
        search(trials=1)


def test_what_a_worker_notes_is_told(search, monkeypatch):
    monkeypatch.setenv("FAKE_NOTE", "its checkpoint was damaged")
    _, seen = search(trials=1)
    assert [(e.id, e.text) for e in seen if isinstance(e, events.Noted)] == [(0, "its checkpoint was damaged")]


def test_two_searches_do_not_share_a_folder(tmp_path, search, log, monkeypatch):
    monkeypatch.setenv("FAKE_EPOCH", "0.3")
    process = start(tmp_path / "out", trials=30)
    while "EpochDone" not in process.stdout.readline():
        pass
    assert open_study(tmp_path / "out").status()["active"] is True
    assert open_study(tmp_path / "out").status()["running"] == 1
    with pytest.raises(UsageError, match="another search is running"):
        search(trials=30, resume=True)
    process.kill()
    process.communicate()
    status = open_study(tmp_path / "out").status()
    assert (status["active"], status["running"], status["waiting"]) == (False, 0, 1)  # dead, to go on when resumed


def test_workers_that_end_at_their_start_end_the_search_and_leave_nothing_running(search, tmp_path, log, monkeypatch):
    def sabotage(event):
        if isinstance(event, events.EpochDone):
            monkeypatch.setenv("FAKE_EXIT", "1")
            os.kill(int(log.read_text().splitlines()[0].split()[2]), signal.SIGKILL)

    with pytest.raises(UsageError, match=r"training processes end at their start \(exit code 7\)"):
        search(trials=2, on_event=sabotage)
    status = open_study(tmp_path / "out").status()
    assert (status["running"], status["waiting"]) == (0, 1)
