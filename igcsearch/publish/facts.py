"""What an entry records beside accuracy: measured cost, versions, commit, data; put together as metrics.json (entry_metrics).

Design decision 5: every published number carries its seeds, mean and deviation, data split, recipe, versions and commit.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import igcsearch

from ..spec import Architecture

if TYPE_CHECKING:
    from ..training import ImageData, Recipe

LIBRARIES = ("torch", "torchvision", "numpy", "safetensors", "optuna", "fvcore")


def entry_metrics(
    architecture: Architecture,
    data: ImageData,
    recipe: Recipe,
    seeds: Sequence[Mapping[str, Any]],
    *,
    family: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    cost: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """metrics.json of an entry, less what `write_entry` puts in (name, closed-form cost, hash of the weights).

    Args:
        seeds: one mapping a seed, the one of the weights first: seed, validation_accuracy, test_accuracy, seconds.
        provenance: study, trial, sampler, seed, budget ...; None for a network that no search found.
        cost: what `measured_cost` gives; measured here when None.
    """
    accuracies = [run["test_accuracy"] for run in seeds]
    mean, std = mean_and_std(accuracies)
    return {
        "family": family or architecture.family,
        "data": data.name,
        "accuracy": mean,
        "accuracy_std": std,
        "accuracy_split": "test",
        "seeds": [dict(run) for run in seeds],
        "weights_seed": seeds[0]["seed"],
        **(measured_cost(architecture) if cost is None else cost),
        "input_size": [architecture.in_channels, architecture.image_size, architecture.image_size],
        "mean": floats(data.mean),
        "std": floats(data.std),
        "class_names": list(data.class_names),
        "licence": data.licence,
        "recipe": {key: value for key, value in recipe.to_dict().items() if key != "seed"},
        "split": dict(data.split),
        "epochs": recipe.epochs,
        "train_images": len(data.train.labels),
        "versions": versions(),
        **commit(),
        "provenance": dict(provenance) if provenance else {},
    }


def mean_and_std(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample deviation (n - 1) of the values; no deviation for a single one."""
    if not values:
        return None, None
    return statistics.fmean(values), (statistics.stdev(values) if len(values) > 1 else None)


def measured_cost(architecture: Architecture, latency: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """MACs counted by fvcore (convolutions and linear layers; its own total), and the latency of the network, optimized for
    inference: as it was measured before, else of one image on one thread of this machine."""
    from ..nn import build, measure

    network = build(architecture).eval()
    convolutions, total = measure.fvcore_macs(network)
    found = measure.latency(measure.optimized(network)) if latency is None else dict(latency)
    return {"macs_fvcore": convolutions, "fvcore_total": total, "latency": found}


def versions() -> dict[str, str]:
    """Versions of what took part."""
    found = {"python": platform.python_version(), "igcsearch": igcsearch.__version__}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return {**found, "platform": f"{platform.system()} {platform.machine()}"}


def commit() -> dict[str, Any]:
    """The commit of the igcsearch checkout that runs, and whether its code differs from it; None outside a checkout."""
    root = Path(igcsearch.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return {"commit": None}
    found = _git(root, "rev-parse", "--verify", "HEAD")
    if found is None:
        return {"commit": None}
    return {"commit": found, "commit_modified": bool(_git(root, "status", "--porcelain", "--", "*.py"))}


def floats(values: Any) -> list[float]:
    """A tensor, array or sequence of numbers as JSON numbers."""
    return [float(value) for value in values]


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), "--no-optional-locks", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
