"""Where a study lives: a folder with `study.db` (SQLite), `study.json` (which storage, which study) and `study.lock`.

SQLite runs in WAL mode with synchronous=NORMAL: readers never wait for the coordinator, and a kill -9 costs nothing that was
committed. The lock is the operating system's and dies with its process, so whoever holds it knows that no other coordinator lives.
A new database is put together beside its place and renamed into it: a study exists completely or not at all.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

from igcsearch.errors import UsageError
from igcsearch.files import atomic_write

from .config import SearchConfig

DATABASE, DESCRIPTION, LOCK = "study.db", "study.json", "study.lock"
STUDY_NAME = "igcsearch"
SCHEMA = 1
_UNREADABLE = (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, sqlite3.Error)


def holds_study(folder: Path) -> bool:
    """True if the folder holds a study."""
    return (folder / DATABASE).exists() or (folder / DESCRIPTION).exists()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder and hold its lock; what was made is taken away again if no study came of it.

    Raises:
        UsageError: the folder cannot be written, or another search holds the lock.
    """
    made = not folder.exists()
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / LOCK, "ab"):  # a clear error where filelock would wait or give its own
            pass
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror or error}; give another output folder") from error
    try:
        lock.acquire(timeout=2)
    except Timeout:
        raise UsageError(f"another search is running in {folder}; wait for it, or give another output folder") from None
    try:
        yield
    finally:
        lock.release()
        if not holds_study(folder):
            with suppress(OSError):
                (folder / LOCK).unlink(missing_ok=True)
                if made:
                    folder.rmdir()


def is_running(folder: Path) -> bool | None:
    """True if a coordinator holds the folder's lock; None if that cannot be known (a folder that cannot be written)."""
    if not (folder / LOCK).exists():
        return False
    if not os.access(folder / LOCK, os.W_OK):
        return None
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return None


def create(folder: Path, directions: list[Literal["minimize", "maximize"]], attributes: dict[str, Any]) -> optuna.Study:
    """A new study with its user attributes, under the lock.

    Raises:
        UsageError: the folder cannot be written.
    """
    draft = folder / (DATABASE + ".new")
    try:
        for leftover in folder.glob(DATABASE + ".new*"):
            leftover.unlink()
        storage = _open(draft, wal=False, new=True)  # without WAL: one file to rename
        study = optuna.create_study(storage=storage, study_name=STUDY_NAME, directions=directions)
        for name, value in attributes.items():
            study.set_user_attr(name, value)
        storage.remove_session()
        storage.engine.dispose()
        os.replace(draft, folder / DATABASE)
    except (OSError, *_UNREADABLE) as error:
        raise UsageError(f"cannot create {folder / DATABASE}: {_short(error)}; give another output folder") from error
    return load(folder)


def load(folder: Path) -> optuna.Study:
    """The study of a folder; also while a search is running on it. Call `optuna.Study` methods inside `readable`.

    Raises:
        UsageError: no study, or a database that cannot be read.
    """
    database = folder / DATABASE
    if not holds_study(folder):
        raise UsageError(f"{folder} holds no study ({DATABASE} is missing); give the output folder of a search")
    if not database.is_file():
        raise UsageError(f"{database} is missing beside {DESCRIPTION}; restore it, or give another output folder")
    with readable(folder):
        _check(database)
        study = optuna.load_study(study_name=STUDY_NAME, storage=_open(database, wal=True))
        for name in ("igcsearch:config", "igcsearch:schema"):
            if name not in study.user_attrs:
                raise UsageError(
                    f"{database} is not a study of igcsearch ({name} is missing); give the output folder of a search"
                )
    if (schema := study.user_attrs["igcsearch:schema"]) > SCHEMA:
        raise UsageError(
            f"{database} has schema {schema}, newer than {SCHEMA}, the newest known here; update igcsearch"
        )
    return study


def stored_config(study: optuna.Study, folder: Path) -> SearchConfig:
    """What the study was asked to do.

    Raises:
        UsageError: a configuration that this version cannot read.
    """
    with readable(folder):
        values = study.user_attrs["igcsearch:config"]
    try:
        return SearchConfig.from_dict(values)
    except (UsageError, KeyError, TypeError, AttributeError) as error:
        what = f"{folder / DATABASE} has a configuration that this igcsearch cannot read ({_short(error)})"
        raise UsageError(f"{what}; update igcsearch, or restore the file from a copy") from error


def describe(folder: Path) -> None:
    """Write `study.json`, from which other tools find the storage (never a password)."""
    text = (
        json.dumps({"schema": SCHEMA, "storage": "sqlite", "database": DATABASE, "study": STUDY_NAME}, indent=1) + "\n"
    )
    target = folder / DESCRIPTION
    if not target.exists():
        atomic_write(target, text)


@contextmanager
def readable(folder: Path) -> Iterator[None]:
    """Turn what a damaged database raises, in whatever layer, into one clear error."""
    try:
        yield
    except UsageError:
        raise
    except (*_UNREADABLE, KeyError, json.JSONDecodeError, UnicodeDecodeError, AssertionError, RuntimeError) as error:
        cure = "restore it from a copy, or give another output folder"
        raise UsageError(f"{folder / DATABASE} cannot be read as a study ({_short(error)}); {cure}") from error


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn what a full disk or a lost folder raises in the middle of a search into one clear error."""
    try:
        yield
    except _UNREADABLE as error:
        cure = "make room or repair it, and go on with --resume"
        raise UsageError(f"{folder / DATABASE} cannot be written ({_short(error)}); {cure}") from error


def close(study: optuna.Study) -> None:
    """Give the database's connections back, so that SQLite folds the WAL file into the database."""
    backend = getattr(study._storage, "_backend", study._storage)
    if isinstance(backend, RDBStorage):
        backend.remove_session()
        backend.engine.dispose()


def _check(database: Path) -> None:
    """SQLite's own check of every page."""
    connection = _connect(database, wal=False)
    try:
        answer = connection.execute("PRAGMA quick_check(1)").fetchone()
    finally:
        connection.close()
    if not answer or answer[0] != "ok":
        raise sqlite3.DatabaseError(str(answer[0]) if answer else "no answer")


def _open(database: Path, *, wal: bool, new: bool = False) -> RDBStorage:
    """Optuna's storage over connections made here: a URL would not carry every folder name (`?`), nor SQLite's settings."""
    engine = {"creator": lambda: _connect(database, wal=wal), "poolclass": sqlalchemy.pool.QueuePool}
    return RDBStorage("sqlite://", engine_kwargs=engine, skip_table_creation=not new)


def _connect(database: Path, *, wal: bool) -> sqlite3.Connection:
    # A folder that cannot be written has no place for the WAL index: its database is read as one that does not change.
    writable = not database.exists() or (os.access(database.parent, os.W_OK) and os.access(database, os.W_OK))
    uri = database.absolute().as_uri() + ("" if writable else "?immutable=1")
    connection = sqlite3.connect(uri, uri=True, timeout=60, check_same_thread=False)
    if wal and writable:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
    return connection


def _short(error: BaseException) -> str:
    """The first line of the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(getattr(error, "orig", None) or error).strip().splitlines()
    return text[0] if text else type(error).__name__
