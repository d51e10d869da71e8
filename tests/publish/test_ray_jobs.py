"""Retrainings on Ray: the same results as in processes of this machine, also where a worker is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from igcsearch.errors import UsageError
from igcsearch.publish import ray_jobs, rounds
from igcsearch.publish import workers as processes
from igcsearch.publish.ray_jobs import Retrainer
from igcsearch.publish.retrain import Job, finished, run_job
from igcsearch.publish.workers import Pool, run_jobs
from igcsearch.search.engines.ray_cluster import Share
from igcsearch.search.engines.ray_guard import below

from .studies import fake_study
from .test_workers import job

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()


def workers() -> list[int]:
    """The processes of actors that retrain, of the Ray that this process started."""
    name = Retrainer.__name__.encode()
    return [pid for pid in below(os.getpid()) if name in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_two_at_once_as_in_processes_of_this_machine(cluster: None, tmp_path: Path) -> None:
    jobs = [job(tmp_path / name) for name in "ab"]
    told: dict[Job, list[tuple[str, dict[str, Any]]]] = {each: [] for each in jobs}
    run_jobs(jobs, 2, lambda one, kind, values: told[one].append((kind, values)), Pool("ray", max_concurrent=2))
    expected = run_job(job(tmp_path / "c"), lambda epoch: None)
    for each in jobs:
        assert [kind for kind, _ in told[each]] == ["epoch", "epoch", "done"]
        assert told[each][-1][1]["weights_sha256"] == expected["weights_sha256"]
        assert finished(each) is not None


def test_killed_worker_is_replaced_and_its_job_goes_on(cluster: None, tmp_path: Path) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    work = job(tmp_path / "a", epochs=3)

    def on_message(_: Job, kind: str, values: dict[str, Any]) -> None:
        told.append((kind, values))
        if len(told) == 1:
            for pid in workers():
                os.kill(pid, signal.SIGKILL)

    run_jobs([work], 1, on_message, Pool("ray"))
    assert [kind for kind, _ in told][-1] == "done"
    expected = run_job(job(tmp_path / "b", epochs=3), lambda epoch: None)
    assert told[-1][1]["weights_sha256"] == expected["weights_sha256"]
    assert not list(work.folder.glob("checkpoint*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "rya"}, r"unknown engine 'rya' \(did you mean 'ray'\?\); known: local, ray"),
        ({"address": "1:1"}, "need engine 'ray', not 'local'"),
        ({"engine": "ray", "gpus": 2.0}, "2 must be from 0 to 1"),
    ],
)
def test_a_pool_that_cannot_be_meant_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Pool(**options)


# ---------------------------------------------------------------- rules, without a cluster


class FakeActor:
    """Gives each job's one message, unless its node is dead."""

    made: ClassVar[list[FakeActor]] = []

    def __init__(self) -> None:
        self.alive = True
        self.run = self
        FakeActor.made.append(self)

    def options(self, **options: Any) -> FakeActor:
        return self

    def remote(self, sent: Job) -> Iterator[FakeActor]:
        return iter([self])


class FakeCluster:
    rooms = 3

    def room(self, share: Share) -> int:
        return self.rooms


class FakeRay:
    """A Ray whose jobs end one after another; with the third job its node dies, with all actors there."""

    exceptions = __import__("ray").exceptions

    def __init__(self) -> None:
        self.ended = 0
        FakeActor.made = []

    def remote(self, **options: Any) -> Any:
        return lambda kind: type("Kind", (), {"remote": FakeActor})

    def wait(self, refs: list[Any], **options: Any) -> tuple[list[Any], list[Any]]:
        return refs[:1], refs[1:]

    def get(self, actor: FakeActor) -> tuple[str, dict[str, Any]]:
        self.ended += 1
        if self.ended == 3:
            for made in FakeActor.made:
                made.alive = False
        if not actor.alive:
            raise self.exceptions.RayActorError
        return "done", {}

    def kill(self, actor: FakeActor, no_restart: bool) -> None:
        actor.alive = False


def test_the_idle_actors_of_a_dead_node_take_no_attempts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_jobs, "ray", FakeRay())
    jobs, told = [job(tmp_path / name) for name in "abc"], []
    cluster: Any = FakeCluster()
    ray_jobs._run(jobs, cluster, Share(1), 3, lambda one, kind, values: told.append((one, kind)))
    assert told == [(one, "done") for one in jobs]
    assert len(FakeActor.made) == 4


def test_a_cluster_without_room_for_minutes_ends_the_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Never(FakeRay):
        def wait(self, refs: list[Any], **options: Any) -> tuple[list[Any], list[Any]]:
            return [], refs

    monkeypatch.setattr(ray_jobs, "ray", Never())
    monkeypatch.setattr(ray_jobs, "_PATIENCE", 0.1)
    cluster: Any = FakeCluster()
    cluster.rooms = 0
    with pytest.raises(UsageError, match="no room for a retraining for 0 minutes; bring nodes back"):
        ray_jobs._run([job(tmp_path)], cluster, Share(1), 3, lambda one, kind, values: None)


@pytest.mark.parametrize(
    ("device", "asked", "there", "gpus"),
    [
        ("auto", None, 2.0, 1.0),
        ("auto", None, 0.0, 0.0),
        ("auto", 0.5, 2.0, 0.5),
        ("cpu", None, 2.0, 0.0),
        ("cuda", None, 0.0, 1.0),  # which check_share then refuses
    ],
)
def test_how_many_gpus_a_retraining_gets(device: str, asked: float | None, there: float, gpus: float) -> None:
    assert ray_jobs._gpus(device, asked, there) == gpus


def test_gpus_that_do_not_go_with_the_device_are_refused() -> None:
    with pytest.raises(UsageError, match="do not go with device 'cpu'"):
        ray_jobs._gpus("cpu", 0.5, 1.0)
    with pytest.raises(UsageError, match="needs GPUs of each retraining above 0"):
        ray_jobs._gpus("cuda", 0.0, 1.0)


@pytest.mark.parametrize(("asked", "sent"), [("cuda", "cuda"), ("auto", "auto"), ("cpu", "cpu")])
def test_the_nodes_decide_what_a_device_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, sent: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    study, jobs = fake_study(tmp_path / "study"), list[Job]()
    planned = list[Any]()
    options: Any = {"epochs": 1, "data": None, "train_images": 200, "workers": 1, "device": asked, "pool": Pool("ray")}
    setting = rounds.make_setting(study, on_event=planned.append, **options)  # type: ignore[arg-type]
    assert setting.device == "cpu"  # of this machine
    monkeypatch.setattr(rounds, "run_jobs", lambda waiting, *others: jobs.extend(waiting))
    rounds.retrain_all(setting, [rounds.Retrained(study.found[0])], 1)
    assert [one.device for one in jobs] == [sent]
    assert planned[0].device == sent


def test_an_idle_process_that_died_takes_no_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "MAX_ATTEMPTS", 1)
    told: list[str] = []

    def on_message(_: Job, kind: str, values: dict[str, Any]) -> None:
        told.append(kind)
        if told == ["epoch", "done"]:  # it is idle now
            for child in multiprocessing.active_children():
                child.kill()
                child.join()

    run_jobs([job(tmp_path / name, epochs=1) for name in "ab"], 1, on_message)
    assert told == ["epoch", "done"] * 2
    assert multiprocessing.active_children() == []
