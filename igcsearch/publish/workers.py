"""Retrainings side by side, in the worker processes of the search's engine (igcsearch.search.engines.processes).

A worker that dies is replaced, and its job goes on from its checkpoint, a bounded number of times.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..search.engines.processes import MAX_ATTEMPTS, Channel, WorkerProcess, wait_for
from .retrain import Job, run_job

if TYPE_CHECKING:
    from ..training import Epoch

OnMessage = Callable[[Job, str, dict[str, Any]], None]


def run_jobs(jobs: Sequence[Job], workers: int, on_message: OnMessage) -> None:
    """Run all jobs, at most `workers` at a time; returns when each is done or has failed.

    `on_message(job, kind, values)` is called in this process: "epoch" {"epoch", "epochs", "accuracy", "seconds"}, "note"
    {"text"}, and in the end "done" (the result, see retrain.py) or "failed" {"reason"}.
    """
    waiting, attempts = deque(jobs), Counter[Job]()
    running: dict[WorkerProcess, Job] = {}
    idle: list[WorkerProcess] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.popleft()
                attempts[job] += 1
                worker = idle.pop() if idle else WorkerProcess(_work, threads=job.threads, name="igcsearch-retrain")
                running[worker] = job
                worker.send(job)
            for worker, died in wait_for(running):
                job = running[worker]
                for kind, values in worker.messages():
                    if kind in ("done", "failed"):
                        del running[worker]
                        idle.append(worker)
                    on_message(job, kind, values)
                if died and worker in running:
                    del running[worker]
                    reason = f"its worker died ({worker.exit()}), {attempts[job]} times"
                    worker.end()
                    if attempts[job] < MAX_ATTEMPTS:
                        waiting.appendleft(job)
                    else:
                        on_message(job, "failed", {"reason": reason})
    finally:
        for worker in (*idle, *running):
            worker.end()


def _work(channel: Channel) -> None:
    """What a worker does: jobs come in, messages go out, until this process ends it."""
    while True:
        job: Job = channel.receive()
        channel.send(_run(job, channel))


def _run(job: Job, channel: Channel) -> tuple[str, dict[str, Any]]:
    """Run one job; its last message."""

    def on_epoch(epoch: Epoch) -> None:
        values = {"epoch": epoch.epoch, "epochs": job.recipe["epochs"], "seconds": epoch.seconds}
        channel.send(("epoch", {**values, "accuracy": epoch.validation_accuracy}))

    try:
        return "done", run_job(job, on_epoch, lambda text: channel.send(("note", {"text": text})))
    except Exception as error:  # reported to the coordinator, which goes on with the other jobs
        return "failed", {"reason": f"{type(error).__name__}: {error}"}
