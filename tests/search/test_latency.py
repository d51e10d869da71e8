"""Predicted latency: sums over parts, the fit for what was not measured, the measuring before a search, the study's table."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import igcsearch.search.run as run_module
from igcsearch.errors import UsageError
from igcsearch.nn import build, measure, plans
from igcsearch.search import measuring, open_study, run_search
from igcsearch.search.config import SearchConfig, check_same_question, question_name
from igcsearch.search.engines.local import LocalEngine
from igcsearch.search.events import Measuring, Predicting
from igcsearch.search.latency import TABLE, LatencySetting, LatencyTable, make_table, stored_table
from igcsearch.search.measuring import Meter, measure_table
from igcsearch.search_spaces import get_space
from igcsearch.spec import Budget, Problem
from igcsearch.spec.parts import FEATURES, parts

PROBLEM = Problem(8, 1, 10, Budget(params=20_000))


@pytest.fixture
def networks():
    """Random networks of a real space."""
    rng = random.Random(3)
    return measuring._proposals(get_space("digits"), PROBLEM, rng, 30)


def truth(part):
    """Milliseconds that a made-up machine takes: twice as slow in the second format."""
    values = dict(zip(FEATURES, part.features(1), strict=True))
    macs = sum(value for name, value in values.items() if name.endswith("macs"))
    first = 0.01 + 1e-6 * macs + 0.002 * values["shortcuts"]
    return first, 2 * first


class FakeMeter:
    """Speaks for Meter: what parts take, and whole networks half a millisecond more."""

    label = "fake"

    def __init__(self, setting, log=None):
        self.log = [] if log is None else log

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.log.append("end")

    def part(self, part):
        self.log.append(part.key)
        return truth(part)

    def network(self, architecture):
        self.log.append(architecture.hash)
        return {"median_ms": sum(truth(part)[0] for part in parts(architecture)) + 0.5, "device": "toy", "torch": "0"}


def fake_table(problem=PROBLEM, **changes):
    how = {"seed": 0, "limit_s": 60.0, "meter": FakeMeter} | changes
    return measure_table(get_space("digits"), problem, LatencySetting(), **how)


# ---------------------------------------------------------------- parts and prediction


def test_the_parts_are_the_whole_network(networks):
    for network in networks:
        names = [part.key for part in parts(network)]
        assert len(names) == len(list(network.blocks())) + 1 + bool(network.head.steps)
        macs = sum(
            value
            for part in parts(network)
            for name, value in zip(FEATURES, part.features(1), strict=True)
            if name.endswith("macs")
        )
        assert macs == network.macs


# Rule: the prediction is the sum over the parts in the better of both formats, and what a network takes beyond them.
def test_a_prediction_is_the_sum_of_its_parts(networks):
    for network in networks:
        rng = random.Random(network.hash)
        times = [(part, (rng.random(), rng.random())) for part in {p.key: p for p in parts(network)}.values()]
        table = replace(make_table(LatencySetting(), times), beyond_ms=0.25)
        known = {part.key: ms for part, ms in times}
        sums = [sum(known[part.key][form] for part in parts(network)) for form in (0, 1)]
        assert table.predict(network) == pytest.approx(min(sums) + 0.25, rel=1e-4)


# Rule: a part that was not measured is predicted by the fit, never below zero; where the machine is linear, the fit is exact.
def test_parts_never_seen_are_predicted_by_the_fit(networks):
    seen, unseen = networks[:24], networks[24:]
    measured = {part.key: part for network in seen for part in parts(network)}
    table = make_table(LatencySetting(), [(part, truth(part)) for part in measured.values()])
    new = [part for network in unseen for part in parts(network) if part.key not in measured]
    assert new
    assert all(coefficient >= 0 for fit in table.fits for coefficient in fit)
    for part in new:
        assert table.part(part) == pytest.approx(truth(part), rel=0.05)


def test_a_table_survives_json():
    table = fake_table()
    assert LatencyTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table


# ---------------------------------------------------------------- measuring


def test_the_prediction_is_held_against_networks_that_had_no_share(networks):
    table = fake_table()
    assert len(table.checks) == measuring.CHECKED
    assert max(table.errors) < 0.05  # the toy machine is linear, and its half millisecond is in the table
    assert table.beyond_ms == pytest.approx(0.5, rel=1e-3)
    assert f"on {measuring.CHECKED} whole networks off by" in table.words


def test_measuring_is_bounded_in_time_and_begins_with_what_is_frequent():
    now, log, told = [0.0], [], []

    class Slow(FakeMeter):
        def part(self, part):
            now[0] += 1.0
            return super().part(part)

    table = fake_table(limit_s=60.0, meter=lambda setting: Slow(setting, log), clock=lambda: now[0], tell=told.append)
    assert 0.5 * 60 < len(table.times) <= 60
    assert now[0] <= 61
    assert told[0].done == 0
    assert told[-1].of > len(table.times)
    whole = fake_table()
    assert set(table.times) < set(whole.times)


def test_measuring_ends_when_the_user_stops_it():
    log = []
    with pytest.raises(KeyboardInterrupt):
        fake_table(meter=lambda setting: FakeMeter(setting, log), stopped=lambda: len(log) > 5)
    assert log[-1] == "end"
    assert len(log) < 10


def test_a_budget_that_no_network_can_meet_is_refused_after_one_measurement():
    log = []
    with pytest.raises(
        UsageError, match=r"no architecture is within 0.1 ms: the smallest network .*cpu, batch 1, 1 thread"
    ):
        fake_table(replace(PROBLEM, budget=Budget(latency_ms=0.1)), meter=lambda setting: FakeMeter(setting, log))
    assert len(log) == 2


def test_a_gpu_that_is_not_there_is_refused(monkeypatch, config, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = config(budget=Budget(latency_ms=5), latency_device="cuda")
    with pytest.raises(UsageError, match=r"latency device 'cuda': torch sees no GPU .* --latency-device cpu"):
        run_search(asked, tmp_path / "out", engine=SimpleNamespace(close=lambda: None))
    assert not (tmp_path / "out").exists()


def test_real_times_of_real_parts(monkeypatch, tmp_path, networks):
    monkeypatch.setattr(plans, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(plans, "QUIET", math.inf)
    threads = torch.get_num_threads()
    with Meter(LatencySetting(threads=2, batch=3)) as meter:
        assert torch.get_num_threads() == 2
        found = [meter.part(part) for part in parts(networks[0])]
        whole = meter.network(networks[0])
    assert torch.get_num_threads() == threads
    assert all(0 < ms < 1000 for both in found for ms in both)
    assert (whole["batch"], whole["threads"], whole["execution"]) == (3, 2, "optimized")
    assert len(list(tmp_path.iterdir())) == 1  # one cache, which optimize_for_inference shares
    monkeypatch.setattr(plans, "block_ms", None)
    torch.set_num_threads(2)
    try:
        build(networks[0], seed=0).eval().optimize_for_inference(torch.zeros(3, 1, 8, 8))
        with Meter(LatencySetting(threads=2, batch=3)) as again:
            assert [again.part(part) for part in parts(networks[0])] == found
    finally:
        torch.set_num_threads(threads)


# Rule: an optimized network is timed in the memory format that it was optimized for.
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_network_is_timed_as_it_will_run(channels_last):
    coloured = get_space("digits").smallest(Problem(8, 3, 10))  # one channel has no format
    ready = build(coloured, seed=0).eval().optimize_for_inference(measure=False)
    ready.channels_last = channels_last
    seen = []
    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: (
            seen.append(inputs[0].is_contiguous()) if type(module).__name__ == "PlannedBlock" else None
        )
    )
    try:
        measure.latency(ready, runs=1, batch=2)
    finally:
        handle.remove()
    assert seen[0] is not channels_last


# ---------------------------------------------------------------- the study's table


def local(config, tmp_path, monkeypatch, fakes, *, resume=False, table=None, **changes):
    """A search with real worker processes; (study, events, engine)."""
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    asked = config(**{"budget": Budget(latency_ms=0.4), "workers": 2, "trials": 3} | changes)
    engine, seen = LocalEngine(asked, trainer=fakes.TRAINER), []
    study = run_search(asked, tmp_path / "out", engine=engine, on_event=seen.append, resume=resume, table=table)
    return study, seen, engine


# Rule: measured before anything is trained, with every worker idle; the table is the study's, and a resumed run measures nothing.
def test_a_search_measures_first_and_a_resumed_one_not_at_all(config, tmp_path, monkeypatch, fakes):
    def measured(space, problem, setting, *, stopped, tell, **how):
        [worker] = engines[0]._workers  # the others would be loading their data
        assert worker.facts is not None
        assert worker.job is None
        assert not (tmp_path / "log").exists()
        tell(measuring.Progress(setting, 0, 0, 60.0))
        return fakes.macs_table(setting)

    engines = []
    start = LocalEngine.start
    monkeypatch.setattr(LocalEngine, "start", lambda self: (engines.append(self), start(self))[1])
    monkeypatch.setattr(run_module, "measure_table", measured)
    study, seen, _ = local(config, tmp_path, monkeypatch, fakes)
    assert isinstance(seen[0], Measuring)
    assert isinstance(seen[1], Predicting)
    assert study.latency == fakes.macs_table()
    found = study.candidates()
    assert all(c.latency_ms == pytest.approx(c.macs / 1e6) for c in found)
    assert all((c.latency_ms <= 0.4) == (c.state == "complete") for c in found)
    trained = {line.split()[0] for line in (tmp_path / "log").read_text().splitlines()}
    assert trained == {c.hash for c in found if c.state == "complete"}

    monkeypatch.setattr(run_module, "measure_table", None)
    again, seen, _ = local(config, tmp_path, monkeypatch, fakes, resume=True, trials=4)
    assert len(again.candidates(("complete",))) == 4
    assert again.latency == study.latency
    assert [type(event) for event in seen if isinstance(event, Measuring | Predicting)] == [Predicting]


# Rule: a study of the time when workers measured has no table, loads, and gets one when it is resumed.
def test_an_old_study_loads_and_gets_a_table_when_it_is_resumed(config, tmp_path, monkeypatch, fakes):
    study, _, _ = local(config, tmp_path, monkeypatch, fakes, table=fakes.macs_table())
    values = study.optuna.user_attrs["igcsearch:config"]
    old = {name: value for name, value in values.items() if not name.startswith("latency_")}
    study.optuna.set_user_attr("igcsearch:config", old)
    study.close()
    import sqlite3

    with sqlite3.connect(tmp_path / "out" / "study.db") as database:
        database.execute("DELETE FROM study_user_attributes WHERE key = ?", (TABLE,))
    database.close()
    opened = open_study(tmp_path / "out")
    assert opened.latency is None
    assert opened.config.latency == LatencySetting()
    assert len(opened.front()) > 0
    opened.close()
    monkeypatch.setattr(run_module, "measure_table", lambda *asked, **how: fakes.macs_table())
    again, _, _ = local(config, tmp_path, monkeypatch, fakes, resume=True, trials=4)
    assert again.latency == fakes.macs_table()


# ---------------------------------------------------------------- the question


def test_where_latency_is_meant_is_part_of_the_question(config):
    one = config(budget=Budget(latency_ms=5))
    for name, value in (("latency_device", "cuda"), ("latency_batch", 8), ("latency_threads", 2)):
        other = replace(one, **{name: value})
        with pytest.raises(UsageError, match=f"{name.removeprefix('latency_')} = .*--latency-device, --latency-batch"):
            check_same_question(one, other, "out")
        assert question_name(one) != question_name(other)
    check_same_question(one, replace(one, latency_measure_s=1.0), "out")
    stored = {name: value for name, value in one.to_dict().items() if not name.startswith("latency_")}
    assert SearchConfig.from_dict(stored) == one


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latency_device": "gpu"}, "unknown latency device 'gpu'.*cpu, cuda"),
        ({"latency_batch": 0}, "latency_batch = 0"),
        ({"latency_threads": 0}, "latency_threads = 0"),
        ({"latency_measure_s": 0}, "latency_measure_s = 0 must be more than 0"),
        ({"latency_threads": 2, "budget": Budget()}, "latency_threads = 2 needs a latency to look at.*--max-latency"),
    ],
)
def test_bad_settings_are_refused(config, changes, message):
    with pytest.raises(UsageError, match=message):
        config(**{"budget": Budget(latency_ms=5)} | changes)


# Rule: a table of other features predicts nothing for new parts, so it is none; one that is far off says so.
def test_tables_that_cannot_be_relied_on():
    table = fake_table(PROBLEM)
    stored = table.to_dict()
    assert stored_table({TABLE: stored}) == LatencyTable.from_dict(stored)
    assert stored_table({TABLE: {**stored, "features": ["another"]}}) is None
    assert stored_table({}) is None
    assert "too much to rely on" not in replace(table, checks=((1.0, 1.1),)).words
    assert "too much to rely on: measure again on a quiet machine" in replace(table, checks=((1.0, 2.0),)).words
