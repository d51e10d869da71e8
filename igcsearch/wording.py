"""Numbers put for people to read, in one way everywhere: the command line, cards, tables, the study's page. The lowest floor.

What stands for a missing figure is a dash; text that is read back by programs (JSON, CSV) holds the plain numbers instead.
"""

from __future__ import annotations

from collections.abc import Mapping

DASH = "-"


def percent(fraction: object, deviation: object = None, *, digits: int = 2) -> str:
    """An accuracy or share in per cent, with its deviation where there is one: "98.52 ± 0.11 %"; a dash for no number."""
    if not isinstance(fraction, int | float):
        return DASH
    spread = f" ± {100 * deviation:.{digits}f}" if isinstance(deviation, int | float) else ""
    return f"{100 * fraction:.{digits}f}{spread} %"


def accuracy(mean: float | None, deviation: float | None, seeds: int | None) -> str:
    """An accuracy over seeds as "98.52 ± 0.11 % (3 seeds)"; the deviation only where there are several seeds."""
    if mean is None:
        return "not measured"
    text = percent(mean, deviation if (seeds or 0) > 1 else None)
    return f"{text} ({plural(seeds, 'seed')})" if seeds else text


def count(number: object) -> str:
    """A whole number with its thousands apart; a dash for what is none."""
    return f"{number:,}" if isinstance(number, int) else DASH


def plural(number: object, what: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count(number)} {what}{'' if number == 1 else 's'}"


def short(number: float | None) -> str:
    """A count in few characters: 940, 20k, 11.5k, 1.52M; a dash for None."""
    if number is None:
        return DASH
    for limit, factor, unit in ((999.5, 1, ""), (999_500, 1_000, "k"), (999_500_000, 1_000_000, "M")):
        if number < limit:
            return f"{number / factor:.3g}{unit}"
    return f"{number / 1_000_000_000:.3g}G"


def figure(number: float) -> str:
    """A figure to three digits: 1.24, 58, 3,600; never with an exponent unless it is tiny."""
    return f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"


def min_mean_max(counts: Mapping[str, float]) -> str:
    """Path counts as "1 / 1.24 / 2"."""
    return f"{counts['min']:,} / {figure(counts['mean'])} / {counts['max']:,}"


def clock(seconds: float) -> str:
    """A time in two units at most: 0.4 s, 42 s, 3 min 05 s, 1 h 20 min, 2 d 3 h."""
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3_600} h {whole % 3_600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3_600} h"
