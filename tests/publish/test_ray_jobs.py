"""Retrainings on Ray: the same results as in processes of this machine, also where a worker is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from igcsearch.errors import UsageError
from igcsearch.publish.ray_jobs import Retrainer
from igcsearch.publish.retrain import Job, finished, run_job
from igcsearch.publish.workers import Pool, run_jobs
from igcsearch.search.engines.ray_guard import below

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
