"""Between Tune and the coordinator, without a cluster: what an idle search does, and what the reports of workers lead to."""

from types import SimpleNamespace

import pytest
import ray
from ray.tune.search import Searcher

from igcsearch.errors import UsageError
from igcsearch.search import events
from igcsearch.search.engines import ray_bridge
from igcsearch.search.engines.ray_bridge import Bridge, Suggest


@pytest.fixture
def bridge(driven, monkeypatch):
    """A bridge over a coordinator without processes: (bridge, driven, stopping, answers)."""
    monkeypatch.setattr(ray_bridge, "_TICK", 0.0)

    def make(room=lambda: 1, answered=False, **changes):
        one, stopping, answers = driven(**changes), [], []
        made = Bridge(
            one.coordinator,
            room=room,
            workers=1,
            stopped=lambda: bool(stopping),
            place={"device": "cpu", "threads": 1},
            answer=(lambda key, go_on: answers.append((key, go_on))) if answered else None,
        )
        return made, one, stopping, answers

    return make


def told(bridge, trial, kind, value=None, notes=()):
    return bridge.told(trial, {"message": (kind, value), "notes": list(notes)})


def record(epoch):
    return {"epoch": epoch, "validation_accuracy": 0.5, "seconds": 0.0}


# The measured trap: with no trial under way, Tune asks for one for 600 s without a turn of its loop.
def test_an_idle_search_ticks_and_can_be_stopped(bridge, monkeypatch):
    made, one, stopping, _ = bridge(room=lambda: 0)
    ticks, suggest = [], Suggest(made)
    monkeypatch.setattr(one.coordinator, "tick", lambda: ticks.append(1))
    assert [suggest.suggest(name) for name in "abc"] == [None] * 3
    assert len(ticks) == 3
    stopping.append(True)
    assert suggest.suggest("d") == Searcher.FINISHED


def test_an_idle_search_without_room_for_minutes_ends(bridge, monkeypatch):
    made, _, _, _ = bridge(room=lambda: 0)
    monkeypatch.setattr(ray_bridge, "_PATIENCE", -1.0)
    assert Suggest(made).suggest("a") == Searcher.FINISHED
    with pytest.raises(UsageError, match="no room for a candidate"):
        raise made.error


def test_an_error_while_idle_ends_the_search(bridge, monkeypatch):
    made, one, _, _ = bridge()

    def tick():
        raise UsageError("no space left; make room")

    monkeypatch.setattr(one.coordinator, "tick", tick)
    assert Suggest(made).suggest("a") == Searcher.FINISHED
    assert str(made.error) == "no space left; make room"
    assert made.end_all()


def test_a_process_that_tune_could_not_use_again_is_noticed_while_idle(bridge):
    made, one, _, _ = bridge()
    made.suggest("a")
    told(made, "a", "ready", {})
    made.turn([SimpleNamespace(trial_id="a", status="ERROR")])
    assert [type(event) for event in one.events][-1] is events.Retried


def test_processes_that_never_start_end_the_search(bridge):
    made, _, _, _ = bridge()
    for name in "ab":
        made.suggest(name)
        made.lost(name)
    made.suggest("c")
    with pytest.raises(UsageError, match="end at their start"):
        made.lost("c")


# A process that is used again says nothing before its first epoch: a node that dies then is no failure to start.
def test_deaths_in_first_epochs_of_used_processes_are_no_failures_to_start(bridge):
    made, one, _, _ = bridge(room=lambda: 4, trials=8)
    made.suggest("a")
    told(made, "a", "ready", {})
    told(made, "a", "timed", 0.1)
    for epoch in (1, 2, 3):
        told(made, "a", "epoch", record(epoch))
    result = {"accuracy": 0.5, "epochs": 3, "curve": [record(epoch) for epoch in (1, 2, 3)], "seconds": 0.0}
    assert told(made, "a", "finished", result)
    for name in "bcde":
        assert isinstance(made.suggest(name), dict)
    for name in "bcde":
        made.lost(name)
    assert sum(isinstance(event, events.Retried) for event in one.events) == 4


def test_a_step_that_was_not_timed_does_not_hold_the_others_up(bridge):
    made, _, _, _ = bridge(room=lambda: 2)
    made.suggest("a")
    told(made, "a", "ready", {})
    assert made.suggest("b") is None
    told(made, "a", "epoch", record(1))
    assert isinstance(made.suggest("b"), dict)


def test_a_group_is_told_of_each_epoch_and_is_never_stopped(bridge):
    made, one, _, answers = bridge(answered=True)
    one.coordinator.report = lambda id, record: False
    made.suggest("a")
    assert told(made, "a", "epoch", record(1)) is False
    assert answers == [("a/1", False)]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (None, "its training process died"),
        (RuntimeError("The actor died because its node has died."), "its node died"),
        (
            RuntimeError("a\nits group ended: ValueError: b"),
            "its training process failed (its group ended: ValueError: b)",
        ),
        (RuntimeError("a process of its group died"), "its training process died"),
    ],
)
def test_why_a_process_ended_is_in_the_folder_of_its_trial(tmp_path, error, reason):
    if error is not None:
        (tmp_path / "error.pkl").write_bytes(ray.cloudpickle.dumps(error))
    assert ray_bridge._reason(SimpleNamespace(pickled_error_file=str(tmp_path / "error.pkl"))) == reason
