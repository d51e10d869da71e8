"""The command compress: a trained dense network to one of group convolutions, inside a budget. Floor 8."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError, near
from ..machine import available_cores, keep_freed_memory, thread_settings
from ..wording import percent, plural, short
from . import options
from .output import command_line, print_json, print_table, say
from .sizes import parse_size

if TYPE_CHECKING:
    from torch import Tensor

    from ..compress.permute import Permuted
    from ..compress.source import Source
    from ..spec import Architecture
    from ..spec.graph import GraphArchitecture
    from ..training import ImageData

METHODS = ("permute", "auto")
IMPORTANCES = ("lost", "sensitivity")
_HOW = "How it compresses"


@dataclass(frozen=True)
class Limit:
    """A limit: a share of the network's own cost, or a number; the other is None."""

    share: float | None
    number: float | None

    def of(self, whole: float) -> float:
        """The limit where the network itself has `whole`."""
        return whole * self.share if self.number is None and self.share is not None else self.number or 0.0


def limit(text: str) -> Limit:
    """ "50%" of what the network has, or a number such as 20M."""
    if (share := _share(text, "20M")) is not None:
        return share
    try:
        return Limit(None, parse_size(str(text).strip(), ""))
    except UsageError:
        raise UsageError(f"{text!r} is no limit; give a whole number such as 20M, or a share such as 50%") from None


def time_limit(text: str) -> Limit:
    """ "50%" of what the network takes, or milliseconds."""
    if (share := _share(text, "4.5")) is not None:
        return share
    return Limit(None, options.milliseconds(text))


def _share(text: str, example: str) -> Limit | None:
    """None where the text is no percentage."""
    given = str(text).strip()
    if not given.endswith("%"):
        return None
    share = options.number(given[:-1]) / 100
    if not 0 < share <= 1:
        raise UsageError(f"{given!r} is no share; give one above 0 % and up to 100 %, or a number such as {example}")
    return Limit(share, None)


def number_from_0(text: str | int) -> int:
    """A whole number of at least 0."""
    given = str(text).strip()
    if given.startswith("-"):
        raise UsageError(f"{given!r} is negative; give a whole number of at least 0")
    return 0 if given == "0" else parse_size(given, "")


def gather_count(text: str) -> int | None:
    """So many gathers; None for all."""
    try:
        return None if text.strip() == "all" else number_from_0(text)
    except UsageError:
        raise UsageError(f"--gathers {text!r}: give a whole number of at least 0, or all") from None


def compress(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A published entry (name or folder), torchvision:NAME, timm:NAME, or file.py:function (returns an nn.Module).",
            show_default=False,
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help=options.DATA_HELP + " Without it nothing is measured or trained.",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    max_macs: Annotated[
        Limit | None,
        typer.Option(
            "--max-macs", parser=limit, metavar="50%|N", help="Multiply-adds at most: a share of the network's, or 20M."
        ),
    ] = None,
    max_params: Annotated[
        Limit | None,
        typer.Option(
            "--max-params", parser=limit, metavar="50%|N", help="Parameters at most: a share of the network's, or 200k."
        ),
    ] = None,
    max_latency: Annotated[
        Limit | None,
        typer.Option(
            "--max-latency",
            parser=time_limit,
            metavar="50%|MS",
            help="Milliseconds at most, one image on one thread of this machine: a share of the network's, or 4.5.",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="permute|auto",
            help="permute: learned permutations, layers cut into groups.",
            rich_help_panel=_HOW,
        ),
    ] = "permute",
    criterion: Annotated[
        str,
        typer.Option(
            "--criterion",
            metavar="l1|l2|taylor",
            help="What a kernel is worth: a norm, or by gradients on 1,024 images.",
            rich_help_panel=_HOW,
        ),
    ] = "l2",
    importance: Annotated[
        str,
        typer.Option(
            "--importance",
            metavar="lost|sensitivity",
            help="What group counts are chosen by: the share of the criterion lost, or the loss's rise, measured on 256 images.",
            rich_help_panel=_HOW,
        ),
    ] = "lost",
    gathers: Annotated[
        str,
        typer.Option(
            "--gathers",
            metavar="N|all",
            help="So many grouped layers read their channels in an order of their own: keeps more, runs slower.",
            rich_help_panel=_HOW,
        ),
    ] = "0",
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only", metavar="PATTERN", help="Layers to group, as 'layer3.*'; all without it.", rich_help_panel=_HOW
        ),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option("--skip", metavar="PATTERN", help="Layers to leave dense.", rich_help_panel=_HOW)
    ] = None,
    epochs: Annotated[
        int,
        typer.Option(
            "--epochs",
            parser=number_from_0,
            metavar="N",
            help="Of fine-tuning; 0 only prunes and converts.",
            rich_help_panel=options.RECIPE,
        ),
    ] = 5,
    steps: Annotated[
        int,
        typer.Option(
            "--steps",
            parser=options.count,
            metavar="N",
            help="1: pruned at once. More: the budget falls in N steps, fine-tuned after each; --epochs are shared out.",
            rich_help_panel=_HOW,
        ),
    ] = 1,
    recalibrate: Annotated[
        bool,
        typer.Option(
            "--recalibrate/--no-recalibrate",
            help="Statistics of batch norms anew from 1,024 training images behind the pruning.",
            rich_help_panel=_HOW,
        ),
    ] = True,
    weights: Annotated[
        str,
        typer.Option("--weights", metavar="pretrained|none|FILE", help="Of the source; FILE is a safetensors file."),
    ] = "pretrained",
    rename: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="OLD=NEW", help="A prefix of the file's keys, and the network's name for it."),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean",
            metavar="X,X,X",
            help="The source's normalisation; default: its own, else the data's.",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    std: Annotated[
        str | None, typer.Option("--std", metavar="X,X,X", help="As --mean.", rich_help_panel=options.DATA)
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="The entry to write. Default: SOURCE-METHOD, here.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an entry that is in --out already.")] = False,
    seed: options.Seed = 0,
    data_root: options.DataRoot = None,
    download: options.Download = False,
    train_images: options.TrainImages = None,
    image_size: options.ImageSize = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    batch_size: options.BatchSize = None,
    lr: options.LearningRate = None,
    weight_decay: options.WeightDecay = None,
    label_smoothing: options.LabelSmoothing = None,
    precision: options.Precision = None,
    as_json: options.AsJson = False,
) -> None:
    """Make a trained network smaller: its dense convolutions become group convolutions, inside a budget, and it is an entry.

    Channels are put into such orders, and every layer is given such a number of groups, that least is lost; the orders are folded
    into the weights. Then it is fine-tuned. A checkpoint is written every epoch beside DIR, so the same command goes on after an
    interruption.

    Example: igcsearch compress my_net.py:build --weights w.safetensors --data cifar10 --data-root DATA --max-macs 50%
    """
    os.environ.update(thread_settings(threads or available_cores()))  # before torch
    from ..compress.criterion import CRITERIA

    choices = (("method", method, METHODS), ("criterion", criterion, CRITERIA), ("importance", importance, IMPORTANCES))
    for what, value, known in choices:
        if value not in known:
            raise UsageError(f"unknown {what} {value!r}{near(value, known)}; known: {', '.join(known)}")
    if max_macs is None and max_params is None and max_latency is None:
        raise UsageError("no budget: give --max-macs, --max-params, --max-latency or several, as 50% or a number")
    most_gathers = gather_count(gathers)
    if data is None and (epochs or criterion == "taylor" or importance == "sensitivity"):
        raise UsageError(
            "fine-tuning, the criterion taylor and the importance sensitivity need images: give --data, or --epochs 0, "
            "--criterion l2 and --importance lost"
        )
    if steps > 1 and epochs < steps:
        raise UsageError(f"--steps {steps} with --epochs {epochs}: every step needs an epoch; raise --epochs")
    from ..compress.criterion import criteria
    from ..compress.latency import Clock
    from ..compress.permute import chosen_layers, permute
    from ..compress.sensitivity import measured
    from ..compress.source import read_source
    from ..entries import check_target
    from ..publish.compressed import finish, partial_folder
    from ..publish.pruned import falling, pruned
    from ..publish.tuning import SENSITIVITY, FineTuning, calibration, recalibrated
    from ..report import write_compression_page
    from ..spec import Budget
    from ..training.device import resolve_device

    resolve_device(device)
    if out:
        check_target(Path(out).expanduser(), overwrite=overwrite)
    keep_freed_memory()
    images = _images(data, data_root, download, train_images, image_size)
    given = read_source(
        source,
        weights=weights,
        names=_names(rename or [], weights),
        image_size=image_size if images is None else images.image_size,
        in_channels=3 if images is None else images.in_channels,
        num_classes=None if images is None else images.num_classes,
    )
    folder = Path(out or f"{Path(given.name).stem}-{method}").expanduser()
    check_target(folder, overwrite=overwrite)
    images = None if images is None else normalised(images, given, mean, std)
    layers = chosen_layers(given.graph, only or (), skip or ())
    say(f"{given.name}: {_cost(given.graph)}; {plural(len(layers), 'layer')} can be given groups")
    if twice := [node.name for node in given.graph.nodes if node.shares is not None]:
        say(
            f"left dense, as their weights are those of another layer or call: {', '.join(twice)}, and what they share with"
        )
    if alone := sum(convolution.groups > 1 for _, convolution in given.graph.convolutions()):
        say(f"{plural(alone, 'layer')} with groups already stay as they are")
    clock = Clock(given.graph, given.state) if max_latency else None
    budget = Budget(
        params=None if max_params is None else max(1, math.floor(max_params.of(given.graph.params))),
        macs=None if max_macs is None else max(1, math.floor(max_macs.of(given.graph.macs))),
        latency_ms=None if max_latency is None or clock is None else max_latency.of(clock.dense_ms),
    )

    def prune(graph: GraphArchitecture, state: Mapping[str, Tensor], inside: Budget) -> Permuted:
        worth = criteria(graph, state, criterion, calibration(images) if images and criterion == "taylor" else ())
        chosen = {name: worth[name] for name in layers}
        measure = None
        if images and importance == "sensitivity":
            batches = calibration(images, SENSITIVITY)
            measure = partial(measured, graph=graph, state=state, batches=batches, device=device, say=say)
        made = permute(
            graph, state, chosen, inside, gathers=most_gathers, seed=seed, clock=clock, measure=measure, say=say
        )
        if images is None or not recalibrate:
            return made
        return replace(made, state=recalibrated(made.architecture, made.state, calibration(images)))

    limits = [None if each is None else asdict(each) for each in (max_params, max_macs, max_latency)]
    of_images = None if images is None else images.fingerprint
    entries = {"batch_size": batch_size, "lr": lr, "weight_decay": weight_decay, "label_smoothing": label_smoothing}
    tuning = FineTuning(seed, {**entries, "precision": precision}, device, threads)
    budgets = falling(given.graph, budget, steps, None if clock is None else clock.dense_ms)
    before_last = [epochs // steps] * (steps - 1)
    how = [criterion, importance, recalibrate, layers, most_gathers, seed, limits, of_images]
    partly = partial_folder(folder)
    found, done = pruned(given, prune, budgets, before_last, images, partly, tuning, how=how, say=say)
    origin = {
        **{"source": Path(source).name, "method": method, "criterion": criterion, "importance": importance},
        **{"budget": done[-1]["budget"], "command_line": command_line()},
    }
    say(
        f"grouped: {_cost(found.architecture)}; {percent(found.kept)} of the criterion kept, {plural(found.gathers, 'gather')}"
    )
    say(f"kept with gathers: {', '.join(f'{number}: {percent(share)}' for number, share in found.tradeoff)}")
    if most_gathers and found.gathers < most_gathers:
        say(f"{plural(most_gathers, 'gather')} allowed: no further layer would keep more by one")
    last = epochs - sum(before_last)
    record = finish(given, found, images, folder, tuning, last, steps=done, overwrite=overwrite, origin=origin, say=say)
    page = write_compression_page(folder, record)
    if as_json:
        print_json(record)
        return
    rows = [
        [
            row["layer"],
            f"{row['in_channels']} -> {row['out_channels']}",
            str(row["groups"]),
            percent(row["kept"]),
            short(row["macs_before"]),
            short(row["macs"]),
            f"{row['ms_before']:.3f}",
            f"{row['ms']:.3f}",
        ]
        for row in record["layers"]
    ]
    print_table(
        ["layer", "channels", ">groups", ">kept", ">MACs before", ">MACs", ">ms before", ">ms"], rows, title=folder.name
    )
    for key, what in (("before", "dense"), ("pruned", "pruned"), ("finetuned", "fine-tuned")):
        if record[f"accuracy_{key}"] is not None:
            print(f"test accuracy {percent(record[f'accuracy_{key}'])}, {what}")
    print(f"latency {record['latency_ms']:.3f} ms, before {record['latency_ms_before']:.3f} ms (one image, one thread)")
    print(f"entry: {folder}\npage:  {page}")


def _images(
    data: str | None, root: str | None, download: bool, train_images: int | None, image_size: int | None
) -> ImageData | None:
    if data is None:
        return None
    from ..training import load_data

    return load_data(options.data_spec(data, root, download, train_images, image_size))


def normalised(images: ImageData, given: Source, mean: str | None, std: str | None) -> ImageData:
    """The images, checked against the network, normalised as the options say, else as it wants them."""
    from ..compress import source

    channels = given.graph.in_channels
    return source.normalised(images, given, _numbers("--mean", mean, channels), _numbers("--std", std, channels))


def _numbers(option: str, text: str | None, count: int) -> tuple[float, ...] | None:
    if text is None:
        return None
    values = tuple(options.number(part) for part in text.split(","))
    if len(values) != count or (option == "--std" and min(values) <= 0):
        raise UsageError(
            f"{option} {text!r}: {plural(count, 'number')} with commas between are needed, those of --std above 0"
        )
    return values


def _names(given: list[str], weights: str) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for old, equals, _ in pairs:
        if not old or not equals:
            raise UsageError(f"--map {old!r}: write OLD=NEW, prefixes of keys")
    if given and weights in ("pretrained", "none"):
        raise UsageError(f"--map renames keys of a file, --weights is {weights}; give --weights FILE, or no --map")
    return {old: new for old, _, new in pairs}


def _cost(architecture: Architecture) -> str:
    return f"{architecture.params:,} parameters, {architecture.macs:,} MACs"
