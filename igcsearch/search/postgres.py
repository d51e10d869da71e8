"""A study on a PostgreSQL server, for several coordinators at once, on one machine or many.

Beside Optuna's tables stand two of ours. `igcsearch_coordinators`: one row for each living coordinator, with the time of its last
sign of life by the server's clock; one write a few seconds, however many candidates it trains. `igcsearch_claims`: one row for
each architecture that is trained, unique by study and equivalence key, so that two coordinators never train one network.
Whose row is older than the grace period is dead, and its candidates are another one's to go on with. A server that is gone
for a while is waited for; nobody is declared dead before everybody could have given a sign of life again.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy import text

from igcsearch.errors import UsageError

from .candidate import CANDIDATE, OWNER
from .patience import PatientStorage, is_outage, patient
from .storage import DATABASE_ERRORS, DESCRIPTION, Directions, Place, rdb, short

BEAT_S = 5.0  # between signs of life
GRACE_S = float(os.environ.get("IGCSEARCH_GRACE_S", "60"))  # without one: dead
CONNECT_S = 10.0  # for one that does not answer at the start
LOCK_S = 60  # for another that holds a lock of ours
NOBODYS_S = 600.0  # after which a trial that no coordinator called its own is nobody's
DRIVER = "postgresql+psycopg"

_TABLES = (
    """CREATE TABLE IF NOT EXISTS igcsearch_coordinators (
        study_id integer NOT NULL, token text PRIMARY KEY, beat timestamptz NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS igcsearch_claims (
        study_id integer NOT NULL, key text NOT NULL, holder integer NOT NULL, counted boolean NOT NULL DEFAULT true,
        PRIMARY KEY (study_id, key))""",
)


class PostgresPlace(Place):
    """A study by its name on a server; the folder holds what is no record (and may be another one for each coordinator).

    Args:
        folder: see `Place`.
        url: postgresql+psycopg://user:password@host:port/database. A password may as well come from PGPASSWORD or ~/.pgpass.
        name: of the study.

    Raises:
        UsageError: a URL of another kind, or PostgreSQL's driver is not installed.
    """

    shared = True
    cure = "see to the server, or give another storage"

    def __init__(self, folder: Path, url: str, name: str) -> None:
        super().__init__(folder)
        self.name, self._url = name, _parse(url)
        self._token = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._study_id = -1
        self._engine: sqlalchemy.Engine | None = None
        self._opened: list[RDBStorage] = []
        self._pooled = False  # a coordinator keeps its connections; who only reads leaves none behind
        self._beaten = self._steady_since = self._swept = 0.0

    @property
    def label(self) -> str:
        return f"study {self.name!r} in {self._url.render_as_string(hide_password=True)}"

    def exists(self) -> bool:
        storage = self._storage()
        if storage is None:
            return False
        try:
            with self.readable():
                study_id = storage.get_study_id_from_name(self.name)
                return "igcsearch:config" in storage.get_study_user_attrs(study_id)
        except UsageError as error:
            if isinstance(error.__cause__, KeyError):
                return False
            raise
        finally:
            storage.engine.dispose()

    @contextmanager
    def held(self) -> Iterator[None]:
        self._refuse_another()
        made = not self.folder.exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"cannot write to {self.folder}: {error.strerror or error}"
            raise UsageError(f"{what}; give another output folder") from error
        self._pooled = True
        try:
            yield
        finally:
            self._pooled = False
            for storage in self._opened:  # whatever came of them
                storage.engine.dispose()
            self._opened.clear()
            if made:
                with suppress(OSError):  # nothing came of it: it is empty
                    self.folder.rmdir()

    def _refuse_another(self) -> None:
        """The folder of one study is not taken over by another."""
        described: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            described = json.loads((self.folder / DESCRIPTION).read_text(encoding="utf-8"))
        other = (self.folder / "study.db").exists() or described.get("study", self.name) != self.name
        if other or described.get("storage", self.description()["storage"]) != self.description()["storage"]:
            raise UsageError(f"{self.folder} holds another study; give its own folder, or another one")

    def is_running(self, study: optuna.Study) -> bool | None:
        with self.readable(), _engine_of(study).connect() as connection:
            if not _has_tables(connection, "igcsearch_coordinators"):
                return None
            living = connection.execute(
                text(
                    "SELECT count(*) FROM igcsearch_coordinators WHERE study_id = :study "
                    "AND beat > now() - make_interval(secs => :grace)"
                ),
                {"study": study._study_id, "grace": GRACE_S},
            ).scalar_one()
        return bool(living)

    def create(self, directions: Directions, attributes: dict[str, Any]) -> optuna.Study:
        storage = self._storage(new=True)
        assert storage is not None
        try:
            with _locked(storage.engine, f"study {self.name}"):
                with suppress(DuplicatedStudyError):
                    optuna.create_study(storage=storage, study_name=self.name, directions=directions)
                study = optuna.load_study(storage=storage, study_name=self.name)
                if "igcsearch:config" not in study.user_attrs:  # new, or its creation was killed
                    if study.get_trials(deepcopy=False):
                        raise UsageError(f"{self.label} is another program's study; give another name with --study")
                    for name in sorted(attributes, key=lambda name: name == "igcsearch:config"):  # the config last
                        study.set_user_attr(name, attributes[name])
        except DATABASE_ERRORS as error:
            raise UsageError(f"cannot create {self.label}: {short(error)}; {self.cure}") from error
        finally:
            storage.engine.dispose()
        return self.load()

    def load(self) -> optuna.Study:
        self._refuse_another()
        storage = self._storage()
        if storage is None:
            raise UsageError(f"there is no {self.label}; no study was ever made there")
        with self.readable():
            try:
                study = optuna.load_study(study_name=self.name, storage=storage)
            except KeyError:
                names = sorted(storage.get_study_name_from_id(s._study_id) for s in storage.get_all_studies())
                known = ", ".join(names) or "none"
                raise UsageError(f"there is no {self.label}; studies there: {known}") from None
            return self.checked(study)

    def description(self) -> dict[str, Any]:
        url = self._url
        plain = sqlalchemy.URL.create(
            url.drivername, url.username, None, url.host, url.port, url.database, url.normalized_query
        )
        return {"storage": plain.render_as_string(), "study": self.name}

    # ------------------------------------------------------------------ for coordinators

    def enter(self, study: optuna.Study) -> str:
        self._engine, self._study_id = _engine_of(study), study._study_id
        up = float(self._read("SELECT extract(epoch FROM now() - pg_postmaster_start_time())")[0][0])
        # Who was dead before is dead; but after an outage all others get the time to come back.
        self._beaten, self._steady_since = 0.0, time.monotonic() - min(GRACE_S, up)
        with _locked(self._engine, f"enter {self._study_id}"):
            self.beat()
            self._swept = 0.0
            return self._token if self._living() - {self._token} else ""

    def beat(self) -> bool:
        now = time.monotonic()
        if now - self._beaten >= BEAT_S:
            self._write(
                "INSERT INTO igcsearch_coordinators VALUES (:study, :token, now()) "
                "ON CONFLICT (token) DO UPDATE SET beat = now()",
                token=self._token,
            )
            after = time.monotonic()
            if self._beaten and after - self._beaten > GRACE_S / 2:  # this one or the server was away: so may others
                self._steady_since = after
            self._beaten = after
        if now - self._steady_since < GRACE_S or now - self._swept < GRACE_S / 2:
            return False
        self._swept = now
        return True

    def own(self, trial: optuna.Trial) -> None:
        trial.set_user_attr(OWNER, self._token)

    def dead(self, trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        living = self._living()
        return [trial for trial in trials if self._is_dead(trial, living)]

    def _living(self) -> set[str]:
        rows = self._read(
            "SELECT token FROM igcsearch_coordinators WHERE study_id = :study "
            "AND beat > now() - make_interval(secs => :grace)",
            grace=GRACE_S,
        )
        return {row[0] for row in rows}

    def _is_dead(self, trial: FrozenTrial, living: set[str]) -> bool:
        owner = trial.user_attrs.get(OWNER)
        if owner is not None:
            return owner not in living
        if living <= {self._token}:
            return True  # nobody else is there, and this one owns what it asks for before it looks
        began = trial.datetime_start
        return CANDIDATE not in trial.user_attrs and began is not None and time.time() - began.timestamp() > NOBODYS_S

    @contextmanager
    def sweeping(self) -> Iterator[bool]:
        assert self._engine is not None
        number = {"n": _number(f"sweep {self._study_id}")}
        if time.monotonic() - self._steady_since < GRACE_S:
            yield False
            return
        with ExitStack() as stack:
            try:
                connection = stack.enter_context(self._engine.connect())
                mine = bool(connection.execute(text("SELECT pg_try_advisory_lock(:n)"), number).scalar_one())
                connection.commit()
            except DATABASE_ERRORS as error:
                if not is_outage(error):
                    raise
                mine = False  # the server is away: another time
            yield mine
            if mine:
                with suppress(*DATABASE_ERRORS):  # a connection that was lost has given the lock back
                    connection.execute(text("SELECT pg_advisory_unlock(:n)"), number)
                    connection.commit()

    def claim(self, key: str, holder: int, limit: int) -> int | None:
        def once() -> int | None:
            assert self._engine is not None
            with self._engine.begin() as connection:  # one transaction, one claim of this study at a time
                connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _number(f"claim {self._study_id}")})
                values = {"study": self._study_id, "key": key, "holder": holder, "limit": limit}
                found = connection.execute(
                    text("SELECT holder FROM igcsearch_claims WHERE study_id = :study AND key = :key"), values
                ).scalar()
                if found is not None:
                    return int(found)
                written = connection.execute(
                    text(
                        "INSERT INTO igcsearch_claims SELECT :study, :key, :holder, true WHERE "
                        "(SELECT count(*) FROM igcsearch_claims WHERE study_id = :study AND counted) < :limit"
                    ),
                    values,
                )
                return holder if written.rowcount == 1 else None

        return patient(once)

    def release(self, holder: int, *, forget: bool = False) -> None:
        change = "DELETE FROM igcsearch_claims" if forget else "UPDATE igcsearch_claims SET counted = false"
        self._write(f"{change} WHERE study_id = :study AND holder = :holder", holder=holder)

    def room(self, limit: int) -> bool:
        rows = self._read("SELECT count(*) FROM igcsearch_claims WHERE study_id = :study AND counted")
        return int(rows[0][0]) < limit

    def leave(self) -> None:
        if self._engine is not None:
            with suppress(*DATABASE_ERRORS), self._engine.begin() as connection:
                connection.execute(
                    text("DELETE FROM igcsearch_coordinators WHERE token = :token"), {"token": self._token}
                )

    # ------------------------------------------------------------------ the database

    def _storage(self, *, new: bool = False) -> RDBStorage | None:
        """Optuna's storage; None where no study was ever made. Only a `new` study makes tables, Optuna's and ours, so that who
        reads needs no right to.

        Raises:
            UsageError: no answer within CONNECT_S, or one that refuses.
        """
        options = {
            "pool_pre_ping": True,
            "connect_args": {"connect_timeout": int(CONNECT_S), "application_name": "igcsearch"},
        }
        url = self._url.render_as_string(hide_password=False)
        where = self._url.render_as_string(hide_password=True)
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool, **options)
        begin = time.monotonic()
        while True:
            try:
                pool = {} if self._pooled else {"poolclass": sqlalchemy.pool.NullPool}
                if new:
                    with _locked(engine, "igcsearch schema"):
                        storage = PatientStorage(url, engine_kwargs=options | pool)
                        with storage.engine.begin() as connection:
                            for table in _TABLES:
                                connection.execute(text(table))
                else:
                    with engine.connect() as connection:
                        if not _has_tables(connection, "studies", "igcsearch_claims"):
                            return None
                    storage = PatientStorage(url, engine_kwargs=options | pool, skip_table_creation=True)
                if self._pooled:
                    self._opened.append(storage)
                return storage
            except DATABASE_ERRORS as error:
                said, tried = short(error), time.monotonic() - begin
                secret = "password" in said
                waiting = ("FATAL" not in said and not secret) or "starting up" in said
                if is_outage(error) and waiting and tried < CONNECT_S:
                    time.sleep(0.5)
                    continue
                what = f"cannot reach {where}" if is_outage(error) else f"cannot use {where}"
                cure = "give the right password in the URL, PGPASSWORD or ~/.pgpass" if secret else self.cure
                raise UsageError(f"{what} ({said}; tried for {tried:.0f} s); {cure}") from None

    def _write(self, statement: str, **values: Any) -> None:
        def once() -> None:
            assert self._engine is not None
            with self._engine.begin() as connection:
                connection.execute(text(statement), {"study": self._study_id, **values})

        patient(once)

    def _read(self, statement: str, **values: Any) -> list[Any]:
        def once() -> list[Any]:
            assert self._engine is not None
            with self._engine.connect() as connection:
                return list(connection.execute(text(statement), {"study": self._study_id, **values}))

        return patient(once)


@contextmanager
def _locked(engine: sqlalchemy.Engine, what: str) -> Iterator[None]:
    """One process at a time, by the server; the lock goes with the connection."""
    with engine.connect() as connection:
        connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_S}s'"))
        connection.execute(text("SELECT pg_advisory_lock(:n)"), {"n": _number(what)})
        connection.commit()
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:n)"), {"n": _number(what)})
            connection.commit()


def _has_tables(connection: sqlalchemy.Connection, *names: str) -> bool:
    return all(connection.execute(text("SELECT to_regclass(:n)"), {"n": name}).scalar() for name in names)


def _number(what: str) -> int:
    """An advisory lock's number."""
    return zlib.crc32(f"igcsearch {what}".encode())


def _engine_of(study: optuna.Study) -> sqlalchemy.Engine:
    backend = rdb(study)
    assert backend is not None
    return backend.engine


def _parse(url: str) -> sqlalchemy.URL:
    try:
        parsed = sqlalchemy.make_url(url)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        hidden = re.sub(r":(?!//)[^/]*@", ":***@", url)
        raise UsageError(f"{hidden!r} is no storage URL; give {DRIVER}://USER@HOST:PORT/DATABASE") from None
    if parsed.get_backend_name() != "postgresql":
        what = f"storage {parsed.render_as_string(hide_password=True)!r} is not PostgreSQL"
        raise UsageError(f"{what}; give {DRIVER}://USER@HOST:PORT/DATABASE, or no --storage for SQLite in --out")
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise UsageError("PostgreSQL needs its driver: pip install 'igcsearch[postgres]'") from None
    secret = parsed.query.get("password")
    if secret is not None:  # it must not be shown or stored with the rest
        given = secret if isinstance(secret, str) else secret[-1]
        parsed = parsed.set(password=given).difference_update_query(["password"])
    return parsed.set(drivername=DRIVER)
