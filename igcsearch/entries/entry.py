"""One entry as it lies on disk: its files, and reading them with every check that needs no tensor.

An entry's folder may come from anybody, so nothing in it is trusted: JSON only, the weights named by a bare file name
that stays inside the folder, figures of cost held against the architecture. The weights are checked in models.py.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..spec import Architecture

ARCHITECTURE = "architecture.json"
METRICS = "metrics.json"
WEIGHTS = "weights.safetensors"
CARD = "README.md"
FORMAT = 1  # of metrics.json; a newer one is refused


@dataclass(frozen=True)
class Entry:
    """One published network. `zoo` says where it was found: "package", "user" or "path"."""

    name: str
    path: Path
    zoo: str
    architecture: Architecture
    metrics: dict[str, Any] = field(repr=False)

    @property
    def weights(self) -> Path:
        """The file of weights (safetensors); it has been checked to lie inside the folder."""
        return inside(self.path, self.metrics.get("weights", WEIGHTS))


def read_folder(folder: str | Path, zoo: str = "path") -> Entry:
    """Read the entry in `folder` (architecture and metrics; the weights are read when a network is loaded).

    Raises UsageError for a missing file, bad JSON, a newer schema, a path that leads outside, or figures of cost that
    are not the architecture's.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UsageError(f"no entry folder '{folder}': {_what_is(folder)}; give the folder that holds {ARCHITECTURE}")
    missing = [name for name in (ARCHITECTURE, METRICS) if not (folder / name).exists()]
    if missing:
        if not (folder / WEIGHTS).exists():
            missing.append(WEIGHTS)
        raise UsageError(
            f"'{folder}' is no entry: {', '.join(missing)} missing; "
            f"an entry holds {ARCHITECTURE}, {METRICS} and {WEIGHTS}"
        )
    metrics = _read_json(inside(folder, METRICS))
    version = metrics.get("format", FORMAT)
    if not isinstance(version, int) or version > FORMAT:
        raise UsageError(f"'{folder / METRICS}' has format {version!r}, this igcsearch reads up to {FORMAT}; update it")
    try:
        architecture = Architecture.from_json(_read_text(inside(folder, ARCHITECTURE)))
    except UsageError as error:
        raise UsageError(f"'{folder / ARCHITECTURE}': {error}") from error
    check_metrics(folder, metrics, architecture)
    weights = inside(folder, metrics.get("weights", WEIGHTS))
    if not weights.is_file():
        raise UsageError(f"'{folder}' is no entry: {weights.name} missing")
    return Entry(folder.resolve().name, folder, zoo, architecture, metrics)


def inside(folder: Path, name: object) -> Path:
    """The file `name` of an entry's folder. Raises UsageError unless it stays inside the folder, links followed."""
    bare = isinstance(name, str) and bool(name) and not re.search(r"[/\\\0:]", name) and name not in (".", "..")
    if not bare or not (folder / str(name)).resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            f"'{folder}' names a file outside the entry's folder ({name!r}): refused; "
            "an entry's files lie in its own folder, under bare file names"
        )
    return folder / str(name)


def looks_like_entry(folder: Path) -> bool:
    """True when a folder is meant to be an entry, complete or not."""
    return (folder / ARCHITECTURE).exists() or (folder / METRICS).exists()


def check_metrics(folder: Path, metrics: dict[str, Any], architecture: Architecture) -> None:
    """Raise UsageError for figures that cannot be, or that are not the architecture's; `folder` is only named."""
    digest = metrics.get("weights_sha256")
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise UsageError(
            f"'{folder / METRICS}' has weights_sha256 {digest!r}: 64 hex digits are needed to check the weights"
        )
    for key in ("params", "macs", "nonzero_macs"):
        value = getattr(architecture, key)
        if metrics.get(key, value) != value:
            raise UsageError(
                f"'{folder / METRICS}' says {key} {metrics[key]!r}, the architecture beside it has {value}; "
                "one of the files was changed"
            )
    for key in ("accuracy", "accuracy_std"):
        figure = metrics.get(key)
        if figure is not None and not (_is_number(figure) and 0 <= figure <= 1):
            raise UsageError(f"'{folder / METRICS}' has {key} {figure!r}: a fraction between 0 and 1 is expected")
    for key, kind in _KINDS.items():
        if not isinstance(metrics.get(key), kind | None):
            raise UsageError(
                f"'{folder / METRICS}' has {key} of type {type(metrics[key]).__name__}: not what an entry holds"
            )

    channels = architecture.in_channels
    for key in ("mean", "std"):
        figures = metrics.get(key)
        if figures is not None and not (len(figures) == channels and all(map(_is_number, figures))):
            raise UsageError(
                f"'{folder / METRICS}' has {key} {figures!r}: one number a channel is expected, {channels}"
            )
    if not all(isinstance(run, dict) for run in metrics.get("seeds") or []):
        raise UsageError(f"'{folder / METRICS}' has seeds that are no objects; one object a seed is expected")
    if not all(_is_number(value) for key, value in (metrics.get("latency") or {}).items() if key.endswith("_ms")):
        raise UsageError(f"'{folder / METRICS}' has a latency that is no number of milliseconds")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_KINDS: dict[str, type] = {
    "name": str,
    "family": str,
    "data": str,
    "seeds": list,
    "latency": dict,
    "input_size": list,
    "mean": list,
    "std": list,
    "class_names": list,
    "recipe": dict,
    "split": dict,
    "versions": dict,
    "provenance": dict,
}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"'{path}' cannot be read: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UsageError(f"'{path}' is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"'{path}' holds a {type(value).__name__}, an object is expected")
    return value


def _what_is(path: Path) -> str:
    if path.is_file():
        return "that is a file"
    left = sorted(path.parent.glob(f".{path.name}.old-*")) if path.parent.is_dir() else []
    return f"it does not exist, but '{left[0]}' is left of an interrupted overwriting" if left else "it does not exist"
