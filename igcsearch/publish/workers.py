"""Retrainings side by side, in worker processes of this machine (igcsearch.search.engines.processes) or on Ray (ray_jobs.py).

A worker that dies is replaced, and its job goes on from its checkpoint, a bounded number of times.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, near
from ..search.config import ENGINES
from ..search.engines.processes import Channel, WorkerProcess, wait_for
from ..search.jobs import MAX_ATTEMPTS
from .retrain import Job, run_job

if TYPE_CHECKING:
    from ..training import Epoch

OnMessage = Callable[[Job, str, dict[str, Any]], None]


@dataclass(frozen=True)
class Pool:
    """Where retrainings run.

    Args:
        engine: local, or ray.
        address: of a Ray cluster to join, HOST:PORT or auto; None starts one here, for as many as there are workers.
        gpus: of each retraining on ray, also a fraction; None: 1 where the cluster has GPUs.
        cpus: of each retraining on ray, and its threads; None: the cores shared out, 1 on a joined cluster.
        max_concurrent: retrainings at once on ray; None: the workers here, what a joined cluster has room for.

    Raises:
        UsageError: an unknown engine, or a share that is none.
    """

    engine: str = "local"
    address: str | None = None
    gpus: float | None = None
    cpus: int | None = None
    max_concurrent: int | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UsageError(f"unknown engine {self.engine!r}{near(self.engine, ENGINES)}; known: {', '.join(ENGINES)}")
        given = (self.address, self.gpus, self.cpus, self.max_concurrent)
        if self.engine != "ray" and any(value is not None for value in given):
            raise UsageError(f"an address and the share of each retraining need engine 'ray', not {self.engine!r}")
        if self.gpus is not None and not 0 <= self.gpus <= 1:
            raise UsageError(f"GPUs of each retraining: {self.gpus:g} must be from 0 to 1, such as 1 or 0.5")


def run_jobs(jobs: Sequence[Job], workers: int, on_message: OnMessage, pool: Pool | None = None) -> None:
    """Run all jobs, at most `workers` at a time (on ray as `pool` says); returns when each is done or has failed.

    `on_message(job, kind, values)` is called in this process: "epoch" {"epoch", "epochs", "accuracy", "seconds"}, "note"
    {"text"}, and in the end "done" (the result, see retrain.py) or "failed" {"reason"}.
    """
    if pool is not None and pool.engine == "ray":
        from .ray_jobs import run_on_ray

        run_on_ray(jobs, workers, on_message, pool)
        return
    waiting, attempts = deque(jobs), Counter[Job]()
    running: dict[WorkerProcess, Job] = {}
    idle: list[WorkerProcess] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.popleft()
                attempts[job] += 1
                worker = _living(idle) or WorkerProcess(_work, threads=job.threads, name="igcsearch-retrain")
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


def _living(idle: list[WorkerProcess]) -> WorkerProcess | None:
    """Take a process that waits for work; those that died meanwhile are put away."""
    while idle:
        worker = idle.pop()
        if worker.process.is_alive():
            return worker
        worker.end()
    return None


def _work(channel: Channel) -> None:
    """What a worker does: jobs come in, messages go out, until this process ends it."""
    while True:
        job: Job = channel.receive()
        channel.send(run_one(job, channel.send))


def run_one(job: Job, send: Callable[[tuple[str, dict[str, Any]]], None]) -> tuple[str, dict[str, Any]]:
    """Run one job, with its messages sent as they come; the last one is returned."""

    def on_epoch(epoch: Epoch) -> None:
        values = {"epoch": epoch.epoch, "epochs": job.recipe["epochs"], "seconds": epoch.seconds}
        send(("epoch", {**values, "accuracy": epoch.validation_accuracy}))

    try:
        return "done", run_job(job, on_epoch, lambda text: send(("note", {"text": text})))
    except Exception as error:  # reported to the coordinator, which goes on with the other jobs
        return "failed", {"reason": f"{type(error).__name__}: {error}"}
