"""`place_at`: where a study is, from what a user gives: a folder, or a database server's URL and the study's name there."""

from __future__ import annotations

import json
from pathlib import Path

from igcsearch.errors import UsageError

from .postgres import PostgresPlace
from .sqlite import DATABASE, SqlitePlace
from .storage import DESCRIPTION, Place

STUDIES = Path("results/studies")  # where new studies' folders go by default


def place_at(folder: Path | str | None = None, storage: str | None = None, study: str | None = None) -> Place:
    """The place of a study.

    Args:
        folder: of the study, or the `study.db` in it; None with `storage`: results/studies/STUDY.
        storage: URL of a database server; None: what the folder's study.json says, or SQLite in the folder.
        study: its name on the server.

    Raises:
        UsageError: a URL that no kind of place serves, a study.json that cannot be read, nothing to go by.
    """
    if storage is not None:
        if not study:
            raise UsageError("a storage URL needs the study's name beside it; give --study NAME")
        return PostgresPlace(Path(folder) if folder is not None else STUDIES / study, storage, study)
    if folder is None:
        what = f"study {study!r} needs" if study else "nothing says where the study is: it needs"
        raise UsageError(f"{what} --storage URL, or give the study's folder instead")
    path = Path(folder)
    path = path.parent if path.name == DATABASE else path
    try:
        described = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
    except OSError:
        described = {}
    except ValueError as error:
        raise UsageError(f"{path / DESCRIPTION} cannot be read ({error}); restore it, or remove it") from None
    if isinstance(described, dict) and described.get("storage", "sqlite") != "sqlite":
        return PostgresPlace(path, str(described["storage"]), str(described.get("study")))
    return SqlitePlace(path)
