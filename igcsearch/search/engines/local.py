"""The local engine: training processes on this machine, spawned (never forked), one pipe each.

Workers that die are noticed at once (their sentinels are waited on with the pipes) and replaced; their candidates go on from the
last epoch. All start at once; only where data may have to be downloaded, the first one loads them alone.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from igcsearch.errors import UsageError
from igcsearch.search import events
from igcsearch.search.config import SearchConfig
from igcsearch.search.coordinator import Coordinator
from igcsearch.training import steps_per_epoch

from . import DataFacts, Job
from .worker import WorkerSpec, main

_TICK = 0.5  # seconds between looks at the clock and at `stop`
_MAX_START_FAILURES = 3


class _Worker:
    """A process, its pipe, and the job it works on."""

    def __init__(self, spec: WorkerSpec) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=main, args=(theirs, spec, os.getpid()), name="igcsearch-worker"
        )
        with _environment(spec.threads):
            self.process.start()
        theirs.close()
        self.facts: DataFacts | None = None
        self.job: Job | None = None
        self.timing = False  # its job's step is being timed

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class LocalEngine:
    """Runs candidates in `config.workers` processes of `config.threads` threads each.

    Args:
        config: of the search.
        trainer: `module:class` that does the work in each process.
    """

    def __init__(self, config: SearchConfig, trainer: str = WorkerSpec.trainer) -> None:
        self._config = config
        self._spec = WorkerSpec(config.data, config.recipe, config.epochs, config.device, config.threads, trainer)
        self._workers: list[_Worker] = []
        self._start_failures = 0
        self.stop = False  # set from outside (a signal handler) to end soon

    def start(self) -> DataFacts:
        """Start the workers; returns what the first one found.

        Raises:
            UsageError: data or a device that cannot be used, or a worker that ends at once.
        """
        for _ in range(1 if self._config.data.download else min(self._config.workers, self._config.trials)):
            self._add_worker()
        worker = self._workers[0]
        while worker.facts is None:
            if self.stop:
                raise KeyboardInterrupt
            wait([worker.pipe, worker.process.sentinel], timeout=_TICK)
            for message in _messages(worker.pipe):
                self._started(worker, message)
            if worker.facts is None and not worker.process.is_alive():
                raise UsageError(f"the training process ended at its start ({_exit(worker)}); see its messages above")
        return worker.facts

    def run(self, coordinator: Coordinator) -> None:
        """Run candidates until the coordinator has ended; the first job is timed before it is trained."""
        first = coordinator.next_job()
        if first is not None:
            self._hand(self._workers[0], first, kind="time")
            while len(self._workers) < min(self._config.workers, coordinator.remaining):
                self._add_worker()
        while True:
            if self.stop or coordinator.expired:
                coordinator.interrupt("interrupted" if self.stop else "timeout")
                return
            if not any(worker.timing for worker in self._workers):  # the timed step has the machine for itself
                for worker in self._workers:
                    if worker.facts is not None and worker.job is None:
                        self._hand(worker, coordinator.next_job())
            if coordinator.ended is not None and coordinator.counts.running == 0:
                return
            pipes, sentinels = {w.pipe: w for w in self._workers}, {w.process.sentinel: w for w in self._workers}
            ready = wait([*pipes, *sentinels], timeout=_TICK)
            for worker in [w for w in self._workers if w.pipe in ready or w.process.sentinel in ready]:
                for message in _messages(worker.pipe):
                    self._handle(worker, message, coordinator)
                if worker.process.sentinel in ready:
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
            with suppress(OSError):  # it died: its sentinel says so next
                worker.pipe.send((kind, job))

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
            coordinator.emit(self._estimate(float(message[1]), coordinator))
            self._hand(worker, job)
        elif kind in ("epoch", "latency"):
            answer = (
                coordinator.report(job.id, message[1]) if kind == "epoch" else coordinator.measured(job.id, message[1])
            )
            with suppress(OSError):
                worker.pipe.send(answer)
        else:
            worker.job, worker.timing = None, False
            if kind == "finished":
                coordinator.finished(job.id, message[1])
            elif kind == "failed":
                coordinator.failed(job.id, message[1])

    def _replace(self, worker: _Worker, coordinator: Coordinator) -> None:
        """A worker died: another one takes its place, its candidate is tried again."""
        self._workers.remove(worker)
        worker.process.join()
        reason = f"its training process died ({_exit(worker)})"
        worker.pipe.close()
        if worker.facts is None:
            self._start_failures += 1
            if self._start_failures >= _MAX_START_FAILURES:
                raise UsageError(f"training processes end at their start ({_exit(worker)}); see their messages above")
        if worker.job is not None:
            coordinator.lost(worker.job.id, reason)
        self._add_worker()

    def _estimate(self, step: float, coordinator: Coordinator) -> events.Estimate:
        """From the timed step: a candidate's epochs of training and validation, whose forward pass is a third of a step."""
        recipe, facts = coordinator.recipe, coordinator.facts
        steps = steps_per_epoch(facts.train, recipe.batch_size) + facts.validation / recipe.batch_size / 3
        candidate = step * steps * recipe.epochs
        rounds = -(-coordinator.remaining // min(self._config.workers, coordinator.remaining))
        return events.Estimate(coordinator.counts, step, candidate, candidate * rounds)


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """Thread counts must be in the environment before the child imports torch."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _messages(pipe: Connection) -> Iterator[tuple[Any, ...]]:
    """What lies in the pipe, also what a process sent before it died."""
    try:
        while pipe.poll():
            yield pipe.recv()
    except (EOFError, OSError):
        return


def _exit(worker: _Worker) -> str:
    """How a process ended, in words."""
    code = worker.process.exitcode
    if code is not None and code < 0:
        return f"signal {-code}" + (", out of memory?" if code == -9 and sys.platform == "linux" else "")
    return f"exit code {code}"
