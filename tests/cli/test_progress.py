"""A search as people see it: what the tally keeps of the events, the lines in a pipe, the live view in a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from igcsearch.cli import progress
from igcsearch.cli.progress import LiveView, PlainView, Tally
from igcsearch.search import events


def story() -> list[events.Event]:
    """A study of 4, one of them trained before."""

    def counts(**numbers: int) -> events.Counts:
        return events.Counts(trials=4, **numbers)

    data = {"name": "digits", "train": 1079, "validation": 359, "test": 359}
    data |= {"image_size": 8, "in_channels": 1, "num_classes": 10}
    begun = counts(complete=1)
    return [
        events.Started(begun, "OUT", True, 1, 2, "cpu", 1, "none", data),
        events.Estimate(begun, 0.01, 20.0, 30.0),
        events.ProposalSettled(counts(complete=1, settled=1), 1, "budget", "over budget"),
        events.CandidateStarted(counts(complete=1, settled=1, running=1), 2, "abcd1234", "igcv2", 11_498, 380_000, 1),
        events.CandidateStarted(counts(complete=1, settled=1, running=2), 3, "abcd1235", "dense", 9_000, 300_000, 1),
        events.EpochDone(counts(complete=1, settled=1, running=2), 2, 1, 5, 0.91, 4.0),
        events.Finished(counts(complete=2, settled=1, running=1), 2, 0.985, 11_498, 380_000, None, 20.0, True),
        events.Retried(counts(complete=2, settled=1, running=1), 3, "its worker died", 2),
        events.Stopped(counts(complete=2, stopped=1, settled=1), 3, 2, 0.4),
        events.Failed(counts(complete=2, stopped=1, settled=1, failed=1), 4, "loss is nan"),
        events.Ended(counts(complete=2, stopped=1, settled=1, failed=1), "timeout", "the time is up"),
    ]


def test_tally_follows_the_events() -> None:
    clock = iter(range(100, 10_000, 10))
    tally = Tally(now=lambda: next(clock))
    told = story()
    for event in told[:6]:
        tally.take(event)
    assert set(tally.running) == {2, 3}
    assert (tally.running[2].epoch, tally.running[2].epochs, tally.running[2].accuracy) == (1, 5, 0.91)
    # Before this run has finished one, the estimate counts; time that has passed is taken off.
    assert 0 <= (tally.remaining() or 0) <= 30
    tally.take(told[6])
    assert set(tally.running) == {3}
    assert tally.best is told[6]
    pace = tally.remaining()
    assert pace is not None
    assert pace > 0
    for event in told[7:]:
        tally.take(event)
    assert tally.running == {}
    assert tally.summary() == "2 complete, 1 stopped, 1 settled, 1 failed; 80.00 % of proposals accepted"
    assert tally.ended is told[-1]


def test_lines_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainView() as view:
        for event in story():
            view(event)
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("[") for line in lines) == 3
    assert any(line.startswith("estimate: 30 s") for line in lines)
    assert any("igcv2" in line and "98.50 %" in line and "best so far" in line for line in lines)
    assert any("loss is nan" in line for line in lines)
    assert any("attempt 2" in line for line in lines)


def test_live_view_in_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        progress, "console", lambda **_: Console(file=screen, force_terminal=True, width=100, height=40)
    )
    told = story()
    with LiveView() as view:
        for event in told[:6]:
            view(event)
        plain = Console(file=io.StringIO(), width=100)
        plain.print(view._draw())
        shown = plain.file.getvalue()  # type: ignore[attr-defined]
        for event in told[6:]:
            view(event)
    for word in ("1/4 trained", "best so far: none yet", "1/5", "91.00 %", "igcv2", "11.5k", "starting", "left"):
        assert word in shown, shown
    # What was found stays on the screen when the view is taken down.
    assert "candidate 2" in screen.getvalue()
    assert "estimate" in screen.getvalue()
    assert "80.00 % of proposals accepted" in capsys.readouterr().err
