"""Retrainings side by side on a Ray cluster: an actor for each that runs, used again for the next; see workers.py.

The study's folder must be one that every node sees: results and checkpoints are written there. Each actor loads the images once.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray

from ..errors import UsageError
from ..machine import available_cores
from ..search.engines.ray_checks import check_nodes
from ..search.engines.ray_cluster import RayCluster, Share, check_share
from ..search.jobs import MAX_ATTEMPTS
from .retrain import Job
from .workers import OnMessage, run_one

if TYPE_CHECKING:
    from .workers import Pool

_PATIENCE = 600.0  # seconds in which a cluster may have no room for any job


class Retrainer:
    """What runs in a Ray actor."""

    def run(self, job: Job) -> Iterator[tuple[str, dict[str, Any]]]:
        """Run one job: its messages as they come, the last one "done" or "failed"."""
        messages: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        threading.Thread(target=lambda: messages.put(run_one(job, messages.put)), daemon=True).start()
        while True:
            message = messages.get()
            yield message
            if message[0] in ("done", "failed"):
                return


def run_on_ray(jobs: Sequence[Job], workers: int, on_message: OnMessage, pool: Pool) -> None:
    """Run all jobs on a cluster; returns when each is done or has failed.

    Raises:
        UsageError: a cluster that cannot be reached, has no room for one job (also later, for minutes), or whose nodes do not
            fit.
    """
    if not jobs:
        return
    here = pool.cpus or max(1, available_cores() // workers)
    cluster = RayCluster(pool.address, workers * here)
    try:
        cluster.connect()
        gpus = _gpus(jobs[0].device, pool.gpus, cluster.total("GPU"))
        share = Share(pool.cpus or (here if cluster.started_here else 1), gpus)
        check_share(cluster, share)
        if not cluster.started_here:
            nodes = [node for node in cluster.nodes() if share.fits(node["Resources"])]
            check_nodes(nodes, jobs[0].folder.parents[2], lambda: False)
        most = pool.max_concurrent or (workers if cluster.started_here else len(jobs))
        _run(jobs, cluster, share, most, on_message)
    finally:
        cluster.close()


def _gpus(device: str, asked: float | None, there: float) -> float:
    """GPUs of each job, by the device that was asked for; this machine's are of no account."""
    if device == "cpu":
        if asked:
            raise UsageError(f"{asked:g} GPUs of each retraining do not go with device 'cpu'; leave one of them out")
        return 0.0
    if device.startswith("cuda"):
        if asked == 0:
            raise UsageError(f"device {device!r} needs GPUs of each retraining above 0, not 0")
        return asked or 1.0
    return float(there > 0) if asked is None else asked


def _run(jobs: Sequence[Job], cluster: RayCluster, share: Share, most: int, on_message: OnMessage) -> None:
    """As workers.run_jobs, with actors in the place of processes."""
    options: Any = ray.remote
    kind = options(num_cpus=share.cpus, num_gpus=share.gpus, max_restarts=0)(Retrainer)
    waiting, attempts = deque(jobs), Counter[Job]()
    running: dict[Any, tuple[Any, Job]] = {}  # the messages of a job that come
    idle: list[Any] = []
    device = "cuda" if share.gpus else "cpu"
    roomy = time.monotonic()  # when there was room last
    try:
        while waiting or running:
            if cluster.room(share) > 0:
                roomy = time.monotonic()
            elif time.monotonic() - roomy > _PATIENCE:
                what = f"the cluster has had no room for a retraining for {_PATIENCE / 60:.0f} minutes"
                raise UsageError(f"{what}; bring nodes back and start again: what is finished is kept")
            while waiting and len(running) < max(1, min(most, cluster.room(share))):
                job = waiting.popleft()
                attempts[job] += 1
                actor = idle.pop() if idle else kind.remote()
                sent = replace(job, device=device, threads=share.cpus)
                running[actor.run.options(num_returns="streaming").remote(sent)] = actor, job
            ready: list[Any] = ray.wait(list(running), timeout=1.0, fetch_local=False)[0]
            for messages in ready:
                actor, job = running[messages]
                try:
                    kind_of, values = ray.get(next(messages))
                except (ray.exceptions.RayError, StopIteration) as error:
                    del running[messages]
                    for lost in (
                        actor,
                        *idle,
                    ):  # those that wait may have died with it: a new one costs seconds, a dead one
                        ray.kill(lost, no_restart=True)  # an attempt of its next job
                    idle.clear()
                    if attempts[job] < MAX_ATTEMPTS:
                        waiting.appendleft(job)
                    else:
                        reason = f"its worker died ({type(error).__name__}), {attempts[job]} times"
                        on_message(job, "failed", {"reason": reason})
                    continue
                if kind_of in ("done", "failed"):
                    del running[messages]
                    idle.append(actor)
                on_message(job, kind_of, values)
    finally:
        for actor in (*idle, *(actor for actor, _ in running.values())):
            ray.kill(actor, no_restart=True)
