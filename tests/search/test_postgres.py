"""Studies on a real PostgreSQL server: several coordinators, claims, the dead and their candidates, a server that goes away."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState

from igcsearch.errors import UsageError
from igcsearch.search import open_study, patience, run_search
from igcsearch.search import postgres as module
from igcsearch.search.engines.local import LocalEngine
from igcsearch.search.places import place_at
from igcsearch.search.postgres import PostgresPlace
from igcsearch.search.storage import close
from igcsearch.spec import Budget

PROCESS = Path(__file__).with_name("search_process.py")
pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def log(tmp_path, monkeypatch):
    """A file that gets a line for each epoch trained: hash, epoch, process."""
    path = tmp_path / "log"
    path.touch()
    monkeypatch.setenv("FAKE_LOG", str(path))
    return path


@pytest.fixture
def start(postgres, request):
    """Starts a search on the server in a process of its own; ends what is left of them."""
    started = []

    def run(out, name=request.node.name, **options):
        options = {"storage": postgres.url, "study_name": name, **options}
        command = [sys.executable, str(PROCESS), str(out), json.dumps(options)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def ended(process):
    """Wait for a search; its output."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def check_whole(study, log, trials, epochs=3):
    """As many candidates as were asked for, each network once, none left running or waiting, the front as recomputed."""
    status = study.status()
    assert (status["complete"], status["failed"], status["running"], status["waiting"]) == (trials, 0, 0, 0)
    assert not study.optuna.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))
    candidates = study.candidates(("complete",))
    assert len({c.key for c in candidates}) == trials
    counted = Counter(tuple(line.split()[:2]) for line in log.read_text().splitlines())
    assert {(c.hash, str(epoch)) for c in candidates for epoch in range(1, epochs + 1)} == set(counted)
    return counted


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_two_coordinators_share_a_study(start, postgres, log, tmp_path):
    name = "shared"
    both = [start(tmp_path / "out", name, trials=30, workers=2, epochs=2) for _ in range(2)]
    outputs = [ended(process) for process in both]
    study = open_study(tmp_path / "out")
    counted = check_whole(study, log, 30, epochs=2)
    assert set(counted.values()) == {1}  # nothing was trained twice
    finished = [output.split().count("Finished") for output in outputs]
    assert sum(finished) == 30
    assert min(finished) > 0
    engine = postgres.url
    assert open_study(storage=engine, study=name).status()["complete"] == 30
    assert study.status()["active"] is False  # both have said goodbye


# Both read the points that are left from the study; where they take the same one, the claim decides.
def test_two_coordinators_share_a_grid(start, log, tmp_path, monkeypatch):
    monkeypatch.setenv("FAKE_EPOCH", "0.1")
    grid = {"space": "igcv2_figure3", "sampler": "grid", "trials": 30, "epochs": 2}
    both = [start(tmp_path / "out", "grid", **grid) for _ in range(2)]
    for process in both:
        ended(process)
    counted = check_whole(open_study(tmp_path / "out"), log, 6, epochs=2)
    assert set(counted.values()) == {1}


def test_the_folder_names_the_server_and_no_password(start, tmp_path, log):
    output = ended(start(tmp_path / "out", "described", trials=1, epochs=1))
    text = (tmp_path / "out" / "study.json").read_text()
    described = json.loads(text)
    assert described["study"] == "described"
    assert described["storage"].startswith("postgresql+psycopg://igc@127.0.0.1:")
    assert "sesame" not in text + output
    assert place_at(tmp_path / "out").label.count("sesame") == 0


def test_a_dead_coordinators_candidates_go_on_elsewhere(start, log, tmp_path, monkeypatch):
    monkeypatch.setenv("IGCSEARCH_GRACE_S", "4")
    monkeypatch.setenv("FAKE_EPOCH", "0.4")
    # The same checkpoints: an epoch that was finished is not trained again.
    first = start(tmp_path / "out", "dying", trials=8, workers=2, epochs=4)
    until(lambda: len(log.read_text().splitlines()) >= 3)
    second = start(tmp_path / "out", "dying", trials=8, workers=2, epochs=4)
    until(lambda: len(log.read_text().splitlines()) >= 8)
    first.send_signal(signal.SIGKILL)
    ended(second)
    counted = check_whole(open_study(tmp_path / "out"), log, 8, epochs=4)
    assert max(counted.values()) <= 2  # the epoch under way
    assert sum(count - 1 for count in counted.values()) <= 2  # of two workers


def test_the_server_dies_and_comes_back(start, postgres, log, tmp_path, monkeypatch):
    monkeypatch.setenv("IGCSEARCH_GRACE_S", "10")
    monkeypatch.setenv("FAKE_EPOCH", "0.2")
    both = [start(tmp_path / "out", "outage", trials=10, workers=2, epochs=3) for _ in range(2)]
    until(lambda: len(log.read_text().splitlines()) >= 4)
    postgres.kill()
    time.sleep(12)  # longer than the grace: nobody may be taken for dead because of it
    postgres.restart()
    for process in both:
        ended(process)
    counted = check_whole(open_study(tmp_path / "out"), log, 10)
    assert set(counted.values()) == {1}


# Optuna's cache calls some of the storage's private methods: each must wait for a server that is away, too.
def test_every_call_of_optunas_cache_waits_for_the_server():
    import inspect
    import re

    from optuna.storages import RDBStorage, _cached_storage

    from igcsearch.search.patience import PatientStorage

    called = set(re.findall(r"_backend\.(\w+)", inspect.getsource(_cached_storage)))
    aside = {"delete_study", "record_heartbeat", "get_heartbeat_interval", "get_heartbeat_stale_trial_callback"}
    aside |= {"_get_stale_trial_ids", "_get_best_trial_id"}  # not used here
    assert called > aside
    same = {name for name in called - aside if getattr(PatientStorage, name) is getattr(RDBStorage, name)}
    assert same == set()


def test_nobody_sweeps_while_the_server_is_away(postgres, tmp_path, monkeypatch):
    place = PostgresPlace(tmp_path, postgres.url, "away")
    study = place.create(["maximize"], {"igcsearch:config": {}, "igcsearch:schema": 1})
    monkeypatch.setattr(module, "GRACE_S", 0.0)
    place.enter(study)
    postgres.kill()
    with place.sweeping() as mine:
        assert mine is False
    postgres.restart()
    with place.sweeping() as mine:
        assert mine is True
        other = PostgresPlace(tmp_path, postgres.url, "away")
        other.enter(other.load())
        with other.sweeping() as theirs:
            assert theirs is False


def test_a_candidate_that_was_queued_twice_is_trained_once(postgres, tmp_path, config, fakes):
    def run(trials):
        configured = config(trials=trials)
        engine = LocalEngine(configured, trainer=fakes.TRAINER)
        return run_search(configured, tmp_path, storage=postgres.url, study_name="twice", engine=engine)

    study = run(1)
    (done,) = study.optuna.get_trials()
    left = optuna.trial.create_trial(
        state=TrialState.FAIL,
        user_attrs=done.user_attrs | {"igcsearch:state": "interrupted"},
        params=done.params,
        distributions=done.distributions,
    )
    study.optuna.add_trial(left)
    for _ in range(2):
        user = {"igcsearch:retry_of": 1, "igcsearch:origin": done.number}
        study.optuna.add_trial(
            optuna.trial.create_trial(
                state=TrialState.WAITING, system_attrs={"fixed_params": done.params}, user_attrs=user
            )
        )
    again = run(3)
    hashes = [c.hash for c in again.candidates(("complete",))]
    assert hashes.count(again.candidates()[0].hash) == 2  # the first run, and the one retry
    assert not again.optuna.get_trials(states=(TrialState.WAITING, TrialState.RUNNING))


def test_a_search_that_was_alone_goes_on_where_it_died(start, log, tmp_path, monkeypatch):
    monkeypatch.setenv("IGCSEARCH_GRACE_S", "2")
    monkeypatch.setenv("FAKE_EPOCH", "0.1")
    for _ in range(3):
        process = start(tmp_path / "out", "alone", trials=6, workers=2)
        before = len(log.read_text().splitlines())
        until(lambda before=before: len(log.read_text().splitlines()) >= before + 4)
        process.kill()
        process.communicate()
        time.sleep(2.5)
    ended(start(tmp_path / "out", "alone", trials=6, workers=2))
    check_whole(open_study(tmp_path / "out"), log, 6)


def test_one_network_is_claimed_once(postgres, tmp_path):
    places = [PostgresPlace(tmp_path, postgres.url, "claims") for _ in range(2)]
    made = [place.create(["maximize"], {"igcsearch:config": {}, "igcsearch:schema": 1}) for place in places]
    first, second = [place.enter(study) for place, study in zip(places, made, strict=True)]
    assert first == ""
    assert second  # draws other random numbers
    assert places[0].claim("key", 3, limit=2) == 3
    assert places[1].claim("key", 4, limit=2) == 3
    assert places[0].claim("key", 3, limit=2) == 3  # a retry of the same candidate
    assert places[1].claim("other", 4, limit=2) == 4
    assert not places[0].room(2)
    assert places[0].claim("third", 5, limit=2) is None
    places[1].release(4)  # it failed: another one may take its turn, but not this network
    assert places[0].room(2)
    assert places[0].claim("other", 6, limit=2) == 4
    assert places[0].claim("third", 5, limit=2) == 5
    places[0].release(5, forget=True)  # it died before it was a candidate
    assert places[1].claim("third", 7, limit=2) == 7


def test_a_candidate_that_kills_its_coordinators_is_given_up(postgres, tmp_path, config, fakes, monkeypatch):
    from igcsearch.search import recovery

    monkeypatch.setattr(recovery, "MAX_REVIVALS", 2)
    place = PostgresPlace(tmp_path, postgres.url, "revivals")
    configured = config(trials=2)
    reasons = []
    for _ in range(4):

        class Dies(LocalEngine):
            def run(self, coordinator):
                coordinator.next_job()
                reasons.extend(c.reason for c in open_study(tmp_path).candidates(("failed",)))
                raise SystemExit

        monkeypatch.setattr(module, "GRACE_S", 0.0)
        with pytest.raises(SystemExit):
            run_search(
                configured,
                tmp_path,
                storage=postgres.url,
                study_name="revivals",
                engine=Dies(configured, trainer=fakes.TRAINER),
            )
    assert place.exists()
    assert reasons == ["the search died 3 times while it was trained"]


# A coordinator tells a candidate and then gives its place back; it may be killed between the two.
def test_a_claim_that_was_not_given_back_is_found(postgres, tmp_path, config, fakes, monkeypatch):
    def run(**changes):
        configured = config(trials=2, **changes)
        engine = LocalEngine(configured, trainer=fakes.TRAINER)
        return run_search(configured, tmp_path, storage=postgres.url, study_name="leak", engine=engine)

    with monkeypatch.context() as patch:
        patch.setenv("FAKE_DIVERGE", "")  # every one
        patch.setattr("igcsearch.search.coordinator.MIN_FAILURES", 1)
        assert run().status()["failed"] == 3
    engine = sqlalchemy.create_engine(postgres.url, poolclass=sqlalchemy.pool.NullPool)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("UPDATE igcsearch_claims SET counted = true"))
    assert run().status()["complete"] == 2


def test_right_after_an_outage_nobody_is_taken_for_dead(postgres, tmp_path):
    place = PostgresPlace(tmp_path, postgres.url, "early")
    study = place.create(["maximize"], {"igcsearch:config": {}, "igcsearch:schema": 1})
    postgres.kill()
    postgres.restart()
    place.enter(study)
    with place.sweeping() as mine:
        assert mine is False  # the others may need some seconds to come back
    close(study)


# ---------------------------------------------------------------- bad input


def test_a_password_in_the_query_is_neither_shown_nor_stored(tmp_path):
    place = place_at(tmp_path, "postgresql://me@127.0.0.1/db?password=sesame", "name")
    assert "sesame" not in place.label + json.dumps(place.description())
    with pytest.raises(UsageError) as caught:
        place_at(tmp_path, "postgresql://me:ses@me@host:port/db", "name")
    assert "me@host" not in str(caught.value)


def test_the_folder_of_another_study_is_not_taken_over(postgres, tmp_path, config, fakes):
    configured = config(trials=1)
    run_search(configured, tmp_path, engine=LocalEngine(configured, trainer=fakes.TRAINER))
    with pytest.raises(UsageError, match="holds another study"):
        run_search(configured, tmp_path, storage=postgres.url, study_name="other")
    assert open_study(tmp_path).status()["complete"] == 1


# Whoever may only read looks at a study without leaving a table behind, and where there is none is told so.
def test_reading_needs_no_right_to_create(postgres, tmp_path, config, fakes):
    configured = config(trials=1)
    engine = LocalEngine(configured, trainer=fakes.TRAINER)
    run_search(configured, tmp_path, storage=postgres.url, study_name="seen", engine=engine)
    engine = sqlalchemy.create_engine(postgres.url, poolclass=sqlalchemy.pool.NullPool)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in (
            "CREATE DATABASE bare",
            "CREATE ROLE reader LOGIN PASSWORD 'look'",
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader",
        ):
            connection.execute(sqlalchemy.text(statement))
    reading = sqlalchemy.make_url(postgres.url).set(username="reader", password="look")
    opened = open_study(storage=reading.render_as_string(hide_password=False), study="seen")
    assert opened.status()["complete"] == 1
    bare = sqlalchemy.make_url(postgres.url).set(database="bare").render_as_string(hide_password=False)
    with pytest.raises(UsageError, match="no study was ever made there"):
        open_study(storage=bare, study="seen")
    with sqlalchemy.create_engine(bare, poolclass=sqlalchemy.pool.NullPool).connect() as connection:
        tables = connection.execute(sqlalchemy.text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"))
        assert tables.scalar() == 0


@pytest.mark.parametrize("said", ["fe_sendauth: no password supplied", "FATAL:  password authentication failed"])
def test_a_wrong_password_is_said_at_once(postgres, monkeypatch, said):
    def refuse(*_):  # the server of the tests trusts everybody
        raise sqlalchemy.exc.OperationalError("connect", {}, Exception(f"connection failed: {said}"))

    monkeypatch.setattr(module, "_has_tables", refuse)
    begin = time.monotonic()
    with pytest.raises(UsageError, match=r"password.*PGPASSWORD or ~/\.pgpass"):
        open_study(storage=postgres.url, study="any")
    assert time.monotonic() - begin < module.CONNECT_S / 2


def test_a_start_that_failed_leaves_no_folder(postgres, tmp_path, config):
    with pytest.raises(UsageError, match="smallest"):
        run_search(config(budget=Budget(params=1)), tmp_path / "new", storage=postgres.url, study_name="none")
    assert not (tmp_path / "new").exists()


# What one call waited for a server that is away, the calls that follow it do not wait again.
def test_an_outage_is_waited_for_once(monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE_S", 0.5)

    def away():
        raise sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("gone"))

    for least in (0.5, 0.0):
        begin = time.monotonic()
        with pytest.raises(sqlalchemy.exc.OperationalError):
            patience.patient(away)
        assert least <= time.monotonic() - begin < least + 2
    assert patience.patient(lambda: 1) == 1  # it is back: the next outage is waited for anew
    begin = time.monotonic()
    with pytest.raises(sqlalchemy.exc.OperationalError):
        patience.patient(away)
    assert time.monotonic() - begin >= 0.5
    patience.patient(lambda: 1)


def test_an_unreachable_server_is_one_line_with_no_password(config, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CONNECT_S", 1.0)
    url = "postgresql://me:sesame@127.0.0.1:9/db"
    with pytest.raises(
        UsageError, match=r"cannot reach postgresql\+psycopg://me:\*\*\*@127.0.0.1:9/db .*tried for"
    ) as e:
        run_search(config(), tmp_path / "out", storage=url)
    assert "sesame" not in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://me:sesame@host/db", "is not PostgreSQL"),
        ("sqlite:///study.db", "is not PostgreSQL"),
        ("no url", "is no storage URL"),
        ("me:sesame@host", "is no storage URL"),
        ("postgresql://me:sesame@host:port/db", "is no storage URL"),
    ],
)
def test_another_storage_is_refused(url, message, tmp_path):
    with pytest.raises(UsageError, match=message) as caught:
        place_at(tmp_path, url, "name")
    assert "sesame" not in str(caught.value)


def test_a_storage_needs_a_name_and_a_name_a_storage(postgres):
    with pytest.raises(UsageError, match="give --study"):
        open_study(storage=postgres.url)
    with pytest.raises(UsageError, match="needs --storage"):
        open_study(study="name")


def test_a_study_that_is_not_there_is_refused_with_those_that_are(postgres):
    with pytest.raises(UsageError, match=r"there is no study 'nothing' in .*; studies there: "):
        open_study(storage=postgres.url, study="nothing")


def test_the_same_question_is_the_same_study_and_another_is_refused(postgres, config, fakes, tmp_path):
    def run(configured, out="out", **where):
        engine = LocalEngine(configured, trainer=fakes.TRAINER)
        return run_search(configured, tmp_path / out, storage=postgres.url, engine=engine, **where)

    first = run(config(trials=1))
    again = run(config(trials=2))
    assert again.place.name == first.place.name
    assert again.status()["complete"] == 2
    with pytest.raises(UsageError, match="holds a study with seed 0, not 5"):
        run(config(trials=2, seed=5), study_name=first.place.name)
    other = run(replace(config(trials=1), seed=5), "other")
    assert other.place.name != first.place.name
