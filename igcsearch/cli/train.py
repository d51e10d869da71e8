"""Commands that run a network on images: train (writes an entry) and evaluate (reads one)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..wording import clock, percent, plural
from . import options
from .models import Found, find
from .options import AsJson, Model
from .output import print_json, say

if TYPE_CHECKING:
    from ..spec import Architecture
    from ..training import ImageData, TrainResult


def train(
    network: Model,
    data: options.Data,
    out: Annotated[
        str, typer.Option("--out", metavar="DIR", help="The entry to write; its last part is the network's name.")
    ],
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Start from the entry's weights instead of from scratch.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an entry that is in --out already.")] = False,
    seed: options.Seed = 0,
    data_root: options.DataRoot = None,
    download: options.Download = False,
    train_images: options.TrainImages = None,
    image_size: options.ImageSize = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    lr: options.LearningRate = None,
    weight_decay: options.WeightDecay = None,
    label_smoothing: options.LabelSmoothing = None,
    precision: options.Precision = None,
    as_json: AsJson = False,
) -> None:
    """Train one network and write it as an entry, with its accuracy on the test split.

    The network takes the images' size, channels and classes where they differ from its own. A checkpoint is written every
    epoch beside DIR (DIR.partial), so the same command goes on after an interruption.

    Example: igcsearch train architecture.json --data digits --out my-network --epochs 40
    """
    from ..entries import check_target

    folder = Path(out).expanduser()
    check_target(folder, overwrite=overwrite)
    found = find(network)
    if pretrained and found.entry is None:
        raise UsageError(f"--pretrained needs an entry with weights; {network!r} is an architecture alone")
    from ..training import TrainingDiverged, default_recipe, load_data, resolve_device
    from ..training import train as train_network

    where = resolve_device(device)
    images = load_data(options.data_spec(data, data_root, download, train_images, image_size))
    recipe = default_recipe(
        images,
        epochs,
        seed,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        precision=precision,
    )
    architecture = adapt(found.architecture, images)
    initial = _pretrained_state(found, images) if pretrained else None
    checkpoint = folder.with_name(folder.name + ".partial") / "checkpoint.safetensors"
    _make_folder(checkpoint.parent)
    if architecture != found.architecture:
        size = f"{images.in_channels} x {images.image_size} x {images.image_size} images"
        say(f"the network is taken for {size} and {images.num_classes} classes")
    work = f"{plural(recipe.epochs, 'epoch')} of {plural(len(images.train.labels), 'image')}"
    say(f"device {where}; {work}; {architecture.params:,} parameters")

    def show(epoch: Any) -> None:
        loss = f"loss {epoch.train_loss:.4f}, " if epoch.train_loss is not None else ""
        say(
            f"epoch {epoch.epoch}/{recipe.epochs}: {loss}validation {percent(epoch.validation_accuracy)}, {clock(epoch.seconds)}"
        )

    try:
        result = train_network(
            architecture,
            images,
            recipe,
            device=device,
            threads=threads,
            checkpoint=checkpoint,
            on_epoch=show,
            initial_state=initial,
        )
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from the last whole epoch")
        raise
    except TrainingDiverged as error:
        raise UsageError(f"training diverged: {error}; try a smaller --lr than {recipe.lr:g}") from None
    written = _write(folder, result, images, found, overwrite, seed, pretrained)
    shutil.rmtree(checkpoint.parent, ignore_errors=True)
    if as_json:
        print_json(written)
    else:
        validation = percent(result.validation_accuracy)
        print(f"test accuracy {percent(written['accuracy'])} of {written['n']} images (validation {validation})")
        print(f"entry: {folder}")


def evaluate(
    network: Model,
    data: options.Data,
    data_root: options.DataRoot = None,
    download: options.Download = False,
    device: options.Device = "auto",
    threads: options.Threads = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", parser=options.count, metavar="N", help="Images at once.")
    ] = 512,
    as_json: AsJson = False,
) -> None:
    """Measure a network's accuracy on the test split of a data set, with the network's own input size and normalisation.

    Accuracy is a fraction in --json. Example: igcsearch evaluate NAME --data digits
    """
    found = find(network)
    if found.entry is None:
        raise UsageError(
            f"evaluate needs an entry with weights; {network!r} is an architecture alone; 'igcsearch train' makes one of it"
        )
    from ..entries import load
    from ..training import evaluate as evaluate_network
    from ..training import load_data, resolve_device

    where = resolve_device(device)
    spec = options.data_spec(data, data_root, download, image_size=found.architecture.image_size)
    images = load_data(spec)
    _check_fits(found, images)
    model = load(found.entry.path)
    names = found.entry.metrics.get("class_names") or []
    if names and list(names) != list(images.class_names):
        say(f"note: the classes of {images.name} have other names than those that '{found.name}' was trained on")
    say(f"device {where}; {len(images.test.labels)} test images")
    own: dict[str, Any] = {
        name: tuple(found.entry.metrics[name]) for name in ("mean", "std") if found.entry.metrics.get(name)
    }
    accuracy, n = evaluate_network(model, images, device=device, batch_size=batch_size, threads=threads, **own)
    if as_json:
        print_json({"accuracy": accuracy, "n": n, "name": found.name, "data": images.name, "split": "test"})
    else:
        print(f"test accuracy {percent(accuracy)} of {n} images")


def adapt(architecture: Architecture, images: ImageData) -> Architecture:
    """The network for these images: their size, channels and number of classes."""
    return architecture.with_(
        num_classes=images.num_classes, in_channels=images.in_channels, image_size=images.image_size
    )


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


def _check_fits(found: Found, images: ImageData) -> None:
    architecture = found.architecture
    if images.in_channels != architecture.in_channels:
        raise UsageError(
            f"network '{found.name}' reads {architecture.in_channels} channels, data {images.name} has {images.in_channels}; "
            "evaluate it on data of its own kind, or train it on these with 'igcsearch train --pretrained'"
        )
    if images.num_classes != architecture.num_classes:
        raise UsageError(
            f"network '{found.name}' knows {architecture.num_classes} classes, data {images.name} has {images.num_classes}; "
            "evaluate it on data of its own kind, or train it on these with 'igcsearch train --pretrained'"
        )


def _write(
    folder: Path, result: TrainResult, images: ImageData, found: Found, overwrite: bool, seed: int, pretrained: bool
) -> dict[str, Any]:
    """Evaluate on the test split once and write the entry; what the command prints."""
    from ..entries import write_entry
    from ..nn import build
    from ..publish import entry_metrics
    from ..training import evaluate as evaluate_network

    model = build(result.architecture)
    model.load_state_dict(result.state_dict)
    accuracy, n = evaluate_network(model, images, device=str(result.device))
    run = {
        "seed": seed,
        "validation_accuracy": result.validation_accuracy,
        "test_accuracy": accuracy,
        "seconds": result.seconds,
    }
    origin = {"command": "train", "network": found.name, "pretrained": pretrained}
    metrics = entry_metrics(result.architecture, images, result.recipe, [run], provenance=origin)
    entry = write_entry(folder, result.architecture, result.state_dict, metrics, overwrite=overwrite)
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
