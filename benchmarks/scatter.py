"""A scatter of points on two logarithmic axes, as SVG: shares of time against shares of work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

COLOURS = ("#c2571a", "#1f6fb2", "#8a8a8a", "#3a7d44")
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BELOW = 720, 480, 64, 24, 120, 56


class Point(NamedTuple):
    """Of a series, at (x, y), both above 0; the label shows when pointed at."""

    series: str
    x: float
    y: float
    label: str


def scatter(points: Sequence[Point], x_title: str, y_title: str) -> str:
    """The picture, with lines at y = 1 (as long as what is compared with) and y = x (work saved is time saved)."""
    x_low, x_high = _range([point.x for point in points] + [1.0])
    y_low, y_high = _range([point.y for point in points] + [1.0])

    def across(x: float) -> float:
        return LEFT + (math.log2(x) - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def down(y: float) -> float:
        return TOP + (y_high - math.log2(y)) / (y_high - y_low) * (HEIGHT - TOP - BELOW)

    right, bottom = WIDTH - RIGHT, HEIGHT - BELOW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for power in range(x_low, x_high + 1):
        x = across(2.0**power)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle" fill="#555">{_name(power)}</text>')
    for power in range(y_low, y_high + 1):
        y = down(2.0**power)
        parts.append(f'<line x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#555">{_name(power)}</text>')
    lowest, highest = (2.0**power for power in (max(x_low, y_low), min(x_high, y_high)))
    for x1, y1, x2, y2 in ((2.0**x_low, 1.0, 2.0**x_high, 1.0), (lowest, lowest, highest, highest)):
        ends = f'x1="{across(x1):.1f}" y1="{down(y1):.1f}" x2="{across(x2):.1f}" y2="{down(y2):.1f}"'
        parts.append(f'<line {ends} stroke="#555"/>')
    series = dict(zip(dict.fromkeys(point.series for point in points), COLOURS, strict=False))
    for point in points:
        parts.append(
            f'<circle cx="{across(point.x):.1f}" cy="{down(point.y):.1f}" r="4" fill="{series[point.series]}" '
            f'fill-opacity="0.75"><title>{escape(point.label)}</title></circle>'
        )
    for row, (name, colour) in enumerate(series.items()):
        parts.append(f'<text x="{right + 16}" y="{TOP + 16 + 18 * row}" fill="{colour}">{escape(name)}</text>')
    titles = f"across: {escape(x_title)}; up: {escape(y_title)}"
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 14}" fill="#555">{titles}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _range(values: Sequence[float]) -> tuple[int, int]:
    """Whole powers of two around all values, at least one apart."""
    low, high = math.floor(math.log2(min(values))), math.ceil(math.log2(max(values)))
    return low, max(high, low + 1)


def _name(power: int) -> str:
    return str(2**power) if power >= 0 else f"1/{2**-power}"
