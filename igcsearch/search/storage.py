"""Where a study lives. A `Place` is its folder (study.json, checkpoints, retrainings, page) and the database behind it.

Two kinds, chosen by `places.place_at`: `sqlite.py`, a file in the folder with one coordinator at a time, and `postgres.py`, a
server for several. What a coordinator needs beyond Optuna (who is dead, who trains what) is asked of the place, so that it is one
piece of code for both. Everything else reads and writes through the `optuna.Study`.
"""

from __future__ import annotations

import json
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial

from igcsearch.errors import UsageError
from igcsearch.files import atomic_write

from .config import SearchConfig

DESCRIPTION = "study.json"
SCHEMA = 1
Directions = list[Literal["minimize", "maximize"]]
DATABASE_ERRORS = (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, sqlite3.Error)


class Place(ABC):
    """A study's folder and its database.

    Attributes:
        folder: for all that is no record of the search.
        shared: True if several coordinators may work on the study at once.
        label: what messages call the database; holds no password.
        cure: how to repair it, for messages.
    """

    shared: ClassVar[bool]
    cure: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    @abstractmethod
    def label(self) -> str: ...

    @abstractmethod
    def exists(self) -> bool:
        """True if there is a study already."""

    @abstractmethod
    def held(self) -> AbstractContextManager[None]:
        """Make the folder and keep others away from it where the place is not shared; UsageError where that cannot be."""

    @abstractmethod
    def create(self, directions: Directions, attributes: dict[str, Any]) -> optuna.Study:
        """The new study with its user attributes, whole or not at all. Where another coordinator of a shared place was
        first, that one's."""

    @abstractmethod
    def load(self) -> optuna.Study:
        """The study, also while searches run on it. Raises UsageError: none, or one that cannot be read."""

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """What `study.json` says of the database."""

    @abstractmethod
    def is_running(self, study: optuna.Study) -> bool | None:
        """True if a coordinator works on the study; None if that cannot be known."""

    # ------------------------------------------------------------------ for coordinators

    @abstractmethod
    def enter(self, study: optuna.Study) -> str:
        """A coordinator begins to work on the study. Returns what tells it from others; "" where it is the only one."""

    @abstractmethod
    def beat(self) -> bool:
        """A sign of life, called about every second. True if it is time to look for dead coordinators' candidates."""

    @abstractmethod
    def own(self, trial: optuna.Trial) -> None:
        """Write down that the trial, just asked for, is this coordinator's."""

    @abstractmethod
    def dead(self, trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        """Those of the running trials whose coordinator is dead."""

    @abstractmethod
    def sweeping(self) -> AbstractContextManager[bool]:
        """False inside if another coordinator takes care of the dead at this moment."""

    @abstractmethod
    def claim(self, key: str, holder: int, limit: int) -> int | None:
        """One atomic write: the candidate `holder` (the number of its first trial) is to train the architecture `key`.

        Returns the number of the candidate that has it, this one or an earlier one; None if `limit` candidates are trained or
        under way already.
        """

    @abstractmethod
    def release(self, holder: int, *, forget: bool = False) -> None:
        """A candidate failed: it does not count towards the limit. Its architecture stays claimed, unless to `forget`."""

    @abstractmethod
    def room(self, limit: int) -> bool:
        """True if fewer than `limit` candidates are claimed."""

    @abstractmethod
    def leave(self) -> None:
        """The coordinator has ended."""

    # ------------------------------------------------------------------ the same everywhere

    def describe(self) -> None:
        """Write `study.json`, from which every command finds the database (never a password)."""
        text = json.dumps({"schema": SCHEMA, **self.description()}, indent=1) + "\n"
        target = self.folder / DESCRIPTION
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            atomic_write(target, text)

    def checked(self, study: optuna.Study) -> optuna.Study:
        """The study, made sure to be one of igcsearch that this version can read; call it inside `readable`."""
        attributes = study.user_attrs
        for name in ("igcsearch:config", "igcsearch:schema"):
            if name not in attributes:
                raise UsageError(f"{self.label} is not a study of igcsearch ({name} is missing); give that of a search")
        if (schema := attributes["igcsearch:schema"]) > SCHEMA:
            raise UsageError(
                f"{self.label} has schema {schema}, newer than {SCHEMA}, the newest known here; update igcsearch"
            )
        return study

    def stored_config(self, study: optuna.Study) -> SearchConfig:
        """What the study was asked to do.

        Raises:
            UsageError: a configuration that this version cannot read.
        """
        with self.readable():
            values = study.user_attrs["igcsearch:config"]
        try:
            return SearchConfig.from_dict(values)
        except (UsageError, KeyError, TypeError, AttributeError) as error:
            what = f"{self.label} has a configuration that this igcsearch cannot read ({short(error)})"
            raise UsageError(f"{what}; update igcsearch, or restore it from a copy") from error

    @contextmanager
    def readable(self) -> Iterator[None]:
        """Turn what a damaged or absent database raises, in whatever layer, into one clear error."""
        try:
            yield
        except UsageError:
            raise
        except (
            *DATABASE_ERRORS,
            KeyError,
            json.JSONDecodeError,
            UnicodeDecodeError,
            AssertionError,
            RuntimeError,
        ) as e:
            raise UsageError(f"{self.label} cannot be read as a study ({short(e)}); {self.cure}") from e

    @contextmanager
    def writable(self) -> Iterator[None]:
        """Turn what a full disk or a lost database raises in the middle of a search into one clear error."""
        try:
            yield
        except DATABASE_ERRORS as error:
            cure = "make room or repair it, and go on with --resume"
            raise UsageError(f"{self.label} cannot be written ({short(error)}); {cure}") from error


def close(study: optuna.Study) -> None:
    """Give the database's connections back (SQLite then folds its WAL file into the database)."""
    backend = rdb(study)
    if backend is not None:
        backend.remove_session()
        backend.engine.dispose()


def rdb(study: optuna.Study) -> RDBStorage | None:
    """The database behind a study; None for one in memory."""
    backend = getattr(study._storage, "_backend", study._storage)
    return backend if isinstance(backend, RDBStorage) else None


def short(error: BaseException) -> str:
    """The first line of the innermost cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(getattr(error, "orig", None) or error).strip().splitlines()
    return text[0] if text else type(error).__name__
