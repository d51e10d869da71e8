"""Training that goes on from given weights, and what is measured on images behind and before it. Floor 7."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from ..errors import UsageError
from ..nn.graph import GraphNetwork
from ..spec.graph import GraphArchitecture
from ..training import Epoch, ImageData, Recipe, TrainingDiverged, TrainResult, default_recipe, evaluate, train
from ..training.augment import Normalise
from ..training.batches import Batches
from ..training.callback import Callback
from ..training.distillation import Distillation
from ..training.recipe import FINE_TUNING_LR
from ..wording import clock, percent

CALIBRATION = 1024  # training images for gradients, and for the statistics of batch norms
IMPORTANCES = ("lost", "sensitivity")  # what is minimised: the lost share, or the measured rise of the loss
SENSITIVITY = 256  # training images for losses, of which there are many


@dataclass(frozen=True)
class FineTuning:
    """How to go on training behind the pruning.

    Args:
        seed: of order and augmentation.
        entries: of the recipe; None where the default is wanted.
        device, threads: as `train` takes them.
        distillation: makes that of a training; None: labels alone teach.
    """

    seed: int
    entries: Mapping[str, Any]
    device: str = "auto"
    threads: int | None = None
    distillation: Callable[[], Distillation] | None = None

    @property
    def taught(self) -> Any:
        """JSON data: the teacher's identity; None where there is none."""
        return None if self.distillation is None else self.distillation().identity()

    def recipe(self, images: ImageData, epochs: int) -> Recipe:
        """The recipe of so many epochs, or of one where there are none."""
        entries = {name: value for name, value in self.entries.items() if value is not None}
        return default_recipe(images, max(epochs, 1), self.seed, **{"lr": FINE_TUNING_LR, **entries})


def fine_tune(
    architecture: GraphArchitecture,
    state: dict[str, Tensor],
    images: ImageData,
    epochs: int,
    tuning: FineTuning,
    checkpoint: Path,
    say: Callable[[str], None] = lambda line: None,
    callbacks: Sequence[Callback] = (),
) -> TrainResult:
    """Train from these weights on; interrupted, the same call goes on from the last whole epoch.

    Args:
        checkpoint: file; its folder is made.
        say: is given a line for each epoch.
        callbacks: what trains along.

    Raises:
        UsageError: training diverged, or a file that cannot be written.
    """
    recipe = tuning.recipe(images, epochs)

    def show(epoch: Epoch) -> None:
        loss = f"loss {epoch.train_loss:.4f}, " if epoch.train_loss is not None else ""
        right = f"validation {percent(epoch.validation_accuracy)}, {clock(epoch.seconds)}"
        say(f"epoch {epoch.epoch}/{epochs}: {loss}{right}")

    try:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        return train(
            architecture,
            images,
            recipe,
            device=tuning.device,
            threads=tuning.threads,
            checkpoint=checkpoint,
            on_epoch=show,
            initial_state=state,
            callbacks=[*callbacks, *([] if tuning.distillation is None else [tuning.distillation()])],
        )
    except OSError as error:
        raise UsageError(f"{checkpoint.parent} cannot be written: {error.strerror}; choose another --out") from None
    except TrainingDiverged as error:
        raise UsageError(f"fine-tuning diverged: {error}; try a smaller --lr than {recipe.lr:g}") from None


def recalibrated(
    architecture: GraphArchitecture, state: Mapping[str, Tensor], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """The state dict with running means and variances of the batch norms taken anew from these images.

    Where much of a layer's weights is gone its outputs are smaller, and the old statistics mislead all that stands behind it.

    Args:
        batches: images (N, C, H, W), normalised, and labels; at least one.
    """
    network = GraphNetwork(architecture)
    network.load_state_dict(dict(state))
    update_bn((images for images, _ in batches), network)
    return {name: tensor.detach() for name, tensor in network.state_dict().items()}


def accuracy(
    architecture: GraphArchitecture, state: Mapping[str, Tensor], images: ImageData, tuning: FineTuning
) -> float:
    """On the test split, a fraction."""
    network = GraphNetwork(architecture).eval()
    network.load_state_dict(dict(state))
    return evaluate(network, images, device=tuning.device, threads=tuning.threads, mean=images.mean, std=images.std)[0]


def calibration(images: ImageData, count: int = CALIBRATION) -> list[tuple[Tensor, Tensor]]:
    """About so many training images at random, normalised, with their labels; all where there are fewer.

    Raises:
        UsageError: there are no training images.
    """
    if not len(images.train):
        raise UsageError(f"data {images.name} has no training images to measure on; give some, or --criterion l2")
    place = torch.device("cpu")
    normalise = Normalise(images.mean, images.std, place, channels_last=False)
    found: list[tuple[Tensor, Tensor]] = []
    with Batches({"train": images.train}, place, 1) as batches:
        for batch in batches.training("train", 128, 0, 0):
            found.append((normalise(batch.images), batch.labels))
            if sum(len(labels) for _, labels in found) >= count:
                break
    return found
