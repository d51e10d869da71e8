"""A candidate on several devices: Ray Train's processes inside the Tune function, and its early stop, which must not deadlock."""

import os
import threading
import time
from pathlib import Path

import pytest

from igcsearch.search import SearchConfig, events, run_search
from igcsearch.search.coordinator import Coordinator
from igcsearch.search.engines.ray_engine import RayEngine
from igcsearch.search.engines.ray_guard import below
from igcsearch.spec import Budget
from igcsearch.training import DataSpec, Recipe

TRAINER = """
import os
from pathlib import Path

import torch.distributed as dist

from igcsearch.errors import UsageError
from igcsearch.search.engines import trainer


class Trainer(trainer.Trainer):
    def time_step(self, job):
        assert job.recipe["batch_size"] == 50
        raise RuntimeError("CUDA out of memory")

    def train(self, job, on_epoch, on_note, group):
        first = job.attempt == 1
        if job.id == 2 and first and group.rank == 1:
            os.kill(os.getpid(), 9)
        if job.id == 1:
            raise UsageError("a cause of all")
        if job.id == 3 and first and group.rank == 0:
            raise ValueError("a cause of one")
        return super().train(job, on_epoch, on_note, group)
"""


# The measured trap: stopping a Tune trial in which Ray Train runs left its processes behind; the next candidate waited for them.
@pytest.mark.slow
@pytest.mark.timeout(290)
def test_an_early_stop_does_not_deadlock_and_the_next_candidate_trains(tmp_path, monkeypatch):
    report, seen, most = Coordinator.report, [], [0]

    def stop_the_first(self, id, record):
        return report(self, id, record) and id != 0

    def count():  # processes of groups at once
        while not ended.wait(0.5):
            lines = [Path(f"/proc/{pid}/cmdline") for pid in below(os.getpid())]
            names = [path.read_bytes() for path in lines if path.exists()]
            most[0] = max(most[0], sum(b"RayTrainWorker" in name for name in names))

    monkeypatch.setattr(Coordinator, "report", stop_the_first)
    config = SearchConfig(
        "digits",
        DataSpec("digits", train_images=200),
        Budget(params=8_000),
        Recipe(epochs=2, batch_size=100),
        trials=2,
        threads_per_worker=1,
        engine="ray",
        devices_per_candidate=2,
    )
    ended = threading.Event()
    counting = threading.Thread(target=count)
    counting.start()
    before = set(below(os.getpid()))
    try:
        study = run_search(config, tmp_path / "out", engine=RayEngine(config, tmp_path / "out"), on_event=seen.append)
    finally:
        ended.set()
        counting.join()
    first, second = study.candidates()[:2]
    assert (first.state, first.epochs, len(first.curve)) == ("stopped", 1, 1)
    assert (second.state, second.epochs, len(second.curve)) == ("complete", 2, 2)
    assert not [event for event in seen if isinstance(event, events.Retried)]
    assert most[0] == 2
    until = time.monotonic() + 20
    while set(below(os.getpid())) - before and time.monotonic() < until:
        time.sleep(0.2)
    assert set(below(os.getpid())) <= before
    assert not (tmp_path / "out" / "candidates").exists()


# Rules: what all processes raise fails the candidate, what one alone comes upon (or its death) is tried again, nothing hangs.
@pytest.mark.slow
@pytest.mark.timeout(290)
def test_a_group_whose_processes_die_or_raise(tmp_path):
    (tmp_path / "trainer.py").write_text(TRAINER)
    config = SearchConfig(
        "digits",
        DataSpec("digits", train_images=200),
        Budget(params=8_000),
        Recipe(epochs=1, batch_size=100),
        trials=3,
        threads_per_worker=1,
        engine="ray",
        devices_per_candidate=2,
    )
    seen = []
    engine = RayEngine(config, tmp_path / "out", trainer=f"{tmp_path / 'trainer.py'}:Trainer")
    study = run_search(config, tmp_path / "out", engine=engine, on_event=seen.append)
    found = {each.id: (each.state, each.reason) for each in study.candidates()}
    print(found, [event for event in seen if isinstance(event, events.Retried | events.Noted)])
    assert found[0] == ("complete", "")
    assert found[1] == ("failed", "a cause of all")
    assert found[2] == found[3] == ("complete", "")
    retried = {event.id: event.reason for event in seen if isinstance(event, events.Retried)}
    assert set(retried) == {2, 3}
    assert "a cause of one" in retried[3]
    notes = [event.text for event in seen if isinstance(event, events.Noted)]
    assert [note.startswith("its step could not be timed: RuntimeError: CUDA out of memory") for note in notes] == [
        True
    ]
