"""What runs in a Ray worker process: loading the images, saying what was found, and training one candidate after another.

Tune starts `train_candidate` in an actor that it uses again, so that torch is imported and the trainer made once for each process.
Every message goes to the driver by `tune.report({"message": (kind, value), "notes": [...]})`, which comes back when the driver has
answered: the training goes on, or Tune ends this thread there (SystemExit). Kinds, in order:
    "ready" {process}  once in each process    "refused" text        "timed" seconds
    "epoch" record     after each epoch        "finished" result     "failed" text
"""

from __future__ import annotations

import importlib.metadata
import os
import socket
import threading
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from igcsearch import __version__
from igcsearch.errors import UsageError
from igcsearch.machine import keep_freed_memory
from igcsearch.search.jobs import DataFacts

from .worker import TrainerLike, WorkerSpec, described, find_trainer

_trainers: dict[str, TrainerLike] = {}  # of this process, by the key of the run
_lock = threading.Lock()


@dataclass(frozen=True)
class Task:
    """What a worker is told: the same for all candidates of a run.

    Attributes:
        key: of the run.
        spec: of its workers.
        images: reference to the packed images; None where the trainer loads its own.
        software: versions of the driver's, which a node that joins during a search must have too.
    """

    key: str
    spec: WorkerSpec
    images: Any = None
    software: tuple[str, ...] = ()


def software() -> tuple[str, ...]:
    """What must be the same everywhere, by name and version."""
    return f"igcsearch {__version__}", f"torch {importlib.metadata.version('torch')}"


def load_images(spec: WorkerSpec) -> tuple[dict[str, Any], Any]:
    """Load the images once for all workers: what was found ({"refused": text}, or {"files": paths}), and the packed images."""
    trainer = find_trainer(spec.trainer)
    if not hasattr(trainer, "load"):
        return {"files": [], "shared": False}, None
    from .ray_data import files_of, pack

    try:
        data = trainer.load(spec)
        return {"files": files_of(data), "shared": True}, pack(data)
    except UsageError as error:
        return {"refused": str(error)}, None


def look(task: Task) -> DataFacts | str:
    """What a worker finds in the data and as its device; a text where it cannot use them."""
    try:
        return make_trainer(task)[0].facts
    except UsageError as error:
        return str(error)


def train_candidate(config: dict[str, Any], task: Task) -> None:
    """Tune's trainable: {"job": Job, "time": True if one step is timed first}."""
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = (
        "60"  # that a stopped training gets to end before its process is used again
    )
    job, notes = config["job"], list[str]()

    def tell(kind: str, value: Any) -> bool:
        message = {"message": (kind, value), "notes": notes.copy()}
        notes.clear()
        tune.report(message)
        return True  # a candidate that is to be stopped does not come back from the report

    try:
        trainer, made = make_trainer(task)
    except UsageError as error:
        tell("refused", str(error))
        return
    if made:
        tell("ready", {"pid": os.getpid(), "host": socket.gethostname()})
    try:
        if config["time"]:
            tell("timed", trainer.time_step(job))
        result = trainer.train(job, lambda record: tell("epoch", record), notes.append)
    except Exception as error:  # whatever happens inside one candidate is that candidate's
        tell("failed", described(error))
        return
    tell("finished", result)


def make_trainer(task: Task) -> tuple[TrainerLike, bool]:
    """This process's trainer, and whether it was made now."""
    with _lock:
        if task.key in _trainers:
            return _trainers[task.key], False
        for ours, theirs in zip(software(), task.software, strict=False):
            if ours != theirs:
                cure = "install the same on every node, and resume"
                raise UsageError(f"node {socket.gethostname()}, which joined, has {ours}, the search {theirs}; {cure}")
        keep_freed_memory()
        kind = find_trainer(task.spec.trainer)
        if task.images is None:
            trainer = kind(task.spec)
        else:
            from .ray_data import unpack

            trainer = kind(task.spec, unpack(ray.get(task.images)))
        _trainers.clear()
        _trainers[task.key] = trainer
        return trainer, True
