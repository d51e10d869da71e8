"""`status --watch` beside real searches (fake training): on SQLite and on a server, in a pipe and in a terminal, until the end."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from igcsearch.cli import looks, watch
from igcsearch.errors import UsageError
from igcsearch.search import open_study

ROOT = Path(__file__).parents[2]
SEARCH = ROOT / "tests" / "search" / "search_process.py"
PROGRAM = "from igcsearch.cli import main; main()"
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Any]:
    """A real server, where its programs are installed."""
    spec = spec_from_file_location("igcsearch_test_watch_servers", ROOT / "benchmarks" / "servers.py")
    assert spec is not None
    assert spec.loader is not None
    servers = module_from_spec(spec)
    spec.loader.exec_module(servers)
    if servers.programs() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    with servers.PostgresServer.start() as server:
        yield server


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes; ends what is left of them."""
    started = []

    def run(*command: object, **environment: str) -> subprocess.Popen[str]:
        env = {**os.environ, "FAKE_EPOCH": "0.15", **environment}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": env}
        process = subprocess.Popen([sys.executable, *map(str, command)], **pipes)
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def check_lines(out: str, trials: int) -> list[str]:
    """Each line but the last has a time and counts, no two are alike, counts only rise, and the last says how it ended."""
    *lines, last = out.splitlines()
    assert last == f"no search is running: {trials} of {trials} trained"
    assert all(re.match(r"\d\d:\d\d:\d\d  \d+/\d+ trained; ", line) for line in lines), out
    texts = [line[10:] for line in lines]
    trained = [int(text.split("/")[0]) for text in texts]
    assert trained == sorted(trained)
    assert trained[-1] == trials
    assert len(set(texts)) == len(texts)
    return texts


def test_beside_a_search_in_a_folder(start: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    search = start(SEARCH, out, json.dumps({"trials": 6, "workers": 2}), FAKE_EPOCH="1")
    until(lambda: (out / "study.db").exists())
    seen, said = start("-c", PROGRAM, "status", out, "--watch", "--interval", "0.3s").communicate(timeout=60)
    assert not said
    _, errors = search.communicate(timeout=60)
    assert search.returncode == 0, errors  # it was not disturbed
    texts = check_lines(seen, 6)
    assert any("2 running" in text and "2 x cpu" in text for text in texts)
    assert any("left" in text and re.search(r"[\d,.]+ (an hour|a second)", text) for text in texts)
    assert "best none yet" in texts[0] or "candidate" in texts[0]
    assert open_study(out).status()["complete"] == 6


def test_beside_a_search_on_a_server(start: Callable[..., Any], postgres: Any, tmp_path: Path) -> None:
    options = {"trials": 6, "workers": 2, "storage": postgres.url, "study_name": "watched"}
    search = start(SEARCH, tmp_path / "out", json.dumps(options), FAKE_EPOCH="1")
    until(lambda: (tmp_path / "out" / "study.json").exists())
    arguments = ("--storage", postgres.url, "--study", "watched", "--watch", "--interval", "0.3")
    watcher = start("-c", PROGRAM, "status", *arguments)
    seen, errors = watcher.communicate(timeout=60)
    assert watcher.returncode == 0, errors
    assert search.wait(60) == 0
    texts = check_lines(seen, 6)
    assert any(f"(process {search.pid})" in text for text in texts)
    assert "sesame" not in seen + errors


def test_ctrl_c_ends_it_and_not_the_search(start: Callable[..., Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    search = start(SEARCH, out, json.dumps({"trials": 8, "workers": 1}), FAKE_EPOCH="3")
    until(lambda: (out / "study.db").exists())
    watcher = start("-c", PROGRAM, "status", out, "--watch", "--interval", "0.2")
    assert "trained" in watcher.stdout.readline()
    watcher.send_signal(signal.SIGINT)
    _, errors = watcher.communicate(timeout=30)
    assert watcher.returncode == 130
    assert "Traceback" not in errors
    assert search.poll() is None


@pytest.mark.slow
def test_a_server_that_goes_away_and_comes_back(start: Callable[..., Any], postgres: Any, tmp_path: Path) -> None:
    options = {"trials": 8, "workers": 1, "storage": postgres.url, "study_name": "outage"}
    search = start(SEARCH, tmp_path / "out", json.dumps(options), FAKE_EPOCH="0.3")
    until(lambda: (tmp_path / "out" / "study.json").exists())
    watcher = start("-c", PROGRAM, "status", tmp_path / "out", "--watch", "--interval", "0.2")
    assert "trained" in watcher.stdout.readline()
    postgres.kill()
    time.sleep(1)
    postgres.restart()
    seen, errors = watcher.communicate(timeout=90)
    assert watcher.returncode == 0, errors
    _, errors = search.communicate(timeout=60)
    assert search.returncode == 0, errors
    assert seen.splitlines()[-1] == "no search is running: 8 of 8 trained"
    assert "sesame" not in seen


def test_no_search_is_running(searched: Any, igcsearch: Callable[..., Any]) -> None:
    result = igcsearch("status", searched[0], "--watch")
    assert result.status == 0
    assert len(check_lines(result.out, 3)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--json",), "--watch and --json exclude each other"),
        (("--interval", "0.01"), "--interval 0.01 must be at least 0.2 seconds"),
        (("--interval", "soon"), "'soon' cannot be read"),
    ],
)
def test_bad_input(searched: Any, igcsearch: Callable[..., Any], options: tuple[str, ...], message: str) -> None:
    result = igcsearch("status", searched[0], "--watch", *options)
    assert result.status == 2
    assert message in result.err


def test_the_last_line_says_what_is_left() -> None:
    status = {"trials": 8, "complete": 2, "stopped": 1, "running": 0, "waiting": 2, "active": False, "best": None}
    text = looks.ending(looks.Look(status))
    assert text == "no search is running: 3 of 8 trained, 2 under way go on; resume it to train the rest"
    assert looks.ending(looks.Look(status | {"complete": 7})) == "no search is running: 8 of 8 trained"


def test_pace_counts_overlaps_once_and_leaves_out_pauses() -> None:
    def span(begin: float, end: float) -> tuple[datetime, datetime]:
        zero = datetime(2026, 1, 1)
        return zero + timedelta(seconds=begin), zero + timedelta(seconds=end)

    assert looks.pace([]) is None
    assert looks.pace([span(0, 100), span(0, 100)]) == pytest.approx(2 / 100)
    assert looks.pace([span(0, 100), span(50, 150), span(150, 200)]) == pytest.approx(3 / 200)
    assert looks.pace([span(0, 100), span(10_000, 10_100)]) == pytest.approx(2 / 200)  # resumed hours later
    slow_then_fast = [span(1000 * i, 1000 * (i + 1)) for i in range(40)]
    slow_then_fast += [span(40_000 + 10 * i, 40_000 + 10 * (i + 1)) for i in range(30)]
    assert looks.pace(slow_then_fast) == pytest.approx(1 / 10)  # the latest count


def test_in_a_terminal(searched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100, height=40)
    monkeypatch.setattr(watch, "console", lambda **_: terminal)
    study = open_study(searched[0])
    with watch._Live() as view:
        view.show(looks.look(study))
        view.note("the server is away")
    shown = screen.getvalue()
    for word in ("3/3 trained", "best so far", "in use: nothing", "the server is away"):
        assert word in shown, shown


def test_a_folder_that_breaks_is_an_error_at_once(searched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(study: Any) -> Any:
        raise UsageError("it cannot be read")

    monkeypatch.setattr(looks, "look", broken)
    with pytest.raises(UsageError, match="cannot be read"):
        watch.watch(open_study(searched[0]), 1.0)


def test_ctrl_c_in_the_middle_of_a_look_is_not_lost(searched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, before = [], signal.getsignal(signal.SIGINT)

    def dropping(study: Any) -> Any:
        """A callback whose exceptions nobody sees, as SQLAlchemy has them."""
        looked.append(study)
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise UsageError("the database went away")

    monkeypatch.setattr(looks, "look", dropping)
    with pytest.raises(KeyboardInterrupt):
        watch.watch(open_study(searched[0]), 1.0)
    assert len(looked) == 1
    assert signal.getsignal(signal.SIGINT) is before
