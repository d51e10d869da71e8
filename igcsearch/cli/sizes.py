"""What people type for counts and times, read into numbers: `20k`, `1.5M`, `90s`, `1h30m`, `5ms`."""

from __future__ import annotations

import re
from decimal import Decimal

from ..errors import UsageError

_FACTORS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000, "b": 1_000_000_000}
_SIZE = re.compile(r"(\d{1,15}(?:_\d{3})*(?:\.\d{1,12})?)\s*([kmgb]?)", re.IGNORECASE)
_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1, "": 1}
_MILLISECONDS = re.compile(r"(\d{1,9}(?:\.\d{1,9})?|\.\d{1,9})\s*([a-zµ]*)", re.IGNORECASE)
_DURATION = re.compile(r"(?:\d{1,9}(?:\.\d{1,6})?[dhms])+|\d{1,9}(?:\.\d{1,6})?", re.IGNORECASE)


def parse_size(text: str, what: str = "size") -> int:
    """A positive whole number written plainly (`20000`, `20_000`) or with k, M or G (`20k`, `1.5M`), in either case.

    Raises:
        UsageError: what cannot be read, is not above 0, or is no whole number.
    """
    cure = "give a whole number of at least 1, such as 30, 20k or 1.5M"
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        if re.fullmatch(r"[-−]\s*[\d.].*", text.strip()):
            raise UsageError(f"{what} {text!r} is negative; {cure}")
        raise UsageError(f"{what} {text!r} cannot be read; {cure}")
    value = Decimal(match[1].replace("_", "")) * _FACTORS[match[2].lower()]
    if value <= 0:
        raise UsageError(f"{what} {text!r} must be above 0; {cure}")
    if value != int(value):
        raise UsageError(f"{what} {text!r} is no whole number; {cure}")
    return int(value)


def parse_duration(text: str, what: str = "duration") -> float:
    """Seconds: `90` or `90s`, `15m`, `1h`, `1h30m`, `2d`.

    Raises:
        UsageError: what cannot be read or is not above 0.
    """
    cure = "give a time such as 90s, 15m, 1h or 1h30m"
    if _DURATION.fullmatch(text.strip()) is None:
        raise UsageError(f"{what} {text!r} cannot be read; {cure}")
    parts = re.findall(r"([\d.]+)([dhms]?)", text.strip().lower())
    units = [unit for _, unit in parts]
    if sorted(set(units), key="dhms".find) != units:
        raise UsageError(f"{what} {text!r} names a unit twice or out of order; {cure}")
    seconds = float(sum(Decimal(number) * _UNITS[unit] for number, unit in parts))
    if seconds <= 0:
        raise UsageError(f"{what} {text!r} must be above 0; {cure}")
    return seconds


def parse_milliseconds(text: str, what: str = "time") -> float:
    """Milliseconds: `5`, `5ms`, `0.5s`.

    Raises:
        UsageError: what cannot be read, another unit, or what is not above 0.
    """
    cure = "give a time such as 5ms or 0.5s; a plain number is milliseconds"
    match = _MILLISECONDS.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{what} {text!r} cannot be read; {cure}")
    unit = match[2].lower()
    if unit not in ("", "ms", "s"):
        raise UsageError(f"{what} {text!r} has the unknown unit {match[2]!r}; {cure}")
    value = float(Decimal(match[1]) * (1000 if unit == "s" else 1))
    if value <= 0:
        raise UsageError(f"{what} {text!r} must be above 0; {cure}")
    return value
