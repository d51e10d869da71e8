"""Horizontal bars, two for each thing compared, as SVG: before and after."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

GREY, ORANGE = "#c9c9c9", "#c2571a"
WIDTH, LEFT, RIGHT, TOP, BELOW, ROW = 760, 250, 70, 46, 20, 40


class Bar(NamedTuple):
    """One thing: its name, a line below it, and two lengths, the second None where there is but one."""

    name: str
    note: str
    before: float
    after: float | None


def bars(found: Sequence[Bar], before: str, after: str, unit: str) -> str:
    """The picture, one row a bar, in their order; `before`, `after`: what the grey and the orange ones are."""
    longest = max(max(bar.before, bar.after or 0.0) for bar in found)
    height = TOP + ROW * len(found) + BELOW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        ' font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for at, (colour, said) in enumerate(((GREY, before), (ORANGE, after))):
        x = LEFT + 250 * at
        parts.append(f'<rect x="{x}" y="14" width="12" height="12" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="25" fill="#333">{escape(said)}</text>')
    for row, bar in enumerate(found):
        y = TOP + ROW * row
        parts.append(f'<text x="{LEFT - 10}" y="{y + 13}" text-anchor="end" fill="#222">{escape(bar.name)}</text>')
        parts.append(
            f'<text x="{LEFT - 10}" y="{y + 28}" text-anchor="end" fill="#888" font-size="11">{escape(bar.note)}</text>'
        )
        for at, (length, colour) in enumerate(((bar.before, GREY), (bar.after, ORANGE))):
            if length is None:
                continue
            wide, top = (WIDTH - LEFT - RIGHT) * length / longest, y + 3 + 14 * at
            parts.append(f'<rect x="{LEFT}" y="{top}" width="{wide:.1f}" height="12" fill="{colour}"/>')
            parts.append(
                f'<text x="{LEFT + wide + 6:.1f}" y="{top + 11}" fill="#555" font-size="11">{length:.3g} {escape(unit)}</text>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"
