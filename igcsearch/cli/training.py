"""The work of `igcsearch train`: in this process, or in each of several; of those the first alone speaks and writes."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from ..errors import UsageError
from ..machine import available_cores, keep_freed_memory
from ..wording import clock, percent, plural
from .models import Found, find
from .output import say

if TYPE_CHECKING:
    from ..spec import Architecture
    from ..training import DataSpec, ImageData, Recipe, TrainResult
    from ..training.distributed import Group

T = TypeVar("T")


@dataclass(frozen=True)
class Training:
    """What the command was asked for; it travels to the processes.

    Attributes:
        network, out, device, threads, pretrained, overwrite: as given.
        data: which images.
        epochs, seed, entries: of the recipe; None where the default is wanted.
        global_statistics: batch norm over all processes.
    """

    network: str
    out: str | None
    data: DataSpec
    epochs: int | None
    seed: int
    entries: dict[str, Any]
    device: str
    threads: int | None
    pretrained: bool
    overwrite: bool
    global_statistics: bool

    @property
    def folder(self) -> Path:
        """Of the entry."""
        if self.out:
            return Path(self.out).expanduser()
        return Path(f"{find(self.network).name}-{Path(self.data.name).stem}")

    @property
    def partial(self) -> Path:
        """Of the checkpoint, beside the entry's."""
        return self.folder.with_name(self.folder.name + ".partial")


def run(training: Training, devices: int | None) -> dict[str, Any] | None:
    """Train in this process, in several that are started here, or as one of torchrun's.

    Returns:
        What the command prints; None in those of torchrun's processes that keep silent.
    """
    from ..training.distributed import in_environment

    keep_freed_memory()
    if not in_environment():
        written = _run(training, devices)
    elif os.environ["RANK"] == "0":
        written = train_in_group(training, devices)
    else:
        try:
            return train_in_group(training, devices)
        except UsageError:
            raise typer.Exit(2) from None  # the first process says why
    shutil.rmtree(training.partial, ignore_errors=True)
    return written


def _run(training: Training, devices: int | None) -> dict[str, Any] | None:
    try:
        if devices in (None, 1):
            return _train(training, None)
        import torch

        from ..training import resolve_device
        from ..training.distributed import check_devices
        from ..training.launch import launch

        check(training)
        if training.device in ("auto", "cuda"):
            check_devices(devices, resolve_device(training.device))
        training = replace(training, threads=training.threads or max(1, torch.get_num_threads() // devices))
        return launch(train_in_group, training, processes=devices, threads=training.threads, on_restart=say)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from the last whole epoch")
        raise


def train_in_group(training: Training, devices: int | None = None) -> dict[str, Any] | None:
    """Train in one of several processes, as torchrun's variables say; None but in the first.

    Args:
        training: the same in all of them.
        devices: --devices, which must then be their number.
    """
    from ..machine import end_with_parent
    from ..training.distributed import Group

    if "TORCHELASTIC_RUN_ID" in os.environ:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a process that waits for another does not hear Python's
        end_with_parent(os.getppid())
    group = Group.from_environment(training.device, global_statistics=training.global_statistics)
    if devices not in (None, group.world_size):
        raise UsageError(f"--devices {devices}, but the launcher started {group.world_size} processes; leave it out")
    with group.joined():
        return _train(training, group)


def check(training: Training) -> Found:
    """The network, once it is clear that it and the place of the entry can be used."""
    from ..entries import check_target

    if training.out:
        check_target(training.folder, overwrite=training.overwrite)
    found = find(training.network)
    if not training.out:
        check_target(training.folder, overwrite=training.overwrite)
    if training.pretrained and found.entry is None:
        raise UsageError(f"--pretrained needs an entry with weights; {training.network!r} is an architecture alone")
    return found


def adapt(architecture: Architecture, images: ImageData) -> Architecture:
    """The network for these images: their size, channels and number of classes."""
    return architecture.with_(
        num_classes=images.num_classes, in_channels=images.in_channels, image_size=images.image_size
    )


def _train(training: Training, group: Group | None) -> dict[str, Any] | None:
    found = _agree(group, lambda: check(training))
    from ..training import TrainingDiverged, default_recipe, load_data, resolve_device, train

    first = group is None or group.rank == 0
    resolve_device(training.device)
    images = _agree(group, lambda: load_data(training.data) if first else None)  # it may have to download them
    images = _agree(group, lambda: images or load_data(training.data))
    recipe = default_recipe(images, training.epochs, training.seed, **training.entries)
    architecture = adapt(found.architecture, images)
    initial = _agree(group, lambda: _pretrained_state(found, images) if training.pretrained else None)
    _agree(group, (lambda: _make_folder(training.partial)) if first else (lambda: None))
    if first:
        _announce(training, group, found, architecture, images, recipe)

    def show(epoch: Any) -> None:
        loss = f"loss {epoch.train_loss:.4f}, " if epoch.train_loss is not None else ""
        say(
            f"epoch {epoch.epoch}/{recipe.epochs}: {loss}validation {percent(epoch.validation_accuracy)}, {clock(epoch.seconds)}"
        )

    try:
        result = train(
            architecture,
            images,
            recipe,
            device=training.device,
            threads=training.threads if group is None else _threads(training.threads),
            checkpoint=training.partial / "checkpoint.safetensors",
            on_epoch=show,
            initial_state=initial,
            group=group,
        )
    except TrainingDiverged as error:
        raise UsageError(f"training diverged: {error}; try a smaller --lr than {recipe.lr:g}") from None
    return _write(training, result, images, found, group) if first else None


def _agree(group: Group | None, work: Callable[[], T]) -> T:
    """What `work` gives; what it raises in one process is raised in all."""
    return work() if group is None else group.agree(work)


def _threads(given: int | None) -> int:
    """Threads of one of several processes: the machine's cores shared out."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ["WORLD_SIZE"])
    return given or max(1, available_cores() // here)


def _announce(
    training: Training, group: Group | None, found: Found, architecture: Architecture, images: ImageData, recipe: Recipe
) -> None:
    from ..spec.grouping import questions
    from ..spec.learning import gaps
    from ..training import resolve_device

    if architecture != found.architecture:
        size = f"{images.in_channels} x {images.image_size} x {images.image_size} images"
        say(f"the network is taken for {size} and {images.num_classes} classes")
    if group is None:
        where = f"device {resolve_device(training.device)}"
    else:
        kind = group.device.partition(":")[0]
        where = f"{plural(group.world_size, 'device')} ({kind}, {group.backend})"
    work = f"{plural(recipe.epochs, 'epoch')} of {plural(len(images.train.labels), 'image')}"
    say(f"{where}; {work}; {architecture.params:,} parameters")
    asked, fixed = questions(architecture)
    for reason in fixed:
        say(f"note: no group counts to learn: {reason}")
    learnable, reasons = gaps(architecture)
    for reason in reasons:
        say(f"note: nothing to learn, interleaved instead: {reason}")
    if learnable or asked:
        soft = plural(recipe.learning.soft_epochs(recipe.epochs), "epoch")
        what = [f"{plural(len(learnable), 'shuffle')} ({recipe.shuffle_way})"] if learnable else []
        what += [f"the group counts of {plural(len(asked), 'block')}"] if asked else []
        say(f"learned in the first {soft}: {', '.join(what)}")


def _pretrained_state(found: Found, images: ImageData) -> dict[str, Any]:
    """The entry's weights; layers for other channels or classes start anew."""
    from ..entries import create_model

    assert found.entry is not None
    model = create_model(
        str(found.entry.path), pretrained=True, num_classes=images.num_classes, in_chans=images.in_channels
    )
    return dict(model.state_dict())


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"output folder '{folder.parent}' cannot be written: {error.strerror}; choose another --out"
        ) from None


def _write(
    training: Training, result: TrainResult, images: ImageData, found: Found, group: Group | None
) -> dict[str, Any]:
    """Evaluate on the test split once and write the entry; what the command prints."""
    from ..entries import write_entry
    from ..nn import build
    from ..publish import entry_metrics
    from ..training import evaluate

    model = build(result.architecture)
    model.load_state_dict(result.state_dict)
    accuracy, n = evaluate(model, images, device=str(result.device))
    run = {
        "seed": training.seed,
        "validation_accuracy": result.validation_accuracy,
        "test_accuracy": accuracy,
        "seconds": result.seconds,
    }
    origin = {"command": "train", "network": found.name, "pretrained": training.pretrained}
    if group is not None:
        origin["devices"] = group.world_size
    if result.learned is not None:
        origin |= {"shuffles": f"learned ({result.learned['way']})"} if result.learned["gaps"] else {}
        origin |= {"group_counts": "learned"} if result.learned.get("groups") else {}
    metrics = entry_metrics(result.architecture, images, result.recipe, [run], provenance=origin)
    entry = write_entry(training.folder, result.architecture, result.state_dict, metrics, overwrite=training.overwrite)
    counts = {"params": entry.architecture.params, "macs": entry.architecture.macs}
    return {
        "name": entry.name,
        "path": str(entry.path),
        "accuracy": accuracy,
        "n": n,
        "validation_accuracy": result.validation_accuracy,
        "epochs": result.epochs,
        "seconds": result.seconds,
        "device": str(result.device),
        **counts,
    }
