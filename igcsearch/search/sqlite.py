"""A study in its own folder: `study.db` (SQLite), `study.json` and `study.lock`. One coordinator at a time.

SQLite runs in WAL mode with synchronous=NORMAL: readers never wait for the coordinator, and a kill -9 costs nothing that was
committed. The lock is the operating system's and dies with its process, so whoever holds it knows that no other coordinator lives.
A new database is put together beside its place and renamed into it: a study exists completely or not at all.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock, Timeout
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from igcsearch.errors import UsageError

from .storage import DATABASE_ERRORS, DESCRIPTION, Directions, Place, short

DATABASE, LOCK = "study.db", "study.lock"
STUDY_NAME = "igcsearch"


class SqlitePlace(Place):
    """A folder with `study.db` in it."""

    shared = False
    cure = "restore it from a copy, or give another output folder"

    @property
    def label(self) -> str:
        return str(self.folder / DATABASE)

    def exists(self) -> bool:
        return (self.folder / DATABASE).exists() or (self.folder / DESCRIPTION).exists()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and hold its lock; what was made is taken away again if no study came of it."""
        folder, made = self.folder, not self.folder.exists()
        lock = FileLock(folder / LOCK)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / LOCK, "ab"):  # a clear error where filelock would wait or give its own
                pass
        except OSError as error:
            what = f"cannot write to {folder}: {error.strerror or error}"
            raise UsageError(f"{what}; give another output folder") from error
        try:
            lock.acquire(timeout=2)
        except Timeout:
            what = f"another search is running in {folder}"
            raise UsageError(f"{what}; wait for it, or give another output folder") from None
        try:
            yield
        finally:
            lock.release()
            if not self.exists():
                with suppress(OSError):
                    (folder / LOCK).unlink(missing_ok=True)
                    if made:
                        folder.rmdir()

    def is_running(self, study: optuna.Study | None = None) -> bool | None:
        lock = self.folder / LOCK
        if not lock.exists():
            return False
        if not os.access(lock, os.W_OK):
            return None
        try:
            with FileLock(lock, timeout=0):
                return False
        except Timeout:
            return True
        except OSError:
            return None

    def create(self, directions: Directions, attributes: dict[str, Any]) -> optuna.Study:
        draft = self.folder / (DATABASE + ".new")
        try:
            for leftover in self.folder.glob(DATABASE + ".new*"):
                leftover.unlink()
            storage = _open(draft, wal=False, new=True)  # without WAL: one file to rename
            study = optuna.create_study(storage=storage, study_name=STUDY_NAME, directions=directions)
            for name, value in attributes.items():
                study.set_user_attr(name, value)
            storage.remove_session()
            storage.engine.dispose()
            os.replace(draft, self.folder / DATABASE)
        except (OSError, *DATABASE_ERRORS) as error:
            raise UsageError(f"cannot create {self.label}: {short(error)}; give another output folder") from error
        return self.load()

    def load(self) -> optuna.Study:
        database = self.folder / DATABASE
        if not self.exists():
            raise UsageError(
                f"{self.folder} holds no study ({DATABASE} is missing); give the output folder of a search"
            )
        if not database.is_file():
            raise UsageError(f"{database} is missing beside {DESCRIPTION}; restore it, or give another output folder")
        with self.readable():
            _check(database)
            return self.checked(optuna.load_study(study_name=STUDY_NAME, storage=_open(database, wal=True)))

    def description(self) -> dict[str, Any]:
        return {"storage": "sqlite", "database": DATABASE, "study": STUDY_NAME}

    # ------------------------------------------------------------------ for coordinators: the lock's holder is the only one

    def enter(self, study: optuna.Study) -> str:
        return ""

    def beat(self) -> bool:
        return False

    def own(self, trial: optuna.Trial) -> None:
        pass

    def dead(self, trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        return list(trials)

    @contextmanager
    def sweeping(self) -> Iterator[bool]:
        yield True

    def claim(self, key: str, holder: int, limit: int) -> int | None:
        return holder  # the coordinator knows all that were before

    def release(self, holder: int, *, forget: bool = False) -> None:
        pass

    def room(self, limit: int) -> bool:
        return True  # the coordinator counts its own

    def leave(self) -> None:
        pass


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
