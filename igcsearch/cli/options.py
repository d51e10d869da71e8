"""Options that several commands share, so that one thing has one name, one text and one default everywhere."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .sizes import parse_duration, parse_milliseconds, parse_size

if TYPE_CHECKING:
    from ..training import DataSpec

DATA = "Data and device"
LATENCY = "Latency"
RECIPE = "Recipe"
STORAGE = "Several machines"
RAY = "Ray cluster (--engine ray)"


# Typer calls these for what an option is given, and for its default, a number already. Their messages begin with the
# value; app.py puts the option before it.
def count(text: str | int) -> int:
    """A positive whole number, also as 1k."""
    return parse_size(str(text), "")


def seconds(text: str | float) -> float:
    """A time such as 15m."""
    return parse_duration(str(text), "")


def milliseconds(text: str | float) -> float:
    """A time such as 5ms or 0.5s; a plain number is milliseconds."""
    return parse_milliseconds(str(text), "")


def number(text: str | float) -> float:
    """Any finite number."""
    try:
        value = float(text)
    except ValueError:
        raise UsageError(f"{text!r} is no number; give one such as 0.1") from None
    if not math.isfinite(value):
        raise UsageError(f"{text!r} is no finite number; give one such as 0.1")
    return value


def seed_number(text: str | int) -> int:
    """A whole number of at least 0."""
    if not re.fullmatch(r"\d{1,9}", str(text).strip(), re.ASCII):
        raise UsageError(f"{text!r} is no seed; give a whole number of at least 0, of up to 9 digits")
    return int(text)


DATA_HELP = (
    "digits, mnist, fashion-mnist, cifar10, cifar100 or svhn; a folder of images (one folder a class); or FILE.npz "
    "(x_train, y_train, x_test, y_test)."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
Model = Annotated[
    str,
    typer.Argument(
        metavar="NETWORK",
        help="A name that 'igcsearch list' or 'list --references' shows, an entry's folder, or an architecture.json.",
    ),
]
StudyDir = Annotated[
    str | None,
    typer.Argument(
        metavar="STUDY", help="The folder of a search (its --out), or the study.db in it.", show_default=False
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="URL",
        help="Database server of the study: postgresql+psycopg://USER@HOST/DB. Default: SQLite in the study's folder.",
        rich_help_panel=STORAGE,
    ),
]
StudyName = Annotated[
    str | None,
    typer.Option("--study", metavar="NAME", help="The study's name on that server.", rich_help_panel=STORAGE),
]
Data = Annotated[str, typer.Option("--data", metavar="DATA", help=DATA_HELP, rich_help_panel=DATA)]
DataRoot = Annotated[
    str | None,
    typer.Option(
        "--data-root",
        metavar="DIR",
        help="Where torchvision's data sets lie, or go with --download.",
        rich_help_panel=DATA,
    ),
]
Download = Annotated[
    bool,
    typer.Option("--download", help="Download the data set into --data-root if it is not there.", rich_help_panel=DATA),
]
TrainImages = Annotated[
    int | None,
    typer.Option(
        "--train-images",
        parser=count,
        metavar="N",
        help="Train on so many images of the training split (10k); default: all.",
        rich_help_panel=DATA,
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        "--image-size",
        parser=count,
        metavar="PIXELS",
        help="Resize images to this side; default: the data set's own.",
        rich_help_panel=DATA,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda",
        help="auto takes a GPU where there is one; the choice is printed.",
        rich_help_panel=DATA,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        parser=count,
        metavar="N",
        help="CPU threads of each process; default: the cores shared out evenly.",
        rich_help_panel=DATA,
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="ADDR",
        help="Join the Ray cluster at HOST:PORT, or auto for this machine's. Default: start one here.",
        rich_help_panel=RAY,
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        "--engine", metavar="local|ray", help="What runs the trainings: this machine, or Ray.", rich_help_panel=RAY
    ),
]
GpusPerCandidate = Annotated[
    float | None,
    typer.Option(
        "--gpus-per-candidate",
        parser=number,
        metavar="F",
        help="GPUs of each training, also a fraction. Default: 1 if the cluster has any.",
        rich_help_panel=RAY,
    ),
]
Checkpoints = Annotated[
    str | None,
    typer.Option(
        "--checkpoints",
        metavar="FOLDER",
        help="For candidates under way; every node must see it. Default: in the study's folder.",
        rich_help_panel=RAY,
    ),
]
CpusPerCandidate = Annotated[
    int | None,
    typer.Option(
        "--cpus-per-candidate",
        parser=count,
        metavar="N",
        help="CPUs, and threads, of each training. Default: 1 on a cluster, the cores shared out here.",
        rich_help_panel=RAY,
    ),
]
MaxConcurrent = Annotated[
    int | None,
    typer.Option(
        "--max-concurrent",
        parser=count,
        metavar="N",
        help="Trainings at once. Default: what the cluster has room for.",
        rich_help_panel=RAY,
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        "--epochs",
        parser=count,
        metavar="N",
        help="Epochs of each training; default: by the size of the data.",
        rich_help_panel=RECIPE,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", parser=count, metavar="N", help="Images in a step.", rich_help_panel=RECIPE),
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        "--lr", parser=number, metavar="RATE", help="Learning rate at the top of the schedule.", rich_help_panel=RECIPE
    ),
]
Seed = Annotated[
    int,
    typer.Option("--seed", metavar="N", parser=seed_number, help="Of weights, order of images and augmentation."),
]
WeightDecay = Annotated[
    float | None,
    typer.Option("--weight-decay", parser=number, metavar="X", help="Weight decay.", rich_help_panel=RECIPE),
]
LabelSmoothing = Annotated[
    float | None,
    typer.Option(
        "--label-smoothing", parser=number, metavar="X", help="Label smoothing, 0 to below 1.", rich_help_panel=RECIPE
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="auto|float32|bfloat16",
        help="auto: bfloat16 on a GPU that has it.",
        rich_help_panel=RECIPE,
    ),
]


ShuffleWay = Annotated[
    str | None,
    typer.Option(
        "--shuffle-way",
        metavar="assignment|sinkhorn|lipschitz",
        help="How shuffles are learned, where a network has learned ones. Default: assignment.",
        rich_help_panel=RECIPE,
    ),
]
SoftShare = Annotated[
    float | None,
    typer.Option(
        "--soft-share",
        parser=number,
        metavar="X",
        help="Share of the epochs in which shuffles and group counts are learned; the rest train with what was learned. "
        "Default: 0.3.",
        rich_help_panel=RECIPE,
    ),
]
ShuffleTemperature = Annotated[
    float | None,
    typer.Option(
        "--shuffle-temperature",
        parser=number,
        metavar="X",
        help="Of the way sinkhorn at the end of those epochs, from 1. Default: 0.02.",
        rich_help_panel=RECIPE,
    ),
]
ShufflePenalty = Annotated[
    float | None,
    typer.Option(
        "--shuffle-penalty",
        parser=number,
        metavar="X",
        help="Of the way lipschitz at the end of those epochs, from 0. Default: 0.02.",
        rich_help_panel=RECIPE,
    ),
]


GroupsTemperature = Annotated[
    float | None,
    typer.Option(
        "--groups-temperature",
        parser=number,
        metavar="X",
        help="Of learned group counts at the end of those epochs, from 1. Default: 0.1.",
        rich_help_panel=RECIPE,
    ),
]
GroupsPenalty = Annotated[
    float | None,
    typer.Option(
        "--groups-penalty",
        parser=number,
        metavar="X",
        help="Of learned group counts, on the expected cost's distance from the budget. Default: 10.",
        rich_help_panel=RECIPE,
    ),
]


MaxLatency = Annotated[
    float | None,
    typer.Option(
        "--max-latency",
        parser=milliseconds,
        metavar="TIME",
        help="Latency at most (5ms, 0.5s; a plain number is milliseconds): predicted in the search, measured at its end.",
        rich_help_panel=LATENCY,
    ),
]
LatencyDevice = Annotated[
    str | None,
    typer.Option(
        "--latency-device",
        metavar="cpu|cuda",
        help="Where the networks will run; of this machine, whatever device trains. Default: cpu.",
        rich_help_panel=LATENCY,
    ),
]
LatencyBatch = Annotated[
    int | None,
    typer.Option(
        "--latency-batch",
        parser=count,
        metavar="N",
        help="Images in a pass there. Default: 1.",
        rich_help_panel=LATENCY,
    ),
]
LatencyThreads = Annotated[
    int | None,
    typer.Option(
        "--latency-threads", parser=count, metavar="N", help="CPU threads there. Default: 1.", rich_help_panel=LATENCY
    ),
]
LatencyTime = Annotated[
    float | None,
    typer.Option(
        "--latency-time",
        parser=seconds,
        metavar="TIME",
        help="Measure parts of networks for so long at most before the search. Default: 60s.",
        rich_help_panel=LATENCY,
    ),
]


def latency_fields(
    device: str | None, batch: int | None, threads: int | None, measure_s: float | None
) -> dict[str, Any]:
    """What was given of latency, as fields of SearchConfig."""
    given = {
        "latency_device": device,
        "latency_batch": batch,
        "latency_threads": threads,
        "latency_measure_s": measure_s,
    }
    return {name: value for name, value in given.items() if value is not None}


def data_spec(
    data: str, root: str | None, download: bool, train_images: int | None = None, image_size: int | None = None
) -> DataSpec:
    """The data that the options name; they are checked where they are loaded."""
    from ..training import DataSpec

    return DataSpec(data, root=root, download=download, train_images=train_images, image_size=image_size)
