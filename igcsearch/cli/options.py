"""Options that several commands share, so that one thing has one name, one text and one default everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from .sizes import parse_duration, parse_size

if TYPE_CHECKING:
    from ..training import DataSpec, ImageData, Recipe

DATA = "Data and device"
RECIPE = "Recipe"


def count(text: str) -> int:
    """For Typer's `parser`: a positive whole number, also as 1k; the option's name is put before the message (app.py)."""
    return parse_size(text, "").__index__()


DATA_HELP = (
    "digits, mnist, fashion-mnist, cifar10, cifar100 or svhn; a folder of images (one folder a class); or FILE.npz "
    "(x_train, y_train, x_test, y_test)."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
Model = Annotated[
    str,
    typer.Argument(
        metavar="NETWORK", help="A name that 'igcsearch list' shows, an entry's folder, or an architecture.json."
    ),
]
StudyDir = Annotated[
    str, typer.Argument(metavar="STUDY", help="The folder of a search (its --out), or the study.db in it.")
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
    str | None,
    typer.Option(
        "--train-images",
        metavar="N",
        help="Train on so many images of the training split (10k); default: all.",
        rich_help_panel=DATA,
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(
        "--image-size",
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
        metavar="N",
        help="CPU threads of each training; default: the cores shared out evenly.",
        rich_help_panel=DATA,
    ),
]
Epochs = Annotated[
    int | None,
    typer.Option(
        "--epochs",
        metavar="N",
        help="Epochs of each training; default: by the size of the data.",
        rich_help_panel=RECIPE,
    ),
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", metavar="N", help="Images in a step.", rich_help_panel=RECIPE)
]
LearningRate = Annotated[
    float | None,
    typer.Option("--lr", metavar="RATE", help="Learning rate at the top of the schedule.", rich_help_panel=RECIPE),
]
WeightDecay = Annotated[
    float | None, typer.Option("--weight-decay", metavar="X", help="Weight decay.", rich_help_panel=RECIPE)
]
LabelSmoothing = Annotated[
    float | None,
    typer.Option("--label-smoothing", metavar="X", help="Label smoothing, 0 to below 1.", rich_help_panel=RECIPE),
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


def data_spec(
    data: str, root: str | None, download: bool, train_images: str | None = None, image_size: int | None = None
) -> DataSpec:
    """The data that the options name; sizes are read here, the rest is checked where the data are loaded."""
    from ..training import DataSpec

    if image_size is not None and image_size < 1:
        raise UsageError(f"--image-size {image_size} must be at least 1 pixel")
    images = None if train_images is None else parse_size(train_images, "--train-images")
    return DataSpec(data, root=root, download=download, train_images=images, image_size=image_size)


def recipe_for(data: ImageData, epochs: int | None, seed: int, **overrides: Any) -> Recipe:
    """The data's default recipe with what the options change (None: as it is)."""
    from dataclasses import replace

    from ..training import default_recipe

    at_least("--epochs", epochs, 1)
    at_least("--seed", seed, 0)
    recipe = default_recipe(data, epochs, seed)
    return replace(recipe, **{name: value for name, value in overrides.items() if value is not None})


def at_least(option: str, value: int | None, least: int) -> None:
    """Raise UsageError for a number below what the option allows."""
    if value is not None and value < least:
        raise UsageError(f"{option} {value} must be at least {least}")
