"""What an engine is: it places and runs candidates where the coordinator tells it, and brings back numbers.

What passes between coordinator and engine is plain data (jobs.py) and result dictionaries. An engine never sees Optuna; the
coordinator never sees a process. Every engine (local.py, ray_engine.py; make.py chooses) implements `Engine` and drives the same
coordinator:

    while (job := coordinator.next_job()) is not None: place it
    an epoch is done   -> coordinator.report(job.id, epoch record) -> False: stop it
    something to know  -> coordinator.note(job.id, text)
    it is trained      -> coordinator.finished(job.id, result)
    it raised          -> coordinator.failed(job.id, reason)
    its worker died    -> coordinator.lost(job.id, reason)   (it comes back through next_job, or is failed for good)
    every second       -> coordinator.tick()
    `stop`, `expired`  -> end the workers, coordinator.interrupt(why)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from igcsearch.search.jobs import DataFacts

if TYPE_CHECKING:
    from igcsearch.search.coordinator import Coordinator


class Engine(Protocol):
    """Places and runs candidates. Used as: `start`, then `run`, and `close` in any case.

    Attributes:
        stop: set from outside (a signal handler) to end soon.
        workers: candidates at once, known after `start`.
    """

    stop: bool
    workers: int

    def start(self) -> DataFacts:
        """Start the first worker and load the data; raises UsageError for data or a device that cannot be used.

        When it returns, no worker computes: latency is measured next.
        """

    def run(self, coordinator: Coordinator) -> None:
        """Run candidates until the coordinator has ended."""

    def close(self) -> None:
        """End every worker now."""
