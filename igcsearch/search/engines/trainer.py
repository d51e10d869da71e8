"""The worker's real trainer: igcsearch.training on one device, or on several.

Imports torch, as nothing else here but search/training.py and what only Ray's workers import.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from igcsearch import __version__
from igcsearch.search.jobs import DataFacts, Job
from igcsearch.search.training import train_in_study
from igcsearch.training import Epoch, ImageData, Recipe, default_recipe, load_data, resolve_device, time_step
from igcsearch.training.recipe import FINE_TUNING_LR

from .worker import WorkerSpec, architecture_of

if TYPE_CHECKING:
    from igcsearch.training.distributed import Group


class Trainer:
    """Loads the data once, then trains one candidate after another.

    Args:
        spec: of the worker.
        data: the images, where they are loaded already (`load`, shared by the workers of a Ray node).

    Raises:
        UsageError: data, a device or a network to begin from that cannot be used.
    """

    def __init__(self, spec: WorkerSpec, data: ImageData | None = None) -> None:
        torch.set_num_threads(spec.threads)
        self._device = resolve_device(spec.device)
        self._threads = spec.threads
        self._start = None if spec.start is None else spec.start.read()
        data = self.load(spec) if data is None else data
        self._data = data = data if self._start is None else self._start.images(data)
        given = {**({} if self._start is None else {"lr": FINE_TUNING_LR}), **spec.given}
        recipe = default_recipe(data, **given) if spec.recipe is None else spec.recipe.resolve(data)
        self.facts = DataFacts(
            name=data.name,
            image_size=data.image_size,
            in_channels=data.in_channels,
            num_classes=data.num_classes,
            train=len(data.train.labels),
            validation=len(data.validation.labels),
            test=len(data.test.labels),
            recipe=recipe.to_dict(),
            device=str(self._device),
            threads=spec.threads,
            fingerprint=data.fingerprint,
            versions={"igcsearch": __version__, "python": platform.python_version(), "torch": str(torch.__version__)},
        )

    @staticmethod
    def load(spec: WorkerSpec) -> ImageData:
        """The images, to be given to several trainers."""
        return load_data(spec.data)

    def time_step(self, job: Job) -> float:
        """Seconds of one training step of the job's network."""
        recipe = Recipe.from_dict(job.recipe)
        return time_step(architecture_of(job), self._data, recipe, device=str(self._device), threads=self._threads)

    def train(
        self,
        job: Job,
        on_epoch: Callable[[dict[str, Any]], bool],
        on_note: Callable[[str], None],
        group: Group | None = None,
    ) -> dict[str, Any]:
        """Train the job's network, from its checkpoint where there is one, alone or in a group. The result as plain data."""

        def told(epoch: Epoch) -> bool:
            return on_epoch(epoch.to_dict())

        architecture = architecture_of(job)
        result = train_in_study(
            architecture,
            self._data,
            Recipe.from_dict(job.recipe),
            device=str(self._device),
            threads=self._threads,
            checkpoint=Path(job.checkpoint),
            on_epoch=told,
            on_note=on_note,
            group=group,
            initial_state=None if self._start is None else self._start.state(architecture),
        )
        for note in result.notes:
            on_note(f"nothing to learn, interleaved instead: {note}")
        learned = result.architecture.to_dict() if result.architecture.hash != architecture.hash else None
        return {
            "accuracy": float(result.validation_accuracy),
            "epochs": int(result.epochs),
            "curve": [dict(epoch) for epoch in result.curve],
            "seconds": float(result.seconds),
            "stopped": bool(result.stopped),
            "device": str(result.device),
            "threads": self._threads,
            "architecture": learned,
            "learned": result.learned,
        }
