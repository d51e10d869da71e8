"""Retrainings side by side: spawned processes that take jobs and send back what happens, watched by this one.

A worker that dies is replaced, and its job goes on from its checkpoint; a job that killed two workers has failed. Workers
leave Ctrl-C to this process, and end by themselves when it is gone, kill -9 included.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from .retrain import Job, run_job

if TYPE_CHECKING:
    from ..training import Epoch

ATTEMPTS = 2

OnMessage = Callable[[Job, str, dict[str, Any]], None]


def run_jobs(jobs: Sequence[Job], workers: int, on_message: OnMessage) -> None:
    """Run all jobs, at most `workers` at a time; returns when each is done or has failed.

    `on_message(job, kind, values)` is called in this process: "epoch" {"epoch", "epochs", "accuracy", "seconds"}, "done" (the
    result, see retrain.py) or "failed" {"reason"}.
    """
    waiting, attempts = deque(jobs), dict.fromkeys(jobs, 0)
    running: dict[Connection, tuple[BaseProcess, Job]] = {}
    idle: list[tuple[Connection, BaseProcess]] = []
    context = multiprocessing.get_context("spawn")
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.popleft()
                attempts[job] += 1
                connection, process = idle.pop() if idle else _start(context)
                running[connection] = (process, job)
                with contextlib.suppress(OSError):  # it died before it began: its closed connection tells below
                    connection.send(job)
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                process, job = running[ready]
                try:
                    kind, values = ready.recv()
                except (EOFError, OSError):
                    process.join(5)  # so that the exit code is its own
                    _end(ready, process)
                    del running[ready]
                    reason = f"its worker died (exit code {process.exitcode}), {ATTEMPTS} times"
                    if attempts[job] < ATTEMPTS:
                        waiting.appendleft(job)
                    else:
                        on_message(job, "failed", {"reason": reason})
                    continue
                if kind != "epoch":
                    del running[ready]
                    idle.append((ready, process))
                on_message(job, kind, values)
    finally:
        for connection, process in [*idle, *((connection, pair[0]) for connection, pair in running.items())]:
            _end(connection, process)


def _start(context: multiprocessing.context.SpawnContext) -> tuple[Connection, BaseProcess]:
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there,), name="igcsearch-retrain")
    process.start()
    there.close()
    return here, process


def _end(connection: Connection, process: BaseProcess) -> None:
    connection.close()
    process.kill()
    process.join()


def _work(connection: Connection) -> None:
    """The life of a worker: jobs come in, messages go out, until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job: Job = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(_run(job, connection))


def _run(job: Job, connection: Connection) -> tuple[str, dict[str, Any]]:
    """Run one job; its last message."""

    def on_epoch(epoch: Epoch) -> None:
        values = {"epoch": epoch.epoch, "epochs": job.recipe["epochs"], "seconds": epoch.seconds}
        connection.send(("epoch", {**values, "accuracy": epoch.validation_accuracy}))

    try:
        return "done", run_job(job, on_epoch)
    except Exception as error:  # reported to the coordinator, which goes on with the other jobs
        return "failed", {"reason": f"{type(error).__name__}: {error}"}


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
