"""Stand-ins for the search tests: a small space of real architectures, and a trainer that trains nothing.

The trainer runs in real worker processes (loaded from this file by path) and is told what to do by environment variables:
FAKE_LOG (a file: one line an epoch trained), FAKE_EPOCH (seconds an epoch), FAKE_KILL (hash prefixes whose first attempt kills the
worker in its first epoch), FAKE_DIVERGE (hash prefixes that fail), FAKE_REFUSE (an error of the data), FAKE_NOTE (said of every
candidate), FAKE_EXIT (the process ends at its start).
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from igcsearch.blocks import FAMILIES
from igcsearch.blocks.assemble import network, stage
from igcsearch.errors import UsageError
from igcsearch.search.engines.worker import WorkerSpec, architecture_of
from igcsearch.search.jobs import DataFacts, Job
from igcsearch.search.latency import LatencySetting, LatencyTable
from igcsearch.spec import Architecture, Problem
from igcsearch.spec.parts import FEATURES
from igcsearch.training import Recipe

SPACE = f"{__file__}:space"
TINY_SPACE = f"{__file__}:tiny_space"
MOODY_SPACE = f"{__file__}:moody_space"
TRAINER = f"{__file__}:FakeTrainer"
PARAMETERS = 8  # of `space`


@lru_cache(maxsize=4096)
def make(problem: Problem, family: str, widths: tuple[int, ...], depths: tuple[int, ...]) -> Architecture:
    """Stages of one family; igcv2 with two factors that divide the width, so that it is strict."""
    stages, before = [], 8
    for width, depth in zip(widths, depths, strict=True):
        stages.append(stage(FAMILIES[family], before, width, depth))
        before = width
    return network(problem, 8, stages)


def space(trial: Any, problem: Problem) -> Architecture:
    """Eight parameters, all asked for in each trial."""
    family = trial.suggest_categorical("family", ("xception", "dense"))
    widths = tuple(8 * trial.suggest_int(f"width{s}", 1, 6) for s in range(3))
    depths = tuple(trial.suggest_int(f"depth{s}", 1, 4) for s in range(3))
    trial.suggest_float("rank", 0.0, 1.0)
    return make(problem, family, widths, depths)


def tiny_space(trial: Any, problem: Problem) -> Architecture:
    """Four networks in all."""
    return make(problem, "xception", (8 * trial.suggest_int("width", 1, 2),), (trial.suggest_int("depth", 1, 2),))


def moody_space(trial: Any, problem: Problem) -> Architecture:
    """Refuses half of its proposals before it has asked for everything."""
    if trial.suggest_categorical("mood", ("good", "bad")) == "bad":
        raise UsageError("in a bad mood")
    return space(trial, problem)


def macs_table(setting: LatencySetting | None = None) -> LatencyTable:
    """Predicts a millisecond for a million MACs."""
    fit = tuple(1e-6 * name.endswith("macs") for name in FEATURES)
    return LatencyTable(setting or LatencySetting(), {}, (fit, fit))


def accuracy(architecture: Architecture, epoch: int) -> float:
    """A learnable, deterministic figure in (0, 1): wide first stages are good; rises with the epochs."""
    noise = int.from_bytes(hashlib.sha256(architecture.hash.encode()).digest()[:2], "big") / 65536
    return (0.5 + 0.4 * min(architecture.params, 200_000) / 200_000 + 0.05 * noise) * (1 - 0.5**epoch)


class FakeTrainer:
    """Counts epochs instead of training; its checkpoint holds their curve."""

    def __init__(self, spec: WorkerSpec) -> None:
        if "FAKE_EXIT" in os.environ:
            os._exit(7)
        if "FAKE_REFUSE" in os.environ:
            raise UsageError(os.environ["FAKE_REFUSE"])
        recipe = Recipe(epochs=spec.epochs or 3) if spec.recipe is None else spec.recipe
        sizes = {"train": 1000, "validation": 100, "test": 100}
        self.facts = DataFacts("fake", 8, 1, 10, **sizes, recipe=recipe.to_dict(), threads=spec.threads)

    def time_step(self, job: Job) -> float:
        return 0.01

    def train(
        self, job: Job, on_epoch: Callable[[dict[str, Any]], bool], on_note: Callable[[str], None]
    ) -> dict[str, Any]:
        architecture, checkpoint, stopped = architecture_of(job), Path(job.checkpoint), False
        if architecture.hash.startswith(tuple(os.environ.get("FAKE_DIVERGE", "-").split(","))):
            raise UsageError("loss is not finite at step 3")
        if "FAKE_NOTE" in os.environ:
            on_note(os.environ["FAKE_NOTE"])
        curve = json.loads(checkpoint.read_text()) if checkpoint.exists() else []
        for record in curve:
            stopped = stopped or not on_epoch(record)
        while len(curve) < job.recipe["epochs"] and not stopped:
            time.sleep(float(os.environ.get("FAKE_EPOCH", "0")))
            epoch = len(curve) + 1
            _log(f"{architecture.hash} {epoch} {os.getpid()}")
            if job.attempt == 1 and architecture.hash.startswith(tuple(os.environ.get("FAKE_KILL", "-").split(","))):
                os.kill(os.getpid(), signal.SIGKILL)
            curve.append({"epoch": epoch, "validation_accuracy": accuracy(architecture, epoch), "seconds": 0.01})
            draft = checkpoint.with_suffix(".new")
            draft.write_text(json.dumps(curve))
            os.replace(draft, checkpoint)
            stopped = not on_epoch(curve[-1])
        last = curve[-1]["validation_accuracy"]
        result = {"accuracy": last, "epochs": len(curve), "curve": curve, "seconds": 0.01 * len(curve)}
        return result | {"stopped": stopped and len(curve) < job.recipe["epochs"], "device": "cpu", "threads": 1}


def _log(line: str) -> None:
    if path := os.environ.get("FAKE_LOG"):
        with open(path, "a") as file:
            file.write(line + "\n")
