"""The zoo that `publish` writes to: its folder, the names of its entries, and entries of another origin, which it keeps."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..entries import read_folder
from ..entries.entry import looks_like_entry
from ..errors import UsageError


def entry_name(family: str, data: str, params: int, digest: str) -> str:
    """FAMILY-DATA-PARAMS-HASH of letters, digits, - and _ alone, for example "igcv2-digits-18k-1a2b3c4d"."""
    size = (
        str(params) if params < 1000 else f"{round(params / 1000)}k" if params < 10**7 else f"{round(params / 10**6)}M"
    )
    parts = (re.sub(r"[^A-Za-z0-9_]+", "-", part).strip("-") for part in (family, data, size, digest))
    return "-".join(part for part in parts if part)


@contextmanager
def writable_zoo(zoo: Path) -> Iterator[Path]:
    """Make the zoo's folder, so that what cannot be written is known before any training.

    Folders that were made are taken away again if nothing comes of it. Raises UsageError.
    """
    made = [folder for folder in (zoo, *zoo.parents) if not os.path.lexists(folder)]
    try:
        zoo.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _remove_empty(made)
        raise UsageError(
            f"zoo '{zoo}' cannot be written: {error.strerror or error}; choose another with --to"
        ) from error
    if not os.access(zoo, os.W_OK | os.X_OK):
        raise UsageError(f"zoo '{zoo}' cannot be written; choose another with --to")
    if looks_like_entry(zoo):
        raise UsageError(f"'{zoo}' is an entry, a zoo is a folder of entries; choose the folder above it, or another")
    try:
        yield zoo
    except BaseException:
        _remove_empty(made)
        raise


def refuse_foreign(
    folder: Path, *, recipe: Mapping[str, Any], split: Mapping[str, Any], provenance: Mapping[str, Any]
) -> None:
    """Raise UsageError for an entry in `folder` that was not published from this study, with this recipe, on these images.

    The precision of a recipe is not looked at: what "auto" stands for depends on the device.
    """
    if not looks_like_entry(folder):
        return
    cure = "publish to another zoo (--to), or replace it with overwrite=True (--overwrite)"
    try:
        metrics = read_folder(folder).metrics
    except UsageError as error:
        raise UsageError(f"'{folder}' is there already and cannot be read ({error}); {cure}") from error
    ignored = ("seed", "precision")
    for what, now in (("study", provenance), ("recipe", recipe), ("data", split)):
        theirs = metrics.get({"study": "provenance", "data": "split"}.get(what, what)) or {}
        ours = json.loads(
            json.dumps({name: value for name, value in now.items() if name not in ignored or what == "study"})
        )
        name = next((name for name, value in ours.items() if theirs.get(name) != value), None)
        if name is not None:
            differs = f"{name} {theirs.get(name)}, now {ours[name]}"
            raise UsageError(f"'{folder}' is an entry of another {what} already ({differs}); {cure}")


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
