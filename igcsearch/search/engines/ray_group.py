"""One candidate on several devices: Ray Train runs its processes, inside the Tune function that `train_candidate` would be.

    driver (coordinator)  <- tune.report -  Tune function  <- Line -  process 0 of the group (processes 1 ... compute along)
                           - Answers ->                     - Line ->
Tune is never asked to stop such a candidate: killing the function that waits for Ray Train would leave the group's processes
behind. The coordinator's answer to each epoch travels back through `Answers` instead; all processes end by themselves, and an early
stop is an ordinary end. What all of them raise is the candidate's own and fails it; anything else, such
as a process that died, ends the group and is told as lost, so that the candidate goes on from its checkpoint.

The processes are new for each candidate (about ten seconds), so this is for large candidates.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune

from igcsearch.errors import UsageError
from igcsearch.search.jobs import Job

from .ray_worker import Task, make_trainer
from .worker import described

_LAST = ("finished", "failed", "refused")


@dataclass(frozen=True)
class Devices:
    """The group of one candidate: processes, what each gets, and the coordinator's answers."""

    count: int
    cpus: int
    gpus: float
    answers: Any


class Answers:
    """The coordinator's answers to epochs, for whoever waits for them (an actor of the driver's)."""

    def __init__(self) -> None:
        self._answers: dict[str, asyncio.Future[bool]] = {}

    async def put(self, key: str, value: bool) -> None:
        """An answer."""
        self._future(key).set_result(value)

    async def take(self, key: str) -> bool:
        """Wait for an answer; it is given once."""
        value = await self._future(key)
        del self._answers[key]
        return value

    def _future(self, key: str) -> asyncio.Future[bool]:
        return self._answers.setdefault(key, asyncio.get_running_loop().create_future())


class Line:
    """Between process 0 of a group and the Tune function (an actor of the function's)."""

    def __init__(self) -> None:
        self._said: asyncio.Queue[tuple[str, Any, list[str]]] = asyncio.Queue()
        self._answers: asyncio.Queue[bool] = asyncio.Queue()

    async def say(self, kind: str, value: Any, notes: list[str]) -> None:
        """From the group."""
        await self._said.put((kind, value, notes))

    async def heard(self) -> tuple[str, Any, list[str]]:
        """What the group said next."""
        return await self._said.get()

    async def answer(self, value: bool) -> None:
        """To the group."""
        await self._answers.put(value)

    async def answered(self) -> bool:
        """The next answer."""
        return await self._answers.get()


def train_candidate_in_group(config: dict[str, Any], task: Task, devices: Devices) -> None:
    """Tune's trainable: {"job": Job, "time": bool}, as `train_candidate`."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    job, name = config["job"], str(tune.get_context().get_trial_id())
    remote: Any = ray.remote
    line = remote(num_cpus=0)(Line).remote()
    place = Path(job.checkpoint).parent / "train"  # Ray Train's records; nothing is read from them
    share: dict[str, float] = {"CPU": devices.cpus} | ({"GPU": devices.gpus} if devices.gpus else {})
    trainer = TorchTrainer(
        _process,
        train_loop_config={"job": job, "time": config["time"], "task": task, "line": line},
        torch_config=TorchConfig(backend="nccl" if devices.gpus == 1 else "gloo"),
        scaling_config=ScalingConfig(num_workers=devices.count, use_gpu=devices.gpus > 0, resources_per_worker=share),
        run_config=RunConfig(name=name, storage_path=str(place), failure_config=FailureConfig(max_failures=0)),
    )
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failures.append(error)
        line.say.remote("over", None, [])

    fitting = threading.Thread(target=fit, daemon=True)
    fitting.start()
    epochs = 0
    while True:
        kind, value, notes = ray.get(line.heard.remote())
        if kind in _LAST or kind == "over":
            fitting.join()  # its devices are free
            shutil.rmtree(place, ignore_errors=True)
        if kind == "over":
            raise RuntimeError(_why(failures[0] if failures else None))  # told to the coordinator as lost
        tune.report({"message": (kind, value), "notes": notes})
        if kind in _LAST:
            return
        if kind == "epoch":
            epochs += 1
            line.answer.remote(ray.get(devices.answers.take.remote(f"{name}/{epochs}")))


def _process(config: dict[str, Any]) -> None:
    """One process of the group; process 0 speaks for all."""
    from ray.train import get_context

    from igcsearch.training import TrainingDiverged
    from igcsearch.training.distributed import Group

    job, task, line = config["job"], config["task"], config["line"]
    first, notes = get_context().get_world_rank() == 0, list[str]()

    def say(kind: str, value: Any) -> None:
        ray.get(line.say.remote(kind, value, notes.copy()))
        notes.clear()

    def ask(kind: str, value: Any) -> bool:
        say(kind, value)
        return bool(ray.get(line.answered.remote()))

    try:
        trainer: Any = make_trainer(task)[0]
    except UsageError as error:
        say("refused", str(error))
        raise
    try:
        group = Group.current(task.spec.device)
        if first:
            say("ready", {})
            if config["time"]:
                seconds = _time_step(trainer, job, group.world_size, notes)
                if seconds is not None:
                    say("timed", seconds)
        result = trainer.train(job, lambda record: ask("epoch", record), notes.append, group=group)
    except (TrainingDiverged, UsageError) as error:  # raised by all, of which the first is heard
        say("failed", described(error))
        raise  # of one process that ended quietly the others would wait
    if first:
        say("finished", result)


def _time_step(trainer: Any, job: Job, processes: int, notes: list[str]) -> float | None:
    """Seconds of a step with one device's share of a batch, which is all that one has to hold; None if even that fails."""
    images = max(2, int(job.recipe["batch_size"]) // processes)
    try:
        return float(trainer.time_step(replace(job, recipe=job.recipe | {"batch_size": images})))
    except Exception as error:  # only the estimate is missing
        notes.append(f"its step could not be timed: {described(error)}")
        return None


def _why(error: BaseException | None) -> str:
    """Why a group ended, in one line: that a process died, else what one raised."""
    if error is None:
        return "its group ended without a result"
    raised = list(getattr(error, "worker_failures", {}).values())
    if any(isinstance(getattr(each, "health_check_failure", each), ray.exceptions.RayError) for each in raised):
        return "a process of its group died"
    text = str((raised or [error])[0])
    return f"its group ended: {(text.strip().splitlines() or ['?'])[-1]}"
