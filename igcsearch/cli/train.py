"""Commands that run a network on images: train (writes an entry) and evaluate (reads one)."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..machine import available_cores, thread_settings
from ..wording import percent, plural
from . import options
from .models import Found, find
from .options import AsJson, Model
from .output import print_json, say

if TYPE_CHECKING:
    from torch import nn

    from ..training import ImageData

_PLANNED_BATCH = 64  # images; larger batches have the same plans, and measuring takes longer than it saves


def train(
    network: Model,
    data: options.Data,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Start from the entry's weights instead of from scratch.")
    ] = False,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="The entry to write; its last part is the network's name. Default: NETWORK-DATA, here.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an entry that is in --out already.")] = False,
    seed: options.Seed = 0,
    data_root: options.DataRoot = None,
    download: options.Download = False,
    train_images: options.TrainImages = None,
    image_size: options.ImageSize = None,
    device: options.Device = "auto",
    devices: Annotated[
        int | None,
        typer.Option(
            "--devices",
            parser=options.count,
            metavar="N",
            help="Train in so many processes on this machine, each on a GPU of its own or on a share of the CPU's cores.",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    local_statistics: Annotated[
        bool,
        typer.Option(
            "--local-statistics",
            help="Of several devices, each has its own batch norm statistics; by default they are the whole batch's.",
            rich_help_panel=options.DATA,
        ),
    ] = False,
    threads: options.Threads = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    accumulate: Annotated[
        int | None,
        typer.Option(
            "--accumulate",
            parser=options.count,
            metavar="N",
            help="Cut each batch into so many that are computed one after another, for memory; batch norm sees one at a time.",
            rich_help_panel=options.RECIPE,
        ),
    ] = None,
    lr: options.LearningRate = None,
    weight_decay: options.WeightDecay = None,
    label_smoothing: options.LabelSmoothing = None,
    precision: options.Precision = None,
    shuffle_way: options.ShuffleWay = None,
    soft_share: options.SoftShare = None,
    shuffle_temperature: options.ShuffleTemperature = None,
    shuffle_penalty: options.ShufflePenalty = None,
    max_params: Annotated[
        int | None,
        typer.Option(
            "--max-params",
            parser=options.count,
            metavar="N",
            help="Parameters at most (20k), where group counts are learned.",
            rich_help_panel=options.RECIPE,
        ),
    ] = None,
    max_macs: Annotated[
        int | None,
        typer.Option(
            "--max-macs",
            parser=options.count,
            metavar="N",
            help="Multiply-adds of one image at most (2M), where group counts are learned.",
            rich_help_panel=options.RECIPE,
        ),
    ] = None,
    groups_temperature: options.GroupsTemperature = None,
    groups_penalty: options.GroupsPenalty = None,
    as_json: AsJson = False,
) -> None:
    """Train one network and write it as an entry, with its accuracy on the test split.

    The network takes the images' size, channels and classes where they differ from its own. A checkpoint is written every
    epoch beside DIR (DIR.partial), so the same command goes on after an interruption, with any number of devices. --devices N
    gives, to rounding, the network that one device gives; under torchrun the command is the same without it.

    Example: igcsearch train architecture.json --data digits --out my-network --epochs 40
    """
    from .training import Training, run

    training = Training(
        network=network,
        out=out,
        data=options.data_spec(data, data_root, download, train_images, image_size),
        epochs=epochs,
        seed=seed,
        entries={
            "batch_size": batch_size,
            "accumulate": accumulate,
            "lr": lr,
            "weight_decay": weight_decay,
            "label_smoothing": label_smoothing,
            "precision": precision,
            "shuffle_way": shuffle_way,
            "soft_share": soft_share,
            "shuffle_temperature": shuffle_temperature,
            "shuffle_penalty": shuffle_penalty,
            "max_params": max_params,
            "max_macs": max_macs,
            "groups_temperature": groups_temperature,
            "groups_penalty": groups_penalty,
        },
        device=device,
        threads=threads,
        pretrained=pretrained,
        overwrite=overwrite,
        global_statistics=not local_statistics,
    )
    os.environ.update(thread_settings(threads or available_cores()))  # it trains in this process
    written = run(training, devices)
    if written is None:
        return
    if as_json:
        print_json(written)
    else:
        validation = percent(written["validation_accuracy"])
        print(f"test accuracy {percent(written['accuracy'])} of {written['n']} images (validation {validation})")
        print(f"entry: {training.folder}")


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
    optimize: Annotated[
        bool, typer.Option("--optimize", help="Run it optimized for inference (same results to rounding).")
    ] = False,
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
    from ..nn.measure import example_images
    from ..training import evaluate as evaluate_network
    from ..training import load_data, resolve_device
    from ..training.device import repeatable

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
    ready: nn.Module = model.to(where)
    if optimize:
        begin, batch = time.monotonic(), min(batch_size, len(images.test.labels), _PLANNED_BATCH)
        with repeatable(where, threads):
            ready = model.optimize_for_inference(example_images(model, batch).to(where))
        say(f"plans measured on {plural(batch, 'image')} in {time.monotonic() - begin:.1f} s")
    accuracy, n = evaluate_network(ready, images, device=device, batch_size=batch_size, threads=threads, **own)
    if as_json:
        print_json({"accuracy": accuracy, "n": n, "name": found.name, "data": images.name, "split": "test"})
    else:
        print(f"test accuracy {percent(accuracy)} of {n} images")


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
