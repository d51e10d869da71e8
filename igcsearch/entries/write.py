"""Writing an entry so that no reader and no crash ever sees half of one.

All files are written and synced in a hidden folder beside the target, which is then renamed. An existing entry is
exchanged with the new one in a single step where the system can (Linux), by two renames elsewhere; then a kill between
the two leaves the old one, whole, under a hidden name, and the next write puts it back.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ..errors import UsageError
from ..files import sync_file, sync_folder
from ..spec import Architecture
from .card import make_card
from .entry import ARCHITECTURE, CARD, FORMAT, METRICS, WEIGHTS, Entry, check_metrics, looks_like_entry, read_folder
from .models import check_tensors

STALE_SECONDS = 24 * 3600  # hidden leftovers of killed writers are removed when older than this


def write_entry(
    folder: str | Path,
    architecture: Architecture,
    state_dict: Mapping[str, torch.Tensor],
    metrics: Mapping[str, Any],
    *,
    overwrite: bool = False,
    more: Mapping[str, str] | None = None,
) -> Entry:
    """Write an entry atomically and return it as read back.

    The cost in closed form, the hash of the weights, the name (the folder's) and the format are put into the metrics
    here. Raises UsageError when the folder exists (unless `overwrite`; never over something that is no entry), when the
    weights are not the architecture's, or when the folder cannot be written. `more`: names and texts of further files,
    which are there when the entry is.
    """
    folder = Path(folder).expanduser().absolute()
    check_tensors(architecture, state_dict, "these weights")
    weights = save(
        {key: value.detach().cpu().contiguous().clone() for key, value in state_dict.items()}, {"format": "pt"}
    )
    full = {
        **metrics,
        "format": FORMAT,
        "name": folder.name,
        "params": architecture.params,
        "macs": architecture.macs,
        **({} if architecture.nonzero_macs == architecture.macs else {"nonzero_macs": architecture.nonzero_macs}),
        "weights": WEIGHTS,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    try:
        text = json.dumps(full, indent=2, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"metrics of '{folder.name}' are not JSON: {error}") from error
    full = json.loads(text)  # the card is made of what a reader will find
    check_metrics(folder, full, architecture)
    files = {
        ARCHITECTURE: (architecture.to_json(indent=2) + "\n").encode(),
        METRICS: (text + "\n").encode(),
        WEIGHTS: weights,
        CARD: make_card(architecture, full).encode(),
        **{name: content.encode() for name, content in (more or {}).items()},
    }
    check_target(folder, overwrite=overwrite)
    try:
        _write_folder(folder, files, overwrite)
    except OSError as error:
        raise UsageError(f"entry '{folder}' cannot be written: {error.strerror or error}") from error
    return read_folder(folder)


def check_target(folder: Path, *, overwrite: bool = False) -> None:
    """Refuse a place that `write_entry` would not write to, for work that is done before it.

    Raises:
        UsageError: a hidden name; something that is there already and may not or cannot be overwritten.
    """
    if not folder.absolute().name or folder.absolute().name.startswith("."):
        raise UsageError(f"entry folder '{folder}' begins with a dot, as unfinished writes do; choose another name")
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        cure = ", or overwrite it (--overwrite)" if looks_like_entry(folder) else ""
        raise UsageError(f"output folder '{folder}' exists already and is not empty; choose another folder{cure}")
    if not looks_like_entry(folder) or folder.is_symlink():
        raise UsageError(f"'{folder}' exists and is no entry: it is not overwritten; choose another folder")


def _write_folder(folder: Path, files: Mapping[str, bytes], overwrite: bool) -> None:
    """Fill a hidden folder beside the target, sync it, and put it in the target's place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _tidy(folder)
    token = f"{os.getpid()}-{secrets.token_hex(4)}"
    new, old = (folder.with_name(f".{folder.name}.{kind}-{token}") for kind in ("new", "old"))
    new.mkdir()
    try:
        for name, content in files.items():
            (new / name).write_bytes(content)
            sync_file(new / name)
        sync_folder(new)
        if overwrite and looks_like_entry(folder):
            if not _exchange(new, folder):  # after it, `new` holds the old entry
                folder.rename(old)
                try:
                    new.rename(folder)
                except OSError:
                    old.rename(folder)
                    raise
        else:
            new.rename(folder)  # fails on a folder that is not empty: an entry that came in between is kept
        sync_folder(folder.parent)
    finally:
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
        shutil.rmtree(new, ignore_errors=True)


def _tidy(folder: Path) -> None:
    """Put back an entry that a killed overwriting left under its hidden name, and remove old leftovers."""
    for old in sorted(folder.parent.glob(f".{folder.name}.old-*")):
        if not folder.exists() and looks_like_entry(old):
            old.rename(folder)
    for left in folder.parent.glob(f".{folder.name}.*-*"):
        try:
            stale = time.time() - left.stat().st_mtime > STALE_SECONDS
        except FileNotFoundError:
            continue
        if stale and left.name.startswith((f".{folder.name}.new-", f".{folder.name}.old-")):
            shutil.rmtree(left, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step by Linux's renameat2(RENAME_EXCHANGE); False where there is no such call."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    done: int = renameat2(here, os.fsencode(first), here, os.fsencode(second), exchange)
    return done == 0
