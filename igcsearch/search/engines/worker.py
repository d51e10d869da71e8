"""The process that trains candidates for the local engine, and what every worker uses.

It imports torch when it starts, loads the data once, then waits for jobs.

It speaks over one pipe, in tuples whose first member says what they are, and never touches the study. The coordinator answers each
epoch, and the worker waits for it.
    in:  ("train", Job) ("time", Job)                                       answers: True | False
    out: ("ready", DataFacts) ("refused", text)   then   ("timed", seconds) | ("epoch", record) ("note", text)
         ("finished", result) ("failed", text)
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Protocol

from igcsearch.errors import UsageError
from igcsearch.search.jobs import DataFacts, Job
from igcsearch.search.start import StartRef
from igcsearch.spec import Architecture
from igcsearch.training import DataSpec, Recipe

from .processes import Channel


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker is told when it starts. Without a recipe it takes the data's, with the entries `given`; `trainer` is
    `module:class` or `file.py:class` (tests put their own there); `start` is the network whose weights candidates begin with."""

    data: DataSpec
    recipe: Recipe | None
    given: Mapping[str, Any]
    device: str
    threads: int
    trainer: str = "igcsearch.search.engines.trainer:Trainer"
    start: StartRef | None = None


class TrainerLike(Protocol):
    """What does a worker's work: made once for each worker, from its WorkerSpec."""

    facts: DataFacts

    def time_step(self, job: Job) -> float: ...

    def train(
        self, job: Job, on_epoch: Callable[[dict[str, Any]], bool], on_note: Callable[[str], None]
    ) -> dict[str, Any]: ...


def main(channel: Channel, spec: WorkerSpec) -> None:
    """What the process does (see processes.py): it ends when data or device cannot be used, else with the coordinator."""
    try:
        trainer: TrainerLike = find_trainer(spec.trainer)(spec)
        channel.send(("ready", trainer.facts))
    except UsageError as error:
        channel.send(("refused", str(error)))
        return
    while True:
        kind, job = channel.receive()
        try:
            if kind == "time":
                channel.send(("timed", trainer.time_step(job)))
            else:
                channel.send(_train(trainer, job, channel))
        except Exception as error:  # whatever happens inside one candidate is that candidate's
            channel.send(("failed", described(error)))


def _train(trainer: TrainerLike, job: Job, channel: Channel) -> tuple[Any, ...]:
    def told(record: dict[str, Any]) -> bool:
        channel.send(("epoch", record))
        return bool(channel.receive())

    return "finished", trainer.train(job, told, lambda text: channel.send(("note", text)))


def find_trainer(name: str) -> Callable[..., TrainerLike]:
    """The trainer class that a WorkerSpec names."""
    where, _, attribute = name.rpartition(":")
    if not where.endswith(".py"):
        found: Callable[..., TrainerLike] = getattr(import_module(where), attribute)
        return found
    module_spec = spec_from_file_location(Path(where).stem, where)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = module_from_spec(module_spec)
    sys.modules[module_spec.name] = module
    module_spec.loader.exec_module(module)
    found = getattr(module, attribute)
    return found


def described(error: Exception) -> str:
    """The error in one line, with the place in the code unless it is one that speaks for itself."""
    if isinstance(error, UsageError) or type(error).__name__ == "TrainingDiverged":
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first} ({Path(place.filename).name}:{place.lineno})"


def architecture_of(job: Job) -> Architecture:
    """The network of a job."""
    return Architecture.from_json(job.architecture)
