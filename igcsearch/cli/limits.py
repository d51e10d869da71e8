"""What a compression is held to, as the command line has it: limits, counts, gathers. Floor 8."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UsageError
from . import options
from .sizes import parse_size


@dataclass(frozen=True)
class Limit:
    """A limit: a share of the network's own cost, or a number; the other is None."""

    share: float | None
    number: float | None

    def of(self, whole: float) -> float:
        """The limit where the network itself has `whole`."""
        return whole * self.share if self.number is None and self.share is not None else self.number or 0.0


def limit(text: str) -> Limit:
    """ "50%" of what the network has, or a number such as 20M."""
    if (share := _share(text, "20M")) is not None:
        return share
    try:
        return Limit(None, parse_size(str(text).strip(), ""))
    except UsageError:
        raise UsageError(f"{text!r} is no limit; give a whole number such as 20M, or a share such as 50%") from None


def time_limit(text: str) -> Limit:
    """ "50%" of what the network takes, or milliseconds."""
    if (share := _share(text, "4.5")) is not None:
        return share
    return Limit(None, options.milliseconds(text))


def _share(text: str, example: str) -> Limit | None:
    """None where the text is no percentage."""
    given = str(text).strip()
    if not given.endswith("%"):
        return None
    share = options.number(given[:-1]) / 100
    if not 0 < share <= 1:
        raise UsageError(f"{given!r} is no share; give one above 0 % and up to 100 %, or a number such as {example}")
    return Limit(share, None)


def number_from_0(text: str | int) -> int:
    """A whole number of at least 0."""
    given = str(text).strip()
    if given.startswith("-"):
        raise UsageError(f"{given!r} is negative; give a whole number of at least 0")
    return 0 if given == "0" else parse_size(given, "")


def gather_count(text: str) -> int | None:
    """So many gathers; None for all."""
    try:
        return None if text.strip() == "all" else number_from_0(text)
    except UsageError:
        raise UsageError(f"--gathers {text!r}: give a whole number of at least 0, or all") from None
