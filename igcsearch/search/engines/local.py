"""The local engine: training processes on this machine (processes.py), one candidate each.

Workers that die are noticed at once and replaced; their candidates go on from the last epoch. All start at once; only where
data may have to be downloaded, or latency is measured next, the first one loads them alone.
"""

from __future__ import annotations

from typing import Any

from igcsearch.errors import UsageError
from igcsearch.search.config import SearchConfig
from igcsearch.search.coordinator import Coordinator
from igcsearch.search.jobs import DataFacts, Job
from igcsearch.search.start import start_ref

from .estimate import estimate
from .processes import WorkerProcess, wait_for
from .worker import WorkerSpec, main

_TICK = 0.5  # seconds between looks at the clock and at `stop`
_MAX_START_FAILURES = 3


class _Worker(WorkerProcess):
    """A process and the job it works on."""

    def __init__(self, spec: WorkerSpec) -> None:
        super().__init__(main, spec, threads=spec.threads, name="igcsearch-worker")
        self.facts: DataFacts | None = None
        self.job: Job | None = None
        self.timing = False  # its job's step is being timed


class LocalEngine:
    """Runs candidates in `config.workers` processes of `config.threads` threads each.

    Args:
        config: of the search.
        trainer: `module:class` that does the work in each process.
    """

    def __init__(self, config: SearchConfig, trainer: str = WorkerSpec.trainer) -> None:
        self._config = config
        how = (config.data, config.recipe, config.given, config.device, config.threads)
        self._spec = WorkerSpec(*how, trainer, start_ref(config))
        self._workers: list[_Worker] = []
        self._start_failures = 0
        self.workers = config.workers
        self.stop = False  # set from outside (a signal handler) to end soon

    def start(self) -> DataFacts:
        """Start the workers; returns what the first one found.

        Raises:
            UsageError: data or a device that cannot be used, or a worker that ends at once.
        """
        alone = self._config.data.download or self._config.latency is not None
        for _ in range(1 if alone else min(self._config.workers, self._config.trials)):
            self._add_worker()
        worker = self._workers[0]
        while worker.facts is None:
            if self.stop:
                raise KeyboardInterrupt
            for _, died in wait_for([worker], _TICK):
                for message in worker.messages():
                    self._started(worker, message)
                if died and worker.facts is None:
                    raise UsageError(
                        f"the training process ended at its start ({worker.exit()}); see its messages above"
                    )
        return worker.facts

    def run(self, coordinator: Coordinator) -> None:
        """Run candidates until the coordinator has ended; the first job is timed before it is trained."""
        first = coordinator.next_job()
        if first is not None:
            self._hand(self._workers[0], first, kind="time")
            while len(self._workers) < min(self._config.workers, coordinator.remaining):
                self._add_worker()
        while True:
            coordinator.tick()
            if self.stop or coordinator.expired:
                coordinator.interrupt("interrupted" if self.stop else "timeout")
                return
            if not any(worker.timing for worker in self._workers):  # the timed step has the machine for itself
                for worker in self._workers:
                    if worker.facts is not None and worker.job is None:
                        self._hand(worker, coordinator.next_job())
            if coordinator.ended is not None and coordinator.counts.running == 0:
                return
            for worker, died in wait_for(self._workers, _TICK):
                for message in worker.messages():
                    self._handle(worker, message, coordinator)
                if died:
                    self._replace(worker, coordinator)

    def close(self) -> None:
        """End every worker now; their checkpoints are whole at any moment."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def _add_worker(self) -> _Worker:
        worker = _Worker(self._spec)
        self._workers.append(worker)
        return worker

    def _hand(self, worker: _Worker, job: Job | None, kind: str = "train") -> None:
        worker.job, worker.timing = job, kind == "time"
        if job is not None:
            worker.send((kind, job))

    def _started(self, worker: _Worker, message: tuple[Any, ...]) -> None:
        if message[0] == "refused":
            raise UsageError(message[1])
        worker.facts = message[1]
        self._start_failures = 0

    def _handle(self, worker: _Worker, message: tuple[Any, ...], coordinator: Coordinator) -> None:
        kind, job = message[0], worker.job
        if job is None:
            self._started(worker, message)
        elif kind == "timed":
            coordinator.emit(estimate(float(message[1]), coordinator, self.workers))
            self._hand(worker, job)
        elif kind == "note":
            coordinator.note(job.id, message[1])
        elif kind == "epoch":
            worker.send(coordinator.report(job.id, message[1]))
        else:
            worker.job, worker.timing = None, False
            if kind == "finished":
                coordinator.finished(job.id, message[1])
            elif kind == "failed":
                coordinator.failed(job.id, message[1])

    def _replace(self, worker: _Worker, coordinator: Coordinator) -> None:
        """A worker died: another one takes its place, its candidate is tried again."""
        self._workers.remove(worker)
        reason = f"its training process died ({worker.exit()})"
        worker.end()
        if worker.facts is None:
            self._start_failures += 1
            if self._start_failures >= _MAX_START_FAILURES:
                raise UsageError(f"training processes end at their start ({worker.exit()}); see their messages above")
        if worker.job is not None:
            coordinator.lost(worker.job.id, reason)
        self._add_worker()
