"""A line every ten seconds of what takes long. Floor 6."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..wording import clock, count

Say = Callable[[str], None]
EVERY = 10.0  # seconds


def silent(line: str) -> None:
    """Says nothing."""


class Progress:
    """Says how far something is: nothing where it is done within seconds.

    Args:
        what: is done, for people.
        say: is given the lines.
    """

    def __init__(self, what: str, say: Say = silent) -> None:
        self._what, self._say = what, say
        self._begun = self._said = time.monotonic()

    def at(self, share: float) -> None:
        """So much of it, of 1, is done."""
        now = time.monotonic()
        if now - self._said > EVERY:
            self._said = now
            self._say(f"{self._what}: {count(round(100 * share))} % done, {clock(now - self._begun)}")
