"""What an engine is: it places and runs candidates where the coordinator tells it, and brings back numbers.

What passes between coordinator and engine is plain data: a `Job` (one candidate to train), `DataFacts` (what the workers found when
they loaded the images), and result dictionaries. An engine never sees Optuna; the coordinator never sees a process. Every engine
(local.py, ray_engine.py; make.py chooses) implements `Engine` and drives the same coordinator:

    while (job := coordinator.next_job()) is not None: place it
    an epoch is done   -> coordinator.report(job.id, epoch record) -> False: stop it
    latency is known   -> coordinator.measured(job.id, milliseconds) -> False: drop it
    something to know  -> coordinator.note(job.id, text)
    it is trained      -> coordinator.finished(job.id, result)
    it raised          -> coordinator.failed(job.id, reason)
    its worker died    -> coordinator.lost(job.id, reason)   (it comes back through next_job, or is failed for good)
    every second       -> coordinator.tick()
    `stop`, `expired`  -> end the workers, coordinator.interrupt(why)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from igcsearch.spec import Budget, Problem

if TYPE_CHECKING:
    from igcsearch.search.coordinator import Coordinator


@dataclass(frozen=True)
class Job:
    """One candidate to train: everything a worker needs, and all that travels to it.

    Attributes:
        id: of the candidate.
        architecture: as JSON text.
        recipe: as JSON data, with the candidate's own seed.
        checkpoint: path of the file that training writes each epoch and goes on from.
        latency: True if the network is timed before it is trained.
        attempt: 1, or more after a worker died.
    """

    id: int
    architecture: str
    recipe: dict[str, Any]
    checkpoint: str
    latency: bool = False
    attempt: int = 1


@dataclass(frozen=True)
class DataFacts:
    """What a worker found when it loaded the images and chose its device.

    Attributes:
        name: of the data set.
        image_size, in_channels, num_classes: of the problem.
        train, validation, test: images in each split.
        recipe: the recipe with every entry resolved for these images, as JSON data.
        device, threads: of the worker.
        versions: of Python and the libraries.
        fingerprint: of the images and their splits.
        smallest_ms: latency of the space's smallest network, where there is a latency budget and the space names one.
    """

    name: str
    image_size: int
    in_channels: int
    num_classes: int
    train: int
    validation: int
    test: int
    recipe: dict[str, Any]
    device: str = "cpu"
    threads: int = 1
    versions: Mapping[str, str] | None = None
    fingerprint: str = ""
    smallest_ms: float | None = None

    def problem(self, budget: Budget) -> Problem:
        """The problem that candidates answer."""
        return Problem(self.image_size, self.in_channels, self.num_classes, budget)


class Engine(Protocol):
    """Places and runs candidates. Used as: `start`, then `run`, and `close` in any case.

    Attributes:
        stop: set from outside (a signal handler) to end soon.
        workers: candidates at once, known after `start`.
    """

    stop: bool
    workers: int

    def start(self) -> DataFacts:
        """Start the first worker and load the data; raises UsageError for data or a device that cannot be used."""

    def run(self, coordinator: Coordinator) -> None:
        """Run candidates until the coordinator has ended."""

    def close(self) -> None:
        """End every worker now."""
