"""A running search as people see it: a live view in a terminal, plain lines in a pipe. Fed with the events of igcsearch.search.

`Tally` keeps what is known so far; the two views only show it. All of it goes to stderr.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from ..search import events
from ..wording import clock, percent, plural, short
from .output import console, say

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live
    from rich.table import Table

_REFRESH = 4  # times a second


@dataclass
class Running:
    """A candidate in training."""

    id: int
    family: str
    params: int
    macs: int
    since: float
    epoch: int = 0
    epochs: int = 0
    accuracy: float | None = None


@dataclass
class Tally:
    """What the events have said so far. `now` is the clock, for tests."""

    now: Callable[[], float] = time.monotonic
    counts: events.Counts = field(default_factory=lambda: events.Counts(trials=0))
    running: dict[int, Running] = field(default_factory=dict)
    known: dict[int, Running] = field(default_factory=dict)
    best: events.Finished | None = None
    estimate: events.Estimate | None = None
    started: events.Started | None = None
    ended: events.Ended | None = None
    measuring: events.Measuring | None = None
    since: float = 0.0
    before: int = 0  # candidates trained in earlier runs

    def take(self, event: events.Event) -> str | None:
        """Note an event; the line that a pipe shows for it, or None."""
        self.counts = event.counts
        match event:
            case events.Started():
                self.started, self.since, self.before = event, self.now(), event.counts.trained
                return self._start_line(event)
            case events.Measuring():
                self.measuring = event
                what = f"{plural(event.of, 'part')} of networks ({event.setting})"
                return None if event.done else f"measuring {what}: {clock(event.limit_seconds)} at most"
            case events.Predicting():
                self.measuring = None
                return f"latency: {event.text}"
            case events.Estimate():
                self.estimate = event
                each = f"{clock(event.candidate_seconds)} a candidate at full length, {1e3 * event.step_seconds:.1f} ms a step"
                return f"estimate: {clock(event.total_seconds)} in all ({each})"
            case events.CandidateStarted():
                running = Running(event.id, event.family, event.params, event.macs, self.now())
                self.running[event.id] = self.known[event.id] = running
            case events.EpochDone():
                if event.id in self.running:
                    running = self.running[event.id]
                    running.epoch, running.epochs, running.accuracy = event.epoch, event.epochs, event.accuracy
            case events.Finished():
                self.best = event if event.best else self.best
                cost = f"{short(event.params)} params, {short(event.macs)} MACs"
                latency = "" if event.latency_ms is None else f", predicted {event.latency_ms:.2f} ms"
                star = "  best so far" if event.best else ""
                return self._done(
                    event.id, f"complete  {percent(event.accuracy)}  {cost}{latency}, {clock(event.seconds)}{star}"
                )
            case events.Stopped():
                return self._done(event.id, f"stopped   {percent(event.accuracy)} after epoch {event.epoch}")
            case events.Failed():
                return self._done(event.id, f"failed    {event.reason}")
            case events.Retried():
                self.running.pop(event.id, None)
                return f"candidate {event.id} goes on (attempt {event.attempt}): {event.reason}"
            case events.Noted():
                return f"candidate {event.id}: {event.text}"
            case events.Ended():
                self.ended = event
                return event.message
            case _:
                pass
        return None

    def remaining(self) -> float | None:
        """Seconds to the end: by the pace of this run once a candidate is done, by the estimate before; None if unknown."""
        elapsed, done = self.now() - self.since, self.counts.trained - self.before
        left = max(self.counts.trials - self.counts.trained, 0)
        if done > 0:
            return elapsed / done * left
        return None if self.estimate is None else max(self.estimate.total_seconds - elapsed, 0.0)

    def summary(self) -> str:
        """Counts and acceptance rate in one line."""
        counts = self.counts
        states = (
            f"{counts.complete} complete, {counts.stopped} stopped, {counts.settled} settled, {counts.failed} failed"
        )
        return f"{states}; {percent(counts.acceptance)} of proposals accepted"

    def close(self) -> None:
        """Print the summary; nothing for a search that was refused before it began."""
        if self.started is not None:
            say(self.summary())

    def _done(self, id: int, what: str) -> str:
        self.running.pop(id, None)
        family = self.known[id].family if id in self.known else ""
        return f"[{self.counts.trained}/{self.counts.trials}] candidate {id:<4} {family:<9} {what}"

    def _start_line(self, event: events.Started) -> str:
        data = event.data
        size = f"{data.get('in_channels')} x {data.get('image_size')} x {data.get('image_size')}"
        images = (
            f"{data.get('train')} / {data.get('validation')} / {data.get('test')} images (train / validation / test)"
        )
        workers = f"{plural(event.workers, 'worker')} of {plural(event.threads, 'thread')}"
        place = f"device {event.device}, {workers}, early stopping: {event.stopping}"
        again = (
            f"\ngoing on: {event.counts.trained} trained before, {event.requeued} unfinished go on from their last epoch"
            if event.resumed
            else ""
        )
        data_line = f"data {data.get('name')}: {images}, {size}, {data.get('num_classes')} classes"
        return f"study folder: {event.out}\n{data_line}\n{place}{again}"


class View(Protocol):
    """Shows a search while it runs; used as a context."""

    tally: Tally

    def __call__(self, event: events.Event) -> None: ...
    def __enter__(self) -> View: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class PlainView:
    """One line for each candidate that is done."""

    def __init__(self) -> None:
        self.tally = Tally()

    def __call__(self, event: events.Event) -> None:
        line = self.tally.take(event)
        if line:
            say(line)

    def __enter__(self) -> PlainView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tally.close()


class LiveView:
    """What runs, the best so far, how far it is and how long it will take; redrawn in place."""

    def __init__(self) -> None:
        from rich.live import Live

        self.tally = Tally()
        self._live: Live = Live(
            get_renderable=self._draw, console=console(stderr=True), refresh_per_second=_REFRESH, transient=True
        )

    def __call__(self, event: events.Event) -> None:
        line = self.tally.take(event)
        if line:  # above what is redrawn, so that it stays
            self._live.console.print(line, markup=False, highlight=False)

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        self.tally.close()

    def _draw(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        tally = self.tally
        if tally.measuring is not None:
            done = f"{tally.measuring.done} of {plural(tally.measuring.of, 'part')}"
            return Text(f"measuring latency: {done} of networks ...", style="dim")
        if tally.started is None:
            return Text("loading the data ...", style="dim")
        left = tally.remaining()
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=max(tally.counts.trials, 1), completed=tally.counts.trained, width=36)
        eta = "" if not left else f"about {clock(left)} left"
        head.add_row(
            bar,
            f"{tally.counts.trained}/{tally.counts.trials} trained",
            eta,
            f"{clock(tally.now() - tally.since)} gone",
        )
        best = tally.best
        best_line = Text("best so far: none yet", style="dim")
        if best is not None:
            cost = f"candidate {best.id}, {short(best.params)} params, {short(best.macs)} MACs"
            best_line = Text.assemble("best so far: ", (percent(best.accuracy), "bold green"), f"  ({cost})")
        return Group(Text(), head, best_line, Text(tally.summary()), self._running())

    def _running(self) -> Table:
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name, side in (
            ("in training", "left"),
            ("family", "left"),
            ("params", "right"),
            ("MACs", "right"),
            ("epoch", "right"),
        ):
            table.add_column(name, justify="right" if side == "right" else "left")
        table.add_column("validation", justify="right")
        table.add_column("time", justify="right")
        for item in sorted(self.tally.running.values(), key=lambda item: item.id):
            epoch = f"{item.epoch}/{item.epochs}" if item.epochs else "starting"
            cells = [str(item.id), item.family, short(item.params), short(item.macs), epoch, percent(item.accuracy)]
            table.add_row(*cells, clock(self.tally.now() - item.since))
        return table


def view() -> View:
    """The live view in a terminal, plain lines elsewhere."""
    return LiveView() if sys.stderr.isatty() else PlainView()
