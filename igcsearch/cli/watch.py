"""`igcsearch status --watch`: a study looked at again and again while searches work on it, until none does any more.

It works beside a search on any engine and from any machine that reaches the database (looks.py), and changes nothing there. In a
terminal the view is redrawn in place, in a pipe each change is a line.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..wording import DASH, clock, count, percent, short
from . import looks
from .looks import Look
from .output import console

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from ..search import Study

_PATIENCE = 120.0  # seconds that a database server may be away
_SHOWN = 16  # candidates in training that the view has room for


def watch(study: Study, interval: float, pause: Callable[[float], None] = time.sleep) -> None:
    """Show the study until no search works on it, or Ctrl-C (KeyboardInterrupt). Always shows it once.

    Args:
        interval: seconds between looks.
        pause: waits so long; for tests.

    Raises:
        UsageError: the database cannot be read; one on a server may be away for two minutes.
    """
    view: _Plain | _Live = _Live() if sys.stdout.isatty() else _Plain()
    with view:
        failing: float | None = None
        while True:
            try:
                with _unbroken():
                    found = looks.look(study)
            except UsageError as error:
                failing = time.monotonic() if failing is None else failing
                if not study.place.shared or time.monotonic() - failing > _PATIENCE:
                    raise
                view.note(f"{error}; trying again")
            else:
                failing = None
                view.show(found)
                if found.ended:
                    break
            pause(interval)
    print(looks.ending(found))


@contextmanager
def _unbroken() -> Iterator[None]:
    """Ctrl-C waits until the end; a second one does not.

    Raised in the middle of a look it gets lost now and then (26 of 3,000 times): in a weak reference's callback of
    SQLAlchemy, whose exceptions Python drops.
    """
    usual, pressed = signal.getsignal(signal.SIGINT), list[int]()

    def note(number: int, frame: FrameType | None) -> None:
        pressed.append(number)
        if len(pressed) > 1 and callable(usual):
            usual(number, frame)

    if not callable(usual) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if pressed:
            signal.raise_signal(signal.SIGINT)


class _Plain:
    """One line for each change, with the time of day."""

    def __init__(self) -> None:
        self._before: Any = None
        self._line = ""

    def show(self, found: Look) -> None:
        line = looks.line(found)
        if found.changes != self._before and line != self._line:  # what changed may not be in the line
            self._before, self._line = found.changes, line
            self._say(line)

    def note(self, text: str) -> None:
        if text != self._before:
            self._before = text
            self._say(text)

    def _say(self, text: str) -> None:
        print(f"{datetime.now():%H:%M:%S}  {text}", flush=True)

    def __enter__(self) -> _Plain:
        return self

    def __exit__(self, *error: object) -> None: ...


class _Live:
    """Redrawn in place; the last view stays."""

    def __init__(self) -> None:
        from rich.live import Live

        self._found: Look | None = None
        self._note = ""
        self._live = Live(get_renderable=self._draw, console=console(), auto_refresh=False)

    def show(self, found: Look) -> None:
        self._found, self._note = found, ""
        self._live.refresh()

    def note(self, text: str) -> None:
        self._note = text
        self._live.refresh()

    def __enter__(self) -> _Live:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def _draw(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        parts: list[RenderableType] = [] if self._found is None else drawn(self._found)
        return Group(*parts, *([Text(self._note, style="yellow")] if self._note else []))


def drawn(found: Look) -> list[RenderableType]:
    """A look for a terminal."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    status, left = found.status, found.left_s
    head = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=max(status["trials"], 1), completed=found.trained, width=36)
    pace = DASH if found.pace is None else looks.rate(found.pace)
    head.add_row(bar, f"{found.trained}/{status['trials']} trained", pace, f"about {clock(left)} left" if left else "")
    names = ("complete", "stopped", "failed", "settled", "running", "waiting")
    states = Text(", ".join(f"{count(status[name])} {name}" for name in names))
    best = Text.assemble("best so far: ", (looks.best(found), "bold green" if status["best"] else "dim"))
    devices = Text(f"in use: {looks.devices(found) if found.devices else 'nothing'}")
    return [head, states, best, devices, *([_table(found)] if found.running else [])]


def _table(found: Look) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("in training", "family", ">params", ">MACs", ">epochs", ">validation", ">for"):
        table.add_column(name.lstrip(">"), justify="right" if name[0] == ">" else "left")
    for candidate, seconds in found.running[:_SHOWN]:
        cells = [str(candidate.id), candidate.family, short(candidate.params), short(candidate.macs)]
        # Only the single objective accuracy is reported to the storage epoch by epoch.
        cells += [
            str(candidate.epochs or DASH),
            percent(candidate.accuracy),
            DASH if seconds is None else clock(seconds),
        ]
        table.add_row(*cells)
    if len(found.running) > _SHOWN:
        table.add_row("...", f"{len(found.running) - _SHOWN} more")
    return table
