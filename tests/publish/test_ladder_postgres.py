"""A ladder whose parent lives on a server: the rungs' studies live there too, under names derived from the parent's."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

import igcsearch.publish.rounds as rounds
from igcsearch.publish.ladder import build_zoo
from igcsearch.publish.rungs import make_ladder
from igcsearch.search import SearchConfig, open_study, run_search
from igcsearch.search.inherit import INHERITED, gather
from igcsearch.search.places import place_at
from igcsearch.spec import Budget
from igcsearch.training import DataSpec

from .ladders import FAKES, PARENT_BUDGET, RECIPE, fake_engine, instant

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A real PostgreSQL server, where its programs are installed."""
    path = Path(__file__).parents[2] / "benchmarks" / "servers.py"
    spec = spec_from_file_location("igcsearch_test_servers_of_ladders", path)
    assert spec is not None
    assert spec.loader is not None
    servers: Any = module_from_spec(spec)
    import sys

    sys.modules[spec.name] = servers
    spec.loader.exec_module(servers)
    if servers.programs() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    with servers.PostgresServer.start() as running:
        yield running


def test_rungs_of_a_study_on_a_server(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "run_jobs", instant)
    log = tmp_path / "log"
    config = SearchConfig(FAKES.SPACE, DataSpec("digits"), Budget(PARENT_BUDGET), RECIPE, trials=6, device="cpu")
    folder, url = tmp_path / "study", server.url
    where = {"storage": url, "study_name": "parent"}
    parent = run_search(config, folder, engine=fake_engine(config, folder), **where)
    options = {"to": tmp_path / "zoo", "seeds": 1, "min_candidates": 3, "engine": fake_engine, "device": "cpu"}
    monkeypatch.setenv("FAKE_LOG", str(log))
    made = build_zoo(parent, make_ladder([5_000, 20_000]), storage=url, **options)
    assert [rung.state for rung in made.rungs] == ["built", "built"], [rung.error for rung in made.rungs]
    small = open_study(storage=url, study="parent-params-5k")
    large = open_study(folder / "zoo" / "params-20k")
    assert large.place.shared
    keys = [{c.key for c in study.candidates(("complete",))} for study in (small, large)]
    assert keys[0] <= keys[1], "the larger rung has all of the smaller one's"
    taken = [trial for trial in large.optuna.get_trials() if INHERITED in trial.user_attrs]
    assert len(taken) == made.rungs[1].inherited > 0
    assert [path.name for path in folder.rglob("study.db")] == []
    # Duplicates of inherited candidates are settled for every coordinator: their architectures are claimed.
    place = place_at(folder / "x", url, "parent-params-20k")
    place.enter(large.optuna)
    for trial in taken:
        assert place.claim(trial.user_attrs["igcsearch:candidate"]["key"], 10**6, 10**6) == trial.number
    place.leave()
    # Again: nothing to do, neither for the ladder nor for what could be inherited.
    log.write_text("")
    again = build_zoo(parent, make_ladder([5_000, 20_000]), storage=url, **options)
    assert [rung.state for rung in again.rungs] == ["kept", "kept"]
    assert not gather([parent, small], Budget(20_000)).missing_in(large).candidates
    assert log.read_text() == ""
    for study in (parent, small, large):
        study.close()
