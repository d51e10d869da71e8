"""The command compress: a trained dense network to one of group convolutions, inside a budget. Floor 8."""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, near
from ..machine import available_cores, keep_freed_memory, thread_settings
from ..wording import percent, plural, short
from . import compress_options as opt
from . import options
from .limits import gather_count
from .output import command_line, print_json, print_table, say

if TYPE_CHECKING:
    from ..compress.source import Source
    from ..publish.methods import Outcome
    from ..spec import Architecture
    from ..training import ImageData
    from ..training.distillation import Distillation


def compress(
    source: opt.Source,
    data: opt.Data = None,
    max_macs: opt.MaxMacs = None,
    max_params: opt.MaxParams = None,
    max_latency: opt.MaxLatency = None,
    method: opt.Method = "permute",
    criterion: opt.Criterion = None,
    importance: opt.Importance = None,
    gathers: opt.Gathers = "0",
    only: opt.Only = None,
    skip: opt.Skip = None,
    epochs: opt.Epochs = 5,
    steps: opt.Steps = 1,
    recalibrate: opt.Recalibrate = True,
    penalty_epochs: opt.PenaltyEpochs = None,
    threshold: opt.Threshold = None,
    delta: opt.Delta = None,
    n: opt.KeptWeights = None,
    m: opt.OfWeights = None,
    axis: opt.Axis = None,
    way: opt.Way = None,
    distill: opt.Distill = False,
    teacher: opt.Teacher = None,
    temperature: opt.Temperature = None,
    distill_weight: opt.DistillWeight = None,
    weights: opt.Weights = "pretrained",
    rename: opt.Rename = None,
    mean: opt.Mean = None,
    std: opt.Std = None,
    out: opt.Out = None,
    overwrite: opt.Overwrite = False,
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
    """Make a trained network smaller: its convolutions become group convolutions (cci: sparse ones), inside a budget; an entry.

    Channels are put into such orders, and every layer is given such a number of groups (cci: such an N of every M weights), that
    least is lost; the orders are folded into the weights. Then it is fine-tuned. A checkpoint is written every epoch beside DIR, so
    the same command goes on after an interruption.

    Example: igcsearch compress my_net.py:build --weights w.safetensors --data cifar10 --data-root DATA --max-macs 50%
    """
    os.environ.update(thread_settings(threads or available_cores()))  # before torch
    from ..compress.criterion import CRITERIA
    from ..compress.sparse_training import WAYS
    from ..publish.methods import METHODS, Compression, Lines, Penalty, at_once, check_penalty
    from ..publish.tuning import IMPORTANCES, FineTuning

    choices = (
        ("method", method, (*METHODS, "auto")),
        ("criterion", criterion, (*CRITERIA, None)),
        ("importance", importance, (*IMPORTANCES, None)),
        ("way", way, (*WAYS, None)),
    )
    for what, value, known in choices:
        if value not in known:
            names = [name for name in known if name]
            raise UsageError(f"unknown {what} {value!r}{near(str(value), names)}; known: {', '.join(names)}")
    if max_macs is None and max_params is None and max_latency is None and (method != "cci" or n is None):
        cures = (
            "--n, --max-macs or --max-params"
            if method == "cci"
            else "--max-macs, --max-params, --max-latency or several"
        )
        raise UsageError(f"no budget: give {cures}; limits are 50%, say, or a number")
    most_gathers = gather_count(gathers)
    needing = {
        f"fine-tuning (--epochs {epochs})": epochs,
        "--criterion taylor": criterion == "taylor",
        "--importance sensitivity": importance == "sensitivity",
    }
    if data is None and any(needing.values()):
        wanting = " and ".join(what for what, needs in needing.items() if needs)
        raise UsageError(
            f"{wanting} cannot be without images: give --data, or --epochs 0 and neither of taylor and sensitivity"
        )
    if steps > 1 and epochs < steps:
        raise UsageError(f"--steps {steps} with --epochs {epochs}: every step needs an epoch; raise --epochs")
    of_penalty = {"epochs": penalty_epochs, "threshold": threshold, "delta": delta}
    of_lines = {"n": n, "m": m, "axis": axis, "way": way}
    _check_methods(method, of_penalty, of_lines)
    check_penalty(penalty_epochs, epochs)
    if method != "permute":
        at_once(steps, method)
    teaching = {"temperature": temperature, "weight": distill_weight}
    if not distill and teacher is None and any(value is not None for value in teaching.values()):
        raise UsageError("--temperature and --distill-weight are of a distillation; give --distill or --teacher too")
    if (distill or teacher) and not epochs:
        raise UsageError("distillation is part of fine-tuning, and --epochs is 0; raise --epochs, or leave it out")
    from ..compress.latency import Clock
    from ..compress.source import normalised, read_source
    from ..entries import check_target
    from ..publish.auto import automatic
    from ..publish.compressed import finish, partial_folder
    from ..report import write_compression_page
    from ..spec import Budget
    from ..training.device import resolve_device

    resolve_device(device)
    if out:
        check_target(Path(out).expanduser(), overwrite=overwrite)
    keep_freed_memory()
    images = _images(data, data_root, download, train_images, image_size)
    dense = read_source(
        source,
        weights=weights,
        names=_names(rename or [], weights),
        image_size=image_size if images is None else images.image_size,
        in_channels=3 if images is None else images.in_channels,
        num_classes=None if images is None else images.num_classes,
    )
    folder = Path(out or f"{Path(dense.name).stem}-{method}").expanduser()
    check_target(folder, overwrite=overwrite)
    if images is not None:
        channels = images.in_channels
        images = normalised(images, dense, _numbers("--mean", mean, channels), _numbers("--std", std, channels))
    taught = _teacher(dense, images, teacher, teaching) if images is not None and (distill or teacher) else None
    clock = Clock(dense.graph, dense.state) if max_latency else None
    budget = Budget(
        params=None if max_params is None else max(1, math.floor(max_params.of(dense.graph.params))),
        macs=None if max_macs is None else max(1, math.floor(max_macs.of(dense.graph.macs))),
        latency_ms=None if max_latency is None or clock is None else max_latency.of(clock.dense_ms),
    )
    entries = {"batch_size": batch_size, "lr": lr, "weight_decay": weight_decay, "label_smoothing": label_smoothing}
    tuning = FineTuning(seed, {**entries, "precision": precision}, device, threads, taught)
    if images is not None:
        tuning.recipe(images, epochs)  # what is wrong with it is said now
    asked = Compression(
        *(dense, images, budget, partial_folder(folder), tuning, epochs),
        only=only or (),
        skip=skip or (),
        criterion=criterion,
        importance=importance or IMPORTANCES[0],
        gathers=most_gathers,
        steps=steps,
        recalibrate=recalibrate,
        clock=clock,
        penalty=Penalty(**_given(of_penalty)),
        lines=Lines(**_given(of_lines)),
        limits=[None if each is None else asdict(each) for each in (max_params, max_macs, max_latency)],
        say=say,
    )
    if method in ("permute", "sparsify"):
        _tell_layers(dense, asked.layers)
    if method == "auto":
        outcome = automatic(asked, METHODS, IMPORTANCES if importance is None else (importance,))
    else:
        outcome = METHODS[method](asked)
    importance = outcome.more.get("auto", {}).get("importance", asked.importance)
    _tell_outcome(outcome, most_gathers)
    origin = {
        **{"source": Path(source).name, "method": method, "importance": importance},
        **{"budget": budget.to_dict(), "command_line": command_line()},
    }
    if taught is not None:
        origin["distillation"] = {"teacher": Path(teacher or source).name, **taught().settings}
    record = finish(dense, outcome, images, folder, tuning, overwrite=overwrite, origin=origin, say=say)
    page = write_compression_page(folder, record)
    if as_json:
        print_json(record)
    else:
        _print_record(record, folder, page)


def _given(every: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in every.items() if value is not None}


def _check_methods(method: str, of_penalty: dict[str, Any], of_lines: dict[str, Any]) -> None:
    """Refuse what is only for another method, and numbers that cannot be."""
    from ..compress.levels import check_delta, check_threshold
    from ..spec.sparsity import Sparsity

    for name, of in (("sparsify", of_penalty), ("cci", of_lines)):
        if (given := _given(of)) and method not in (name, "auto"):
            first = next(iter(given))
            flag = "--penalty-epochs" if first == "epochs" else f"--{first}"
            raise UsageError(
                f"{flag} is of --method {name}, and the method is {method}; leave it out, or take --method {name}"
            )
    if of_penalty["threshold"] is not None:
        check_threshold(of_penalty["threshold"])
    if of_penalty["delta"] is not None:
        check_delta(of_penalty["delta"])
    if _given(of_lines):
        n, m, axis = of_lines["n"], of_lines["m"], of_lines["axis"]
        Sparsity(1 if n is None else n, 4 if m is None else m, axis or "in")


def _tell_layers(given: Source, layers: list[str]) -> None:
    say(f"{given.name}: {_cost(given.graph)}; {plural(len(layers), 'layer')} can be given groups")
    if twice := [node.name for node in given.graph.nodes if node.shares is not None]:
        say(
            f"left dense, as their weights are those of another layer or call: {', '.join(twice)}, and what they share with"
        )
    every = [convolution for _, convolution in given.graph.convolutions()]
    if alone := sum(convolution.groups > 1 and convolution.nm is None for convolution in every):
        say(f"{plural(alone, 'layer')} with groups already stay as they are")
    if alone := sum(convolution.nm is not None for convolution in every):
        say(f"{plural(alone, 'layer')} with N:M sparsity already stay as they are")


def _tell_outcome(outcome: Outcome, most_gathers: int | None) -> None:
    from ..compress.permute import Permuted

    found = outcome.found
    if not isinstance(found, Permuted):
        nonzero = found.architecture.nonzero_macs
        say(
            f"sparse: {_cost(found.architecture)}, {nonzero:,} of them nonzero; {percent(found.kept)} of the weights' worth kept"
        )
        return
    say(
        f"grouped: {_cost(found.architecture)}; {percent(found.kept)} of the criterion kept, {plural(found.gathers, 'gather')}"
    )
    say(f"kept with gathers: {', '.join(f'{number}: {percent(share)}' for number, share in found.tradeoff)}")
    if most_gathers and found.gathers < most_gathers:
        say(f"{plural(most_gathers, 'gather')} allowed: no further layer would keep more by one")


def _print_record(record: dict[str, Any], folder: Path, page: Path) -> None:
    rows = [
        [
            row["layer"],
            f"{row['in_channels']} -> {row['out_channels']}",
            str(row.get("sparsity") or row["groups"]),
            percent(row["kept"]),
            short(row["macs_before"]),
            short(row.get("nonzero_macs", row["macs"])),
            f"{row['ms_before']:.3f}",
            f"{row['ms']:.3f}",
        ]
        for row in record["layers"]
    ]
    what = ">N:M" if any(row.get("sparsity") for row in record["layers"]) else ">groups"
    columns = ["layer", "channels", what, ">kept", ">MACs before", ">MACs", ">ms before", ">ms"]
    print_table(columns, rows, title=folder.name)
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


def _teacher(
    given: Source, images: ImageData, name: str | None, given_numbers: dict[str, float | None]
) -> partial[Distillation]:
    """What makes the distillation of a training; tried here once, so that what is wrong is said before the work.

    Raises:
        UsageError: a teacher that cannot be read or does not fit, or numbers outside their range.
    """
    from ..compress.source import read_source
    from ..training.distillation import Distillation

    try:
        source = (
            given if name is None else read_source(name, image_size=images.image_size, in_channels=images.in_channels)
        )
    except UsageError as error:
        raise UsageError(f"--teacher {name}: {error}") from None
    numbers = {key: value for key, value in given_numbers.items() if value is not None}
    mean, std = (images.mean, images.std) if name is None else (source.mean or images.mean, source.std or images.std)
    made = partial(Distillation, source.graph, source.state, mean, std, **numbers)
    made().check(given.graph)
    return made


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
