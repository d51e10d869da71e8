"""Trainings of a benchmark: each once, its row kept in a folder, several at a time."""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import lru_cache
from pathlib import Path
from typing import Any

from igcsearch.cli.sizes import parse_size
from igcsearch.spec import Architecture
from igcsearch.training import DataSpec, ImageData, Recipe, TrainResult, evaluate, load_data, train


def add_arguments(parser: argparse.ArgumentParser, **counts: int) -> None:
    """Where the rows are kept, the images, and whole numbers with their defaults."""
    parser.add_argument("--out", type=Path, help="folder of the trainings; default: beside --json")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-root")
    parser.add_argument("--train-images", type=parse_size)
    parser.add_argument("--image-size", type=int)
    for name, default in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default)


def prepared(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Path, DataSpec]:
    """The options, the folder of the rows, and the images, which are there."""
    given = parser.parse_args()
    folder = given.out or (Path(given.json).with_suffix("") if given.json else None)
    if folder is None:
        parser.error("give --out DIR, --json FILE, or both")
    spec = DataSpec(given.data, root=given.data_root, train_images=given.train_images, image_size=given.image_size)
    load_data(spec)  # what is wrong with it is said now
    folder.mkdir(parents=True, exist_ok=True)
    return given, folder, spec


@lru_cache(maxsize=1)
def data_of(spec: DataSpec) -> ImageData:
    """The images, once in each process."""
    return load_data(spec)


def trained(
    architecture: Architecture,
    data: ImageData,
    recipe: Recipe,
    folder: Path,
    name: str,
    about: Callable[[TrainResult], dict[str, Any]],
) -> dict[str, Any]:
    """The row of one training on one thread: as it is kept in the folder, or trained now, from its checkpoint if there is one.

    Args:
        name: of the file, besides what tells trainings apart.
        about: what the row says beside accuracies, cost and time.
    """
    of = json.dumps([data.fingerprint, len(data.train), data.image_size, recipe.to_dict(), architecture.hash])
    path = folder / f"{name}-{hashlib.sha256(of.encode()).hexdigest()[:8]}.json"
    checkpoint = path.with_suffix(".safetensors")
    row = kept(path, lambda: _trained(architecture, data, recipe, checkpoint, about))
    checkpoint.unlink(missing_ok=True)
    return row


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row in a file; if there is none, it is made now and written."""
    if path.exists():
        return dict(json.loads(path.read_text()))
    row = make()
    path.with_suffix(".new").write_text(json.dumps(row))
    path.with_suffix(".new").replace(path)
    return row


def _trained(
    architecture: Architecture,
    data: ImageData,
    recipe: Recipe,
    checkpoint: Path,
    about: Callable[[TrainResult], dict[str, Any]],
) -> dict[str, Any]:
    result = train(architecture, data, recipe, device="cpu", threads=1, checkpoint=checkpoint)
    from igcsearch.nn import build

    net = build(result.architecture)
    net.load_state_dict(result.state_dict)
    accuracy, images = evaluate(net, data, device="cpu", threads=1)
    return {
        "data": data.name,
        "train_images": len(data.train),
        "image_size": data.image_size,
        "seed": recipe.seed,
        "epochs": recipe.epochs,
        "params": result.architecture.params,
        "macs": result.architecture.macs,
        "test_accuracy": accuracy,
        "test_images": images,
        "validation_accuracy": result.validation_accuracy,
        "seconds": result.seconds,
        **about(result),
    }


def run_all(
    work: Callable[..., dict[str, Any]], tasks: Sequence[tuple[Any, ...]], workers: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of all tasks as they come, each with "[number/of how many]"."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        running = [pool.submit(work, *task) for task in tasks]
        for number, done in enumerate(as_completed(running), 1):
            yield f"[{number}/{len(tasks)}]", done.result()
