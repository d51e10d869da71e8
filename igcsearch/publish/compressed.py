"""What compression gives: fine-tuned, measured before and after, and written as an entry. Floor 7."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..compress.permute import Permuted
from ..compress.source import Source
from ..entries import write_entry
from ..errors import UsageError
from ..nn.graph import GraphNetwork
from ..spec.graph import GraphArchitecture
from ..training import Epoch, ImageData, TrainingDiverged, default_recipe, evaluate, train
from ..training.augment import Normalise
from ..training.batches import Batches
from ..wording import clock, percent
from .facts import entry_metrics, measured_cost

LR = 0.05  # a sixth of what trains from scratch
CALIBRATION = 1024  # training images for gradients
SENSITIVITY = 256  # training images for losses, of which there are many


@dataclass(frozen=True)
class FineTuning:
    """How to go on training behind the pruning.

    Args:
        epochs: 0 for none.
        seed: of order and augmentation.
        entries: of the recipe; None where the default is wanted.
        device, threads: as `train` takes them.
    """

    epochs: int
    seed: int
    entries: Mapping[str, Any]
    device: str = "auto"
    threads: int | None = None


def finish(
    given: Source,
    found: Permuted,
    images: ImageData | None,
    folder: Path,
    tuning: FineTuning,
    *,
    overwrite: bool,
    origin: Mapping[str, Any],
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Fine-tune, measure, write the entry; interrupted, the same call goes on from the last whole epoch.

    Args:
        images: normalised as the network wants them; None: nothing is measured but cost and time.
        folder: of the entry; the checkpoint is beside it, in FOLDER.partial.
        origin: source, method, criterion, budget: for the record.
        say: is given a line for each epoch.

    Returns:
        What `igcsearch compress --json` prints.

    Raises:
        UsageError: training diverged, or a folder that cannot be written.
    """
    state, run = found.state, {"seed": tuning.seed, "validation_accuracy": None, "test_accuracy": None, "seconds": 0.0}
    before = pruned = tuned = recipe = None
    if images is not None:
        before = accuracy(given.graph, given.state, images, tuning)
        pruned = accuracy(found.architecture, state, images, tuning)
        say(f"test accuracy {percent(before)} dense, {percent(pruned)} pruned")
        entries = {name: value for name, value in tuning.entries.items() if value is not None}
        recipe = default_recipe(images, max(tuning.epochs, 1), tuning.seed, **{"lr": LR, **entries})
    partial = folder.with_name(folder.name + ".partial")
    if images is not None and recipe is not None and tuning.epochs:

        def show(epoch: Epoch) -> None:
            loss = f"loss {epoch.train_loss:.4f}, " if epoch.train_loss is not None else ""
            right = f"validation {percent(epoch.validation_accuracy)}, {clock(epoch.seconds)}"
            say(f"epoch {epoch.epoch}/{tuning.epochs}: {loss}{right}")

        try:
            partial.mkdir(parents=True, exist_ok=True)
            result = train(
                found.architecture,
                images,
                recipe,
                device=tuning.device,
                threads=tuning.threads,
                checkpoint=partial / f"checkpoint-{found.architecture.hash}.safetensors",
                on_epoch=show,
                initial_state=state,
            )
        except OSError as error:
            raise UsageError(f"{partial} cannot be written: {error.strerror}; choose another --out") from None
        except TrainingDiverged as error:
            raise UsageError(f"fine-tuning diverged: {error}; try a smaller --lr than {recipe.lr:g}") from None
        state = result.state_dict
        tuned = accuracy(found.architecture, state, images, tuning)
        run |= {"validation_accuracy": result.validation_accuracy, "seconds": result.seconds}
    cost = measured_cost(found.architecture)
    record = {
        "params": found.architecture.params,
        "macs": found.architecture.macs,
        "params_before": given.graph.params,
        "macs_before": given.graph.macs,
        "kept": found.kept,
        "gathers": found.gathers,
        "tradeoff": found.tradeoff,
        "accuracy_before": before,
        "accuracy_pruned": pruned,
        "accuracy_finetuned": tuned,
        "latency_ms": cost["latency"]["median_ms"],
        "latency_ms_before": measured_cost(given.graph)["latency"]["median_ms"],
        "max_rel_diff_masked_vs_converted": found.difference,
    }
    provenance = {
        "command": "compress",
        **origin,
        "configuration": found.configuration,
        **record,
        "groups": {row["layer"]: row["groups"] for row in found.layers},
    }
    if images is not None and recipe is not None:
        run["test_accuracy"] = pruned if tuned is None else tuned
        metrics = entry_metrics(found.architecture, images, recipe, [run], provenance=provenance, cost=cost)
        if not tuning.epochs:
            metrics |= {"recipe": {}, "epochs": 0}
    else:
        size = found.architecture.image_size
        metrics = {"family": found.architecture.family, "input_size": [found.architecture.in_channels, size, size]}
        metrics |= {"mean": given.mean, "std": given.std, **cost, "provenance": provenance}
    write_entry(folder, found.architecture, state, metrics, overwrite=overwrite)
    shutil.rmtree(partial, ignore_errors=True)
    return {**record, "path": str(folder), "layers": found.layers}


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
