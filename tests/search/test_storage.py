"""The study's folder: created whole, locked while it is searched, clear errors for what cannot be read or written."""

import os
import sqlite3
import subprocess
import sys
import time

import pytest

from igcsearch.errors import UsageError
from igcsearch.search import open_study, run_search
from igcsearch.search.sqlite import SqlitePlace
from igcsearch.search.storage import close

ATTRIBUTES = {"igcsearch:config": {}, "igcsearch:schema": 1}


def test_sqlite_is_in_wal_mode(tmp_path):
    study = SqlitePlace(tmp_path).create(["maximize"], ATTRIBUTES)
    other = sqlite3.connect(tmp_path / "study.db")
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()
    engine = study._storage._backend.engine
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1  # NORMAL
    close(study)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.db"]


# Folder names with characters that mean something in a URL.
@pytest.mark.parametrize("name", ["plain", "sp ace", "q?a=b", "per%20cent", "ünï#cöde"])
def test_any_folder_name_will_do(tmp_path, name):
    folder = tmp_path / name
    with SqlitePlace(folder).held():
        close(SqlitePlace(folder).create(["maximize"], ATTRIBUTES))
        SqlitePlace(folder).describe()
    study = SqlitePlace(folder).load()
    assert study.user_attrs == ATTRIBUTES
    close(study)
    assert {path.name for path in folder.iterdir()} <= {"study.db", "study.json", "study.lock"}


def test_a_creation_that_was_killed_leaves_no_study(tmp_path):
    (tmp_path / "study.db.new").write_bytes(b"half a database")
    (tmp_path / "study.db.new-journal").write_bytes(b"x")
    assert not SqlitePlace(tmp_path).exists()
    close(SqlitePlace(tmp_path).create(["maximize"], ATTRIBUTES))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.db"]


def test_the_lock_dies_with_its_process(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom igcsearch.search.sqlite import SqlitePlace\n"
        "with SqlitePlace(Path(sys.argv[1])).held():\n    print('held', flush=True)\n    time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    assert SqlitePlace(tmp_path).is_running() is True
    begin = time.monotonic()
    with pytest.raises(UsageError, match="another search is running"), SqlitePlace(tmp_path).held():
        pass
    assert time.monotonic() - begin < 10
    process.kill()
    process.communicate()
    with SqlitePlace(tmp_path).held():
        pass


def test_a_folder_made_for_nothing_is_taken_away(tmp_path):
    with pytest.raises(RuntimeError), SqlitePlace(tmp_path / "a" / "out").held():
        raise RuntimeError
    assert not (tmp_path / "a" / "out").exists()


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "out", "/proc/igcsearch"):
        with (
            pytest.raises(UsageError, match=r"cannot write to .*; give another output folder"),
            SqlitePlace(type(tmp_path)(folder)).held(),
        ):
            pass


@pytest.fixture
def database(tmp_path):
    study = SqlitePlace(tmp_path).create(["maximize"], {**ATTRIBUTES, "igcsearch:data": {}, "igcsearch:plan": {}})
    for _ in range(30):
        trial = study.ask()
        trial.suggest_float("x", 0, 1)
        study.tell(trial, 0.5)
    close(study)
    return tmp_path / "study.db"


def damage(database, kind):
    content = bytearray(database.read_bytes())
    if kind == "no database":
        content = b"this is text" * 100
    elif kind == "empty":
        content = b""
    elif kind == "cut":
        content = content[: len(content) // 2]
    elif kind == "overwritten":
        content[8192 : len(content) : 3] = bytes(len(range(8192, len(content), 3)))
    database.write_bytes(bytes(content))


@pytest.mark.parametrize("kind", ["no database", "empty", "cut", "overwritten"])
def test_a_damaged_database_is_one_clear_error(database, kind):
    damage(database, kind)
    for call in (lambda folder: SqlitePlace(folder).load(), open_study):
        with pytest.raises(UsageError, match=r"study.db cannot be read as a study \(.+\); restore it") as caught:
            call(database.parent)
        assert "\n" not in str(caught.value)


def test_a_database_of_something_else_is_an_error(tmp_path):
    import optuna

    optuna.create_study(storage=f"sqlite:///{tmp_path / 'study.db'}", study_name="other")
    with pytest.raises(UsageError, match="cannot be read as a study"):
        open_study(tmp_path)


def test_no_study_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="holds no study"):
        open_study(tmp_path)
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(UsageError, match="is missing beside"):
        open_study(tmp_path)


def test_a_newer_schema_is_refused(tmp_path):
    study = SqlitePlace(tmp_path).create(["maximize"], ATTRIBUTES)
    study.set_user_attr("igcsearch:schema", 99)
    close(study)
    with pytest.raises(UsageError, match="schema 99, newer than 1"):
        open_study(tmp_path)


# One line that says what to do, for what a newer version may have put in: entries and values that are not known here.
@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"colour": 1}, "unknown entry 'colour'"),
        ({"sampler": "quantum"}, "unknown sampler 'quantum'"),
        ({"budget": {"joules": 1}}, "joules"),
        ({"recipe": {"joy": 1}}, "unknown entry 'joy'"),
        ({"data": None}, "NoneType"),
    ],
)
def test_a_configuration_of_a_newer_version_is_one_clear_line(tmp_path, config, change, what):
    stored = config().to_dict() | change
    close(SqlitePlace(tmp_path).create(["maximize"], {**ATTRIBUTES, "igcsearch:config": stored}))
    for call in (open_study, lambda folder: run_search(config(), folder, resume=True)):
        with pytest.raises(UsageError, match=f"study.db has a configuration .*{what}.*update igcsearch") as caught:
            call(tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_study_that_cannot_be_written_can_be_read(database):
    database.chmod(0o444)
    database.parent.chmod(0o555)
    try:
        assert len(SqlitePlace(database.parent).load().trials) == 30
    finally:
        database.parent.chmod(0o755)
