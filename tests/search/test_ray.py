"""The Ray engine on one machine, with real processes: the same searches as the local engine, workers and drivers that are killed.

One Ray with three CPUs serves the tests of this file (starting it takes longer than a search); those that kill or interrupt the
driver start their own.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest

import igcsearch.search.run as run_module
from igcsearch.errors import UsageError
from igcsearch.search import events, open_study, run_search
from igcsearch.search.engines.local import LocalEngine
from igcsearch.spec import Budget

PROCESS = Path(__file__).with_name("ray_process.py")
TRAINER = """
import os, sys
from importlib.util import module_from_spec, spec_from_file_location
for name in [name for name in os.environ if name.startswith("FAKE_")]:
    del os.environ[name]
os.environ.update({settings!r})
spec = spec_from_file_location("igcsearch_test_fakes", {fakes!r})
fakes = module_from_spec(spec)
sys.modules[spec.name] = fakes
spec.loader.exec_module(fakes)
class Trainer(fakes.FakeTrainer):
    def train(self, job, *told):
        if str(job.id) == os.environ.get("FAKE_DEADLY"):
            os.kill(os.getpid(), 9)
        return super().train(job, *told)
"""

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Ray of three CPUs."""
    import ray

    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def log(tmp_path):
    """A file that gets a line for each epoch trained: hash, epoch, process."""
    path = tmp_path / "log"
    path.touch()
    return path


@pytest.fixture
def trainer(tmp_path, fakes, log):
    """A fake trainer with settings (FAKE_...), as `file:class`: Ray's processes do not get this one's environment."""

    def make(**settings):
        settings = {f"FAKE_{name.upper()}": str(value) for name, value in settings.items()}
        path = tmp_path / f"trainer{len(list(tmp_path.glob('trainer*.py')))}.py"
        path.write_text(TRAINER.format(settings={"FAKE_LOG": str(log), **settings}, fakes=fakes.__file__))
        return f"{path}:Trainer"

    return make


@pytest.fixture
def search(cluster, tmp_path, trainer, config):
    """Run a search here; returns (study, events)."""
    from igcsearch.search.engines.ray_engine import RayEngine

    def run(out=None, resume=False, on_event=None, engine="ray", settings=None, **changes):
        seen, out = [], out or tmp_path / "out"
        cluster_options = {"max_concurrent": changes.pop("workers", 1)} if engine == "ray" else {}
        configured = config(engine=engine, **cluster_options, **changes)

        def told(event):
            seen.append(event)
            if on_event is not None:
                on_event(event)

        made = trainer(**(settings or {}))
        one = RayEngine(configured, out, trainer=made) if engine == "ray" else LocalEngine(configured, trainer=made)
        return run_search(configured, out, resume=resume, on_event=told, engine=one), seen

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


def gone(pids, seconds=15.0):
    """True once all of these processes are."""
    end = time.monotonic() + seconds
    while any(alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def check_whole(study, log, trials, epochs=3):
    """No finished candidate lost or trained again, none stuck, no epoch missing."""
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


def test_a_search_runs_in_warm_processes_and_leaves_none(search, log, tmp_path):
    study, seen = search(workers=2, trials=6)
    counted = check_whole(study, log, 6)
    assert set(counted.values()) == {1}
    assert len(processes(log)) <= 3  # used again from candidate to candidate
    assert os.getpid() not in processes(log)
    assert gone(processes(log))
    kinds = [type(event) for event in seen]
    assert kinds[0] is events.Started
    assert kinds[-1] is events.Ended
    assert kinds.count(events.Finished) == 6
    timed = kinds.index(events.Estimate)
    assert timed < kinds.index(events.EpochDone)
    assert kinds[:timed].count(events.CandidateStarted) == 1  # nothing else runs while the step is timed
    assert not (tmp_path / "out" / "candidates").exists()


# Both engines drive one coordinator: with one worker each, a seed gives one study, early stopping and failures included.
def test_ray_and_local_give_the_same_study(search, tmp_path):
    options = {"trials": 10, "seed": 3, "stopping": "halving", "settings": {"diverge": "0,1,2,3,4,5,6,7"}}
    frames = [search(tmp_path / name, engine=name, **options)[0].frame() for name in ("local", "ray")]
    assert {"stopped", "complete", "failed"} <= set(frames[0]["state"])
    assert frames[0].equals(frames[1])


def test_a_study_goes_on_with_the_other_engine(search, log):
    for trials, engine in ((2, "ray"), (3, "local"), (5, "ray")):
        study, _ = search(resume=True, engine=engine, trials=trials)
        assert set(check_whole(study, log, trials).values()) == {1}


def test_a_killed_worker_is_replaced_and_its_candidate_retried(search, log):
    study, seen = search(workers=2, trials=3, settings={"kill": ""})  # every one
    check_whole(study, log, 3)
    retried = [event for event in seen if isinstance(event, events.Retried)]
    assert sorted(event.id for event in retried) == [0, 1, 2]
    assert {event.reason for event in retried} == {"its training process died"}


def test_a_worker_killed_from_outside_goes_on_from_its_last_epoch(search, log):
    def kill(event):
        if isinstance(event, events.EpochDone) and event.id == 0 and event.epoch == 2:
            os.kill(int(log.read_text().splitlines()[0].split()[2]), signal.SIGKILL)

    study, seen = search(trials=2, on_event=kill, settings={"epoch": 0.3})
    assert sum(isinstance(event, events.Retried) for event in seen) == 1
    counted = check_whole(study, log, 2)
    first = study.candidates()[0].hash
    assert counted[first, "1"] == counted[first, "2"] == 1
    assert [event.epoch for event in seen if isinstance(event, events.EpochDone) and event.id == 0] == [1, 2, 3]


def test_a_candidate_that_kills_every_process_fails_and_the_search_goes_on(search):
    study, seen = search(trials=1, settings={"deadly": 0})
    assert [(c.id, c.reason) for c in study.candidates(("failed",))] == [(0, "its training process died, 3 times")]
    assert study.status()["complete"] == 1
    assert sum(isinstance(event, events.Retried) for event in seen) == 2


def test_the_time_limit_ends_a_run_and_resume_goes_on(search, log):
    begin = time.monotonic()
    study, seen = search(trials=3, timeout_s=4.0, settings={"epoch": 1.5})
    assert seen[-1].reason == "timeout"
    assert time.monotonic() - begin < 30
    assert study.status()["running"] == 0
    assert study.status()["waiting"] >= 1
    assert gone(processes(log))
    study, seen = search(workers=2, trials=4, resume=True)
    check_whole(study, log, 4)
    assert seen[0].resumed


# The measured trap: with nothing under way, Tune asked for a candidate for 600 s, deaf to everything else.
def test_an_idle_search_ticks_and_hears_ctrl_c(search, monkeypatch):
    from igcsearch.search.coordinator import Coordinator
    from igcsearch.search.engines.ray_engine import RayEngine

    ticks = []

    def stopping(engine):
        engine.stop = len(ticks) >= 3
        return engine.stop

    monkeypatch.setattr(RayEngine, "_room", lambda self: 0)
    monkeypatch.setattr(RayEngine, "_stopping", stopping)
    monkeypatch.setattr(Coordinator, "tick", lambda self: ticks.append(1))
    begin = time.monotonic()
    _, seen = search(trials=2)
    assert seen[-1].reason == "interrupted"
    assert time.monotonic() - begin < 60


# Latency is predicted from what was measured before anything is trained; what is too slow is never trained.
def test_what_a_worker_notes_is_told_and_what_is_too_slow_is_not_trained(search, fakes, monkeypatch, log):
    def measured(space, problem, setting, **how):
        assert not log.read_text()
        return fakes.macs_table(setting)

    monkeypatch.setattr(run_module, "measure_table", measured)
    study, seen = search(trials=2, settings={"note": "its checkpoint was damaged"}, budget=Budget(latency_ms=0.4))
    assert {e.text for e in seen if isinstance(e, events.Noted)} == {"its checkpoint was damaged"}
    complete, settled = study.candidates(("complete",)), study.candidates(("settled",))
    assert complete
    assert all(c.latency_ms == pytest.approx(c.macs / 1e6) and c.latency_ms <= 0.4 for c in complete)
    assert all(c.latency_ms > 0.4 for c in settled if "ms >" in c.reason)


def test_bad_data_is_an_error_before_anything_is_made(search, tmp_path):
    with pytest.raises(UsageError, match="data folder x is missing"):
        search(settings={"refuse": "data folder x is missing; give an existing one"})
    assert not (tmp_path / "out").exists()


def test_a_worker_that_cannot_start_is_an_error(search, tmp_path):
    with pytest.raises(UsageError, match="ended at its start"):
        search(settings={"exit": 1})
    assert not (tmp_path / "out").exists()


# What is raised by the study (a full disk) must reach the user as it is, not as a text of Tune's.
def test_an_error_of_the_study_ends_the_run_and_its_candidates_wait(search, tmp_path, log):
    def full(event):
        if isinstance(event, events.Finished):
            raise UsageError("no space left; make room")

    with pytest.raises(UsageError, match=r"^no space left; make room$"):
        search(trials=3, workers=2, on_event=full, settings={"epoch": 0.1})
    assert gone(processes(log))
    status = open_study(tmp_path / "out").status()
    assert (status["complete"], status["running"]) == (1, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cpus_per_candidate": 64}, "asks for 64 CPUs, but the largest of 1 nodes has 3 CPUs"),
        ({"gpus_per_candidate": 0.5}, "asks for 0.5 GPUs, but the cluster has 0"),
        ({"device": "cuda"}, "asks for 1 GPUs, but the cluster has 0"),
        ({"checkpoints": "/proc/nowhere"}, "checkpoints /proc/nowhere: this machine cannot write there"),
    ],
)
def test_what_the_cluster_cannot_give_is_said_before_anything_is_made(search, tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        search(**changes)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- with a Ray of their own


def start(out, trainer, **options):
    """A search in a process (and session) of its own."""
    command = [sys.executable, str(PROCESS), str(out), trainer, json.dumps(options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def of_ray(process):
    """The processes below this one, Ray's own included."""
    children, found = [process.pid], set()
    while children:
        pid = children.pop()
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            new = {int(child) for child in task.read_text().split()}
            found |= new
            children += new
    return found


def test_ctrl_c_ends_cleanly_and_leaves_no_process(tmp_path, log, trainer):
    process = start(tmp_path / "out", trainer(epoch=0.5), workers=2, trials=4)
    while "EpochDone" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    below = of_ray(process)
    assert below
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[-1] == "Ended"
    assert gone(below | processes(log))
    status = open_study(tmp_path / "out").status()
    assert status["running"] == 0
    assert status["waiting"] >= 1


@pytest.mark.slow
def test_kill_9_of_the_driver_then_resume(tmp_path, log, trainer):
    options = {"workers": 2, "trials": 6, "resume": True}
    process = start(tmp_path / "out", trainer(epoch=0.5), **options)
    while "EpochDone" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    below = of_ray(process)
    process.kill()
    process.communicate()
    assert gone(below | processes(log), 30), "Ray outlives its driver"
    final = start(tmp_path / "out", trainer(), **options)
    _, err = final.communicate(timeout=120)
    assert (final.returncode, err) == (0, "")
    counted = check_whole(open_study(tmp_path / "out"), log, 6)
    assert sum(counted.values()) - len(counted) <= 2  # at most the epoch under way in each worker


@pytest.mark.slow
def test_the_command_needs_no_cluster_and_goes_on_with_the_local_engine(tmp_path):
    out = tmp_path / "study"
    for engine, trials, resume in (("ray", 2, ()), ("local", 3, ("--resume",)), ("ray", 4, ("--resume",))):
        command = [sys.executable, "-m", "igcsearch", "search", "digits", "--engine", engine, "--workers", "2"]
        options = [
            "--trials",
            str(trials),
            "--max-params",
            "20k",
            "--epochs",
            "1",
            "--train-images",
            "200",
            "--out",
            str(out),
        ]
        done = subprocess.run([*command, *options, *resume], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert open_study(out).status()["complete"] == trials
        assert "Tune" not in done.stdout + done.stderr  # our progress is all that the user sees
        assert "ray" not in done.stderr.replace("test_the_command", "").lower()
