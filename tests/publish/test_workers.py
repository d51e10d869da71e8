"""Retrainings survive their workers: one that is killed is replaced and its job goes on; a job that kills three has failed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

from igcsearch.publish.retrain import Job, finished, make_job, run_job
from igcsearch.publish.workers import run_jobs
from igcsearch.training import DataSpec, load_data

from .studies import RECIPE, candidate


def job(folder: Path, epochs: int = 2) -> Job:
    spec = DataSpec("digits", train_images=200)
    return make_job(folder, candidate(0), spec, load_data(spec), replace(RECIPE, epochs=epochs), "cpu", 1)


def kill_worker(killed: set[int]) -> None:
    """Kill the worker, unless this one was killed before and only its last messages come in."""
    for child in multiprocessing.active_children():
        if child.pid is not None and child.pid not in killed:
            killed.add(child.pid)
            os.kill(child.pid, signal.SIGKILL)


def test_killed_worker_is_replaced_and_its_job_goes_on(tmp_path: Path) -> None:
    """The result is that of a run without interruption, to the bit."""
    told: list[tuple[str, dict[str, Any]]] = []
    work = job(tmp_path / "a")

    def on_message(_: Job, kind: str, values: dict[str, Any]) -> None:
        told.append((kind, values))
        if len(told) == 1:
            kill_worker(set())

    run_jobs([work], 1, on_message)
    assert [kind for kind, _ in told][-1] == "done"
    calm = job(tmp_path / "b")
    expected = run_job(calm, lambda epoch: None)
    assert told[-1][1]["weights_sha256"] == expected["weights_sha256"]
    assert finished(work) is not None
    assert not list(work.folder.glob("checkpoint*"))
    assert multiprocessing.active_children() == []


def test_a_job_whose_workers_die_has_failed(tmp_path: Path) -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    killed: set[int] = set()

    def on_message(_: Job, kind: str, values: dict[str, Any]) -> None:
        told.append((kind, values))
        kill_worker(killed)

    run_jobs([job(tmp_path, epochs=50)], 1, on_message)
    assert told[-1] == ("failed", {"reason": "its worker died (signal 9, out of memory?), 3 times"})
    assert len(killed) == 3
