"""Zoos: folders of entries, and how a name becomes an entry or a reference network.

A name is looked for in the package's own zoo (igcsearch.results), then in the user's (IGCSEARCH_ZOO, or the user's data
folder), and then taken as a path. The named reference networks (igcsearch.blocks.references) come after every entry of
their name; they have no weights.
"""

from __future__ import annotations

import logging
import os
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path

from platformdirs import user_data_path

from ..blocks.references import REFERENCES, Reference
from ..errors import UsageError, near
from .entry import Entry, looks_like_entry, read_folder

log = logging.getLogger(__name__)


def user_zoo() -> Path:
    """The user's zoo: the environment variable IGCSEARCH_ZOO, or igcsearch/zoo in the user's data folder."""
    chosen = os.environ.get("IGCSEARCH_ZOO")
    return Path(chosen).expanduser() if chosen else user_data_path("igcsearch", appauthor=False) / "zoo"


def package_zoo() -> Path | None:
    """The folder of networks that came with the package, or None where it has none."""
    try:
        root = resources.files("igcsearch.results")
    except ModuleNotFoundError:
        return None
    return root if isinstance(root, Path) else None


def zoos() -> list[tuple[str, Path]]:
    """(kind, folder) of every zoo, in the order in which names resolve; a folder need not exist."""
    package = package_zoo()
    return [*([("package", package)] if package else []), ("user", user_zoo())]


def list_entries(pattern: str = "*") -> list[Entry]:
    """Every entry whose name matches the shell pattern, sorted by name; each name once, as it resolves.

    A broken entry in a zoo is left out with one line in the log: it must not hide the others.
    """
    found: dict[str, Entry | None] = {}
    for kind, root in zoos():
        for name in _folders(root):
            if name in found or not fnmatchcase(name, pattern):
                continue
            try:
                found[name] = read_folder(root / name, kind)
            except UsageError as error:
                found[name] = None
                log.warning("entry left out: %s", error)
    return [entry for _, entry in sorted(found.items()) if entry is not None]


def list_models(pattern: str = "*", pretrained: bool = False) -> list[str]:
    """Names of the networks that `create_model` knows, sorted: entries and reference networks.

    Args:
        pattern: a shell pattern, as in timm.
        pretrained: only those that have weights, which are the entries.
    """
    names = {entry.name for entry in list_entries(pattern)}
    if not pretrained:
        names |= {reference.name for reference in list_references(pattern)}
    return sorted(names)


def list_references(pattern: str = "*") -> list[Reference]:
    """Every named reference network whose name matches the shell pattern, table by table."""
    return [reference for name, reference in REFERENCES.items() if fnmatchcase(name, pattern)]


def find_model(name_or_folder: str | Path) -> Entry | Reference:
    """The entry of that name or folder, or else the reference network of that name. Raises UsageError as `read_entry`."""
    reference = REFERENCES.get(name_or_folder) if isinstance(name_or_folder, str) else None
    if reference is None:
        return read_entry(name_or_folder)
    places = [*(root / reference.name for _, root in zoos()), Path(reference.name)]
    return read_entry(reference.name) if any(map(looks_like_entry, places)) else reference


def read_entry(name_or_folder: str | Path) -> Entry:
    """The entry of that name or folder. Raises UsageError with near matches, or with what a folder lacks."""
    text = os.fspath(name_or_folder)
    if not text or "\0" in text:
        raise UsageError(f"model name {text!r}: give a name that `igcsearch list` shows, or an entry's folder")
    name = isinstance(name_or_folder, str) and is_name(text)
    if name:
        for kind, root in zoos():
            if looks_like_entry(root / text):
                return read_folder(root / text, kind)
    if not name or Path(text).exists():
        return read_folder(text)
    if text in REFERENCES:
        raise UsageError(
            f"'{text}' is a reference network, an architecture without weights: `igcsearch train` gives it some"
        )
    known = {*REFERENCES, *(folder for _, root in zoos() for folder in _folders(root))}
    raise UsageError(
        f"no model '{text}'{near(text.lower(), sorted(known))}; `igcsearch list` shows those with weights, "
        "`igcsearch list --references` the networks of papers"
    )


def is_name(text: str) -> bool:
    """True for what can be an entry's name; anything with a separator, a leading dot or tilde can only be a path."""
    return not any(mark in text for mark in "/\\") and not text.startswith((".", "~"))


def _folders(root: Path) -> list[str]:
    """Names of the folders in a zoo that are meant to be entries; hidden ones are unfinished writes."""
    try:
        names = sorted(os.listdir(root))
    except OSError:
        return []
    return [name for name in names if is_name(name) and looks_like_entry(root / name)]
